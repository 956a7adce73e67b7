"""Rows describe exactly the pictures in their bytes, whatever the file's clock does."""

import itertools

import numpy as np
import pytest

from curate.export.extract import extract
from curate.export.span import ClipForm, span_of
from curate.stages.pictures import decode
from curate.watching.rereading import captioner_frames
from tests.curate.odd_clocks import PASS, film, joined, level, levels, retimed, watched

NO_B = {"bf": "0"}
LONG_GOP = {"g": "250", "x264-params": "scenecut=0"}


def cut_levels(path, unit, clip) -> list[float]:
    return list(levels(extract(str(path), span_of(unit, clip), snap=False, crf=4).bytes))


def assert_bytes_are_the_rows(path, units, whole):
    """Each clip, cut again, shows the frames of the whole file that its row names; whole: their levels."""
    for unit in units:
        for clip in unit.clips:
            shown = cut_levels(path, unit, clip)
            assert np.abs(np.array(shown) - whole[clip.start_frame : clip.end_frame]).max() < 4, (
                clip.start_frame,
                shown,
            )


def test_recordings_joined_with_clocks_that_overlap(tmp_path):
    """Times step back by two frames once: clips after it are the very frames, cut at the join."""
    a = film(tmp_path / "a.ts", range(50), options=LONG_GOP)
    b = film(tmp_path / "b.ts", range(100, 150), options=LONG_GOP, offset=50 / 25 - 2 / 25)
    path = joined(tmp_path / "joined.ts", a, b)
    (unit,) = watched(path)
    assert [(c.start_frame, c.end_frame, c.clock) for c in unit.clips] == [(0, 50, "counted"), (50, 100, "counted")]
    assert [c.end_time - c.start_time for c in unit.clips] == pytest.approx([2, 2])
    assert [t["kind"] for t in unit.facts["transitions"]] == ["clock"]
    assert any("steps back" in text for text in unit.warnings)
    whole = [*levels(a), *levels(b)]
    assert_bytes_are_the_rows(path, [unit], whole)
    captioner_frames(unit, 3)
    seen = [float(decode(image).mean()) for image in unit.clips[1].frames]
    assert seen == pytest.approx([level(n) for n in (100, 124, 149)], abs=8)


def test_a_second_recording_with_the_very_same_times(tmp_path):
    parts = [film(tmp_path / f"{i}.ts", range(100 * i, 100 * i + 40), options={"g": "10"}) for i in range(3)]
    path = joined(tmp_path / "joined.ts", *parts)
    whole = [x for part in parts for x in levels(part)]
    (unit,) = watched(path)
    assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, 40), (40, 80), (80, 120)]
    assert unit.clips[2].start_time > unit.clips[1].end_time - 0.01
    assert_bytes_are_the_rows(path, [unit], whole)
    units = watched(path, unit_seconds=1.0)  # long captures are worked on in stretches, counted too
    assert len(units) > 2
    assert sum(u.facts["frames_decoded"] for u in units) == 120 == sum(c.num_frames for u in units for c in u.clips)
    assert_bytes_are_the_rows(path, units, whole)


@pytest.mark.parametrize("pause", [2.0, 60.0, 3600.0])
@pytest.mark.parametrize("name", ["gap.ts", "gap.mkv", "gap.mp4"])
def test_a_gap_in_the_clock_bounds_a_shot_and_is_no_footage(tmp_path, name, pause):
    source = film(tmp_path / "a.mp4", range(60), options=NO_B | {"g": "20"})
    path = retimed(tmp_path / name, source, lambda place, time: time + (pause if place >= 30 else 0), 1000)
    (unit,) = watched(path)
    if name == "gap.mp4" and pause == 2.0:  # MP4 says that the picture is shown so long
        assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, 60)]
        assert unit.facts["duration"] == pytest.approx(4.4, abs=0.05)
        return
    assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, 30), (30, 60)]
    assert [c.end_time - c.start_time for c in unit.clips] == pytest.approx([1.2, 1.2], abs=0.03)
    assert [c.fps for c in unit.clips] == pytest.approx([25, 25], rel=0.02)
    assert unit.facts["fps"] == pytest.approx(25, rel=0.01)
    assert unit.facts["duration"] == pytest.approx(2.4, abs=0.05)
    assert [t["kind"] for t in unit.facts["transitions"]] == ["gap"]
    assert any("no new picture comes" in text for text in unit.warnings)
    assert not any("the header says" in text for text in unit.warnings)
    assert_bytes_are_the_rows(path, [unit], list(levels(source)))


