"""Coming back to a dataset: more stages, another try, moved files. What was recorded is never lost to a failure."""

import json

import pytest

from curate.models.textboxes import RapidOcr
from pipelines.annotation.stages import StageError, with_needs
from pipelines.config import load
from pipelines.dataset.dataset import DatasetError, read_about
from tests.pipelines.test_annotate import job, rows

TEXT = ("text={kind: rapidocr, size: 320}",)


@pytest.fixture
def film(small_footage, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes((small_footage / "film 1.mp4").read_bytes())
    return path


def broken(self, images):
    raise RuntimeError("out of luck")


def test_a_pass_that_fails_later_costs_no_recorded_clip(film, tmp_path, watcher):
    out = tmp_path / "d"
    job(film, out, watcher, stages=["stills"])
    before = rows(out, "clip_id, still_first, start_time")
    film.unlink()
    summary = job(film, out, watcher, sources=[], stages=["motion"])
    assert rows(out, "clip_id, still_first, start_time") == before
    assert rows(out, "motion_score, errors['motion']") == [(None, "there is no such file")] * 2
    assert rows(out, "status", "videos") == [("ok",)]
    assert summary.clip_failures == 2 and summary.anything_failed


def test_reasons_survive_a_second_pass(film, tmp_path, watcher, monkeypatch):
    out = tmp_path / "d"
    monkeypatch.setattr(RapidOcr, "quads", broken)
    summary = job(film, out, watcher, *TEXT, stages=["text"])
    assert summary.anything_failed and summary.failed == 0
    job(film, out, watcher, *TEXT, stages=["motion"])
    assert rows(out, "text_area, errors['text']") == [(None, "RuntimeError: out of luck")] * 2
    assert all(score > 1 for (score,) in rows(out, "motion_score"))
    assert rows(out, "frames_decoded, frames_in_file", "videos") == [(160, 80)]  # two passes: the counter says so


def test_a_stage_that_failed_on_clips_can_be_tried_again(film, tmp_path, watcher, monkeypatch):
    out = tmp_path / "d"
    with monkeypatch.context() as patch:
        patch.setattr(RapidOcr, "quads", broken)
        job(film, out, watcher, *TEXT, stages=["text"])
    assert job(film, out, watcher, *TEXT, stages=["text"]).clips == 0
    summary = job(film, out, watcher, *TEXT, stages=["text"], retry_failed=True)
    assert summary.clips == 2 and not summary.anything_failed
    assert rows(out, "text_area IS NULL, cardinality(errors)") == [(False, 0)] * 2


def test_captions_of_the_list_survive_another_try(film, small_footage, tmp_path, watcher):
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"path": "late.mp4", "caption": "a late film", "licence": "cc"}))
    out = tmp_path / "d"
    job(film, out, watcher, sources=[str(listed)])
    assert rows(out, "status", "videos") == [("failed",)]
    (tmp_path / "late.mp4").write_bytes(film.read_bytes())
    job(film, out, watcher, sources=[], retry_failed=True)
    assert rows(out, "source_caption, source_columns->>'licence'") == [("a late film", "cc")] * 2


def test_a_file_that_moved_is_used_where_it_is(film, tmp_path, watcher):
    out, moved = tmp_path / "d", tmp_path / "moved.mp4"
    job(film, out, watcher)
    film.rename(moved)
    job(moved, out, watcher)
    assert set(rows(out, "video_path")) == {(str(moved),)}
    assert rows(out, "video_path, status", "videos") == [(str(moved), "ok")]


def test_the_recorded_config_is_that_of_the_rows(film, tmp_path, watcher):
    out = tmp_path / "d"
    job(film, out, watcher, *TEXT, stages=["text"])
    job(film, out, watcher, stages=["motion"])  # with another text model in its config, which does not run
    assert read_about(out)["config"]["text"]["kind"] == "rapidocr"


def test_the_prefilter_brings_what_it_looks_at_and_says_why_it_skipped(film, tmp_path, watcher):
    out = tmp_path / "d"
    rule = (*TEXT, "prefilter.max={text_area: 0.5}", "prefilter.min={motion_score: 1000}", "captions.merge=null")
    summary = job(film, out, watcher, *rule, stages=["captions"])
    assert not summary.anything_failed  # skipping is no failure
    assert {area is None for (area,) in rows(out, "text_area")} == {False}
    for caption, reason in rows(out, "caption_video, errors['captions']"):
        assert caption is None and reason.startswith("skipped by the prefilter: motion_score")
    job(
        film,
        tmp_path / "e",
        watcher,
        *TEXT,
        "prefilter.max={text_area: 0.5}",
        "captions.merge=null",
        stages=["captions"],
    )
    assert all(caption for (caption,) in rows(tmp_path / "e", "caption_video"))
    with pytest.raises(StageError, match=r"motion_scor is not a score .* did you mean motion_score"):
        with_needs(["captions"], load("quickstart", ["prefilter.min={motion_scor: 1}"]))


def test_a_foreign_folder_is_left_as_it_is(film, tmp_path, watcher):
    with pytest.raises(DatasetError, match="holds other files"):
        job(film, tmp_path, watcher)
    assert not (tmp_path / ".lock").exists()


def test_units_of_a_long_video_add_up(film, tmp_path, watcher):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    job(film, whole, watcher)
    job(film, parts, watcher, "decode.unit_seconds=1.6")
    counts = rows(parts, "unit, units, frames_decoded", "videos")
    assert [count[:2] for count in counts] == [(0, 2), (1, 2)] and sum(count[2] for count in counts) == 80
    assert sum(frames for (frames,) in rows(parts, "num_frames")) == 80
    spans = rows(parts, "start_frame, end_frame")
    assert spans[0][0] == 0 and spans[-1][1] == 80
