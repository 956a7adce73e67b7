"""The whole pass over real files: spans, stills, motion and facts together, and over everything that can go wrong."""

import itertools
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from curate.clip import Unit, Video
from curate.observers.motion import FlowMotion
from curate.observers.shots import Shots
from curate.observers.stills import Stills
from curate.parts import Parts
from curate.stages.pictures import decode
from curate.video.units import plan
from curate.watching.facts import FILE_COLUMNS
from curate.watching.rereading import captioner_frames
from curate.watching.watch import watch
from tests.bad_inputs import PASS, Expectation, make_bad_inputs, picture

CLIP_COLUMNS = (*FlowMotion.columns, *Stills.columns)
VIDEO_COLUMNS = (*FILE_COLUMNS, *Parts().facts)
CUT = 40


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    """100 frames at 25 fps: a texture, a hard cut at frame 40 to its negative."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "18", "g": "25", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for i in range(100):
            image = picture(i, 320, 180) // 2
            image = image if i < CUT else np.ascontiguousarray(255 - image[::-1])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return str(path)


def passed(path: str, **changed) -> Unit:
    (unit,) = plan(Video(path))
    return watch(unit, **{**PASS, **changed})


def test_a_unit_comes_back_with_clips_scores_and_facts(film):
    unit = passed(film)
    assert unit.status == "ok" and unit.warnings == []
    assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, CUT), (CUT, 100)]
    assert unit.clips[0].end_time == unit.clips[1].start_time == pytest.approx(CUT / 25)
    assert unit.clips[1].end_time == pytest.approx(4.0)
    assert unit.facts["frames_decoded"] == unit.facts["frames_in_file"] == unit.facts["frames_claimed"] == 100
    assert unit.facts["keyframes"][0] == 0 and len(unit.facts["keyframes"]) >= 4
    assert unit.facts["transitions"] == [{"start": CUT / 25, "end": CUT / 25, "kind": "cut"}]
    assert not unit.facts["variable_frame_rate"]
    assert unit.facts["motion_times"] == pytest.approx([0.48, 1, 1.48, 2, 2.48, 3, 3.48])
    assert unit.seconds["decode"] > 0
    for clip in unit.clips:
        assert set(clip.values) == {column.name for column in CLIP_COLUMNS} and not clip.errors
        assert decode(clip.values["still_first"]).shape == (180, 320, 3)
    assert unit.clips[0].values["still_times"][2] == (CUT - 1) / 25
    assert unit.clips[1].values["still_times"][0] == CUT / 25


def test_footage_that_is_cut_already_stays_whole(film):
    unit = passed(film, observers={**PASS["observers"], "shots": {"detector": "whole"}})
    assert [(c.start_frame, c.end_frame, c.shot_end_time) for c in unit.clips] == [(0, 100, pytest.approx(4.0))]
    assert unit.facts["transitions"] == [] and unit.clips[0].values["still_times"][2] == 99 / 25


def test_facts_and_scores_fit_their_columns(film):
    import pyarrow as pa

    unit = passed(film)
    row = {column.name: unit.facts[column.name] for column in VIDEO_COLUMNS}
    assert pa.Table.from_pylist([row], schema=pa.schema([c.field() for c in VIDEO_COLUMNS])).num_rows == 1
    schema = pa.schema([c.field() for c in CLIP_COLUMNS])
    assert pa.Table.from_pylist([clip.values for clip in unit.clips], schema=schema).num_rows == 2
    assert all(column.formula for column in (*VIDEO_COLUMNS, *CLIP_COLUMNS))


def test_only_what_is_asked_for_is_measured(film):
    unit = passed(film, observers={"shots": {}})
    assert len(unit.clips) == 2 and all(not clip.values for clip in unit.clips)


def test_a_film_in_units_gives_frames_of_the_whole_file(film):
    units = [watch(unit, **PASS) for unit in plan(Video(film), unit_seconds=1.5)]
    assert len(units) > 1
    assert sum(unit.facts["frames_in_file"] for unit in units) == 100
    assert units[0].clips[0].start_frame == 0 and units[-1].clips[-1].end_frame == 100
    for one, other in itertools.pairwise(units):
        assert other.facts["first_frame"] == one.facts["first_frame"] + one.facts["frames_in_file"]
        assert one.clips[-1].end_time == pytest.approx(other.clips[0].start_time)


def test_frames_read_later_are_those_the_pass_saw(film):
    unit = passed(film)
    captioner_frames(unit, 4)
    assert [len(clip.frames) for clip in unit.clips] == [4, 4] and not any(clip.errors for clip in unit.clips)
    clip = unit.clips[1]
    for name, frame in (("still_first", clip.frames[0]), ("still_last", clip.frames[-1])):
        still, again = decode(clip.values[name]), decode(frame)
        assert again.shape == still.shape and np.abs(again.astype(int) - still.astype(int)).mean() < 4


def test_an_unforeseen_error_in_an_observer_costs_its_own_columns(film, monkeypatch):
    monkeypatch.setattr(FlowMotion, "see", lambda self, frame: frame.index / 0)
    unit = passed(film)
    assert unit.status == "ok" and [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, CUT), (CUT, 100)]
    for clip in unit.clips:
        assert clip.errors == {"motion": "ZeroDivisionError: division by zero"} and clip.values["still_first"]
        assert all(clip.values[column.name] is None for column in FlowMotion.columns)


def test_an_unforeseen_error_where_clips_are_found_fails_the_unit_with_its_name(film, monkeypatch):
    monkeypatch.setattr(Shots, "see", lambda self, frame: frame.index / 0)
    unit = passed(film)
    assert unit.status == "failed" and "ZeroDivisionError" in unit.error


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> tuple[str, dict[str, Expectation]]:
    folder = tmp_path_factory.mktemp("bad")
    return str(folder), make_bad_inputs(folder)


def test_every_bad_input_becomes_what_it_must(bad):
    folder, expected = bad
    wrong = []
    for name, expect in expected.items():
        for unit in plan(Video(os.path.join(folder, name))):
            if unit.status == "ok":
                watch(unit, **PASS)
            reported = unit.error or "; ".join(unit.warnings)
            decoded_frames = unit.facts.get("frames_decoded") or 0
            good = unit.status == expect.status
            good &= expect.says in reported if expect.says or expect.status == "failed" else not reported
            good &= decoded_frames == expect.frames if expect.frames is not None else decoded_frames > 0
            good &= all(unit.facts.get(key) == value for key, value in expect.facts)
            if unit.status == "ok":
                good &= bool(unit.clips) and (bool(reported) or decoded_frames == unit.facts["frames_in_file"])
            else:
                good &= bool(reported) and "Traceback" not in reported and folder not in reported
            if not good:
                wrong.append((name, expect, unit.status, reported, decoded_frames, unit.facts, len(unit.clips)))
    assert not wrong


def test_clips_that_are_known_stay_what_they_are_when_more_is_measured(film):
    """Whatever a detector of today would find: an old dataset is filled in without being cut anew."""
    unit = passed(film, observers={"shots": {}})
    unit.clips[0].end_frame, unit.clips[1].start_frame = 25, 30
    again = watch(unit, **PASS)
    assert [(c.start_frame, c.end_frame) for c in again.clips] == [(0, 25), (30, 100)]
    assert again.clips[0].end_time == pytest.approx(1.0) and again.clips[1].values["still_times"][0] == 30 / 25
    assert again.facts["transitions"] == [{"start": CUT / 25, "end": CUT / 25, "kind": "cut"}]
    assert all(clip.values["motion_score"] is not None for clip in again.clips)
    again.clips[1].end_frame = 101
    assert "frames 30 to 101, a recorded clip, are not in the file" in watch(again, **PASS).error