def test_a_claimed_rate_is_not_believed(tmp_path):
    source = film(tmp_path / "a.mp4", range(50), options=NO_B)
    path = retimed(tmp_path / "k.mkv", source, lambda _, time: time, 1000)
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex("23E383"))  # DefaultDuration, ns
    size = data[at + 3] & 0x7F
    data[at + 4 : at + 4 + size] = (1_000_000).to_bytes(size, "big")
    path.write_bytes(data)
    (unit,) = watched(path)
    assert unit.facts["fps_claimed"] == pytest.approx(1000)
    assert unit.facts["fps"] == pytest.approx(25, rel=0.01) and unit.clips[0].fps == pytest.approx(25, rel=0.02)
    assert unit.warnings == ["the header says 1000 frames a second, the times of the frames 25: the times are taken"]


def test_a_capture_that_begins_within_a_group_of_pictures_says_what_is_lost(tmp_path):
    whole = film(tmp_path / "a.ts", range(100), options={"g": "40", "x264-params": "scenecut=0"}, textured=True)
    data = whole.read_bytes()
    (tmp_path / "cap.ts").write_bytes(data[len(data) // 188 // 6 * 188 :])
    (unit,) = watched(tmp_path / "cap.ts")
    lost = unit.facts["frames_in_file"] - unit.facts["frames_decoded"]
    assert lost > 5
    assert unit.warnings == [
        f"{lost} of {unit.facts['frames_in_file']} frames gave no picture: the file begins within a group of pictures"
    ]


def test_frames_lost_at_the_beginning_shift_no_later_unit(tmp_path):
    whole = film(tmp_path / "a.ts", range(200), options={"g": "25", "x264-params": "scenecut=0"}, textured=True)
    data = whole.read_bytes()
    path = tmp_path / "cap.ts"
    path.write_bytes(data[len(data) // 188 // 12 * 188 :])
    (alone,) = watched(path)
    units = watched(path, unit_seconds=2.0)
    assert len(units) >= 3 and alone.facts["frames_decoded"] < alone.facts["frames_in_file"]
    frames = [(clip.start_frame, clip.end_frame) for unit in units for clip in unit.clips]
    assert frames[0][0] == 0 and frames[-1][1] == alone.facts["frames_decoded"]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(frames))
    assert_bytes_are_the_rows(path, units, list(levels(path)))


def test_a_file_cut_short_says_so_in_units_too(tmp_path):
    for name in ("a.mkv", "a.mp4"):
        whole = film(tmp_path / name, range(150), options={"g": "25", "movflags": "faststart"}, textured=True)
        data = whole.read_bytes()
        at = len(data) // 2 if name == "a.mkv" else data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
        if name == "a.mp4" and data.index(b"mdat") < data.index(b"moov"):
            continue  # without its index it cannot be opened at all
        (tmp_path / f"half_{name}").write_bytes(data[:at])
        units = watched(tmp_path / f"half_{name}", unit_seconds=1.0)
        assert len(units) > 1
        assert any("cut short" in text for text in units[-1].warnings), units[-1].warnings


def test_h264_with_b_frames_in_avi_has_the_times_that_it_is_decoded_at(tmp_path):
    """AVI has no presentation times; what FFmpeg makes up is out of order."""
    path = film(tmp_path / "a.avi", range(100), options={"bf": "2", "g": "25"})
    (unit,), whole = watched(path), list(levels(path))
    assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, len(whole))] and len(whole) >= 98
    assert unit.clips[0].end_time - unit.clips[0].start_time == pytest.approx(4.0, abs=0.2)
    assert unit.facts["fps"] == pytest.approx(25, rel=0.03)
    assert not any("steps back" in text or "header says" in text for text in unit.warnings)
    assert_bytes_are_the_rows(path, [unit], whole)


def test_a_time_that_is_repeated_ends_no_shot(tmp_path):
    source = film(tmp_path / "a.mp4", range(75), options=NO_B)
    path = retimed(tmp_path / "r.mkv", source, lambda place, time: time - (0.04 if place >= 50 else 0), 1000)
    (unit,) = watched(path)
    assert [(c.start_frame, c.end_frame) for c in unit.clips] == [(0, 75)]
    assert_bytes_are_the_rows(path, [unit], list(levels(source)))


def test_a_file_trimmed_by_stream_copy_is_not_cut_short(tmp_path):
    """MP4 with an edit list that hides its first second: the packets that it hides are no loss."""
    whole = film(tmp_path / "a.mp4", range(100), options={"g": "50", "x264-params": "scenecut=0"})
    data = bytearray(whole.read_bytes())
    at = data.index(b"elst")
    data[at + 12 : at + 16] = (3000).to_bytes(4, "big")  # of 4,000 ms of the movie's clock
    start = int.from_bytes(data[at + 16 : at + 20], "big")
    base = av_time_base(whole)
    data[at + 16 : at + 20] = (start + base).to_bytes(4, "big")  # from 1 s on
    (tmp_path / "trimmed.mp4").write_bytes(data)
    (unit,) = watched(tmp_path / "trimmed.mp4")
    assert unit.facts["frames_claimed"] == 100 and unit.facts["frames_in_file"] == 75
    assert unit.warnings == []
    assert_bytes_are_the_rows(tmp_path / "trimmed.mp4", [unit], list(levels(whole))[25:])


def av_time_base(path) -> int:
    import av

    with av.open(str(path)) as container:
        return container.streams.video[0].time_base.denominator


@pytest.mark.parametrize("start", [95_000.0, 2**33 / 90_000 - 1.0])
def test_a_transport_stream_that_starts_late_or_wraps_is_whole(tmp_path, start):
    path = film(tmp_path / "late.ts", range(50), offset=start)
    (unit,) = watched(path)
    assert unit.warnings == [] and unit.facts["frames_decoded"] == 50
    assert unit.facts["duration"] == pytest.approx(2.0)
    assert_bytes_are_the_rows(path, [unit], list(levels(path)))


def test_a_size_that_changes_bounds_a_shot_and_each_clip_has_its_own(tmp_path):
    a = film(tmp_path / "a.ts", range(25))
    b = film(tmp_path / "b.ts", range(100, 125), size=(96, 72), offset=1.0)
    path = joined(tmp_path / "change.ts", a, b)
    (unit,) = watched(path)
    assert [(c.start_frame, c.end_frame, c.width, c.height) for c in unit.clips] == [(0, 25, 64, 48), (25, 50, 96, 72)]
    assert any("size of the pictures changes" in text for text in unit.warnings)
    for clip in unit.clips:
        made = extract(str(path), span_of(unit, clip))
        assert (made.width, made.height, made.num_frames) == (clip.width, clip.height, 25)
        assert len(list(levels(made.bytes))) == 25


def test_clips_of_many_kinds_of_times_are_cut_in_one_pass(tmp_path):
    """One keyframe: all clips in one pass are the same bytes as each alone."""
    from curate.export.transcode import transcode

    path = film(tmp_path / "one.mp4", range(75), options={"g": "1000", "x264-params": "scenecut=0"})
    (unit,) = watched(path, observers={**PASS["observers"], "shots": {"detector": "whole", "max_seconds": 0.5}})
    spans = [span_of(unit, clip) for clip in unit.clips]
    assert len(spans) == 6
    together = list(transcode(str(path), spans, ClipForm()))
    assert together == [next(transcode(str(path), [span], ClipForm())) for span in spans]
    assert_bytes_are_the_rows(path, [unit], list(levels(path)))
