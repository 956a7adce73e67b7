"""A dataset and the files it was made of: replaced, touched, renamed, exchanged, copied. Old rows never speak of new bytes,
and what is there already is never decoded again."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from curate.base.store import store_of
from curate.video.identity import fingerprint, is_gone
from pipelines.annotation import decoding
from pipelines.annotation.planning import planner as planning
from pipelines.dataset.dataset import DatasetError
from pipelines.demo import write
from tests.footage import pan
from tests.pipelines.test_annotate import job, rows


def film(path, seed, frames=20):
    """A pan of 2 px a frame over a picture that the seed names: one shot."""
    write(path, pan(frames, 2, seed=seed))
    return path


def replace(path, seed, frames=20):
    """Other content at the same path, by renaming, as copying tools do."""
    film(path.with_name("aside.mp4"), seed, frames).rename(path)


def paths(out):
    return rows(out, "parse_filename(video_path), video_id, status", "videos")


@pytest.fixture
def opened(monkeypatch):
    """Paths that were decoded, or opened to be planned, from now on."""
    seen = []
    watch, plan = decoding.watch, planning.plan
    monkeypatch.setattr(decoding, "watch", lambda unit, **how: (seen.append(unit.video.path), watch(unit, **how))[1])
    monkeypatch.setattr(planning, "plan", lambda video, **how: (seen.append(video.path), plan(video, **how))[1])
    return seen


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "films"
    place.mkdir()
    film(place / "a.mp4", 1)
    film(place / "b.mp4", 2)
    return place


def test_size_and_time_of_writing_are_recorded(folder, tmp_path, watcher):
    (folder / "c.mp4").write_text("no video")
    (folder / "d.mp4").write_bytes((folder / "a.mp4").read_bytes())
    job(folder, tmp_path / "d", watcher)
    found = [os.stat(folder / f"{name}.mp4") for name in "abcd"]
    assert rows(tmp_path / "d", "bytes, modified", "videos") == [(s.st_size, s.st_mtime_ns) for s in found]


def test_a_file_replaced_in_place_is_worked_on_anew(folder, tmp_path, watcher, opened):
    out = tmp_path / "d"
    job(folder, out, watcher)
    before = rows(out, "clip_id, still_middle, video_path")
    replace(folder / "a.mp4", seed=3, frames=30)
    opened.clear()
    summary = job(folder, out, watcher)
    assert (summary.changed, summary.moved, summary.videos, summary.already) == (1, 0, 1, 1)
    assert set(opened) == {str(folder / "a.mp4")}
    assert paths(out) == [(f"{n}.mp4", fingerprint(str(folder / f"{n}.mp4")), "ok") for n in "ab"]
    after = rows(out, "clip_id, still_middle, video_path")
    assert len(after) == 2 and len(set(after) & set(before)) == 1  # that of b
    assert sorted(rows(out, "num_frames, parse_filename(video_path)")) == [(20, "b.mp4"), (30, "a.mp4")]
    opened.clear()
    assert job(folder, out, watcher).nothing_to_do and not opened


def test_only_the_time_of_writing_differs(folder, tmp_path, watcher, opened):
    out = tmp_path / "d"
    job(folder, out, watcher)
    before = rows(out)
    os.utime(folder / "a.mp4", ns=(1, 1_600_000_000_123_456_789))
    opened.clear()
    summary = job(folder, out, watcher)
    assert (summary.changed, summary.already, opened) == (0, 2, []) and rows(out) == before
    assert rows(out, "modified", "videos")[0] == (1_600_000_000_123_456_789,)


def test_filling_in_a_stage_notices_the_change_and_mixes_nothing(folder, tmp_path, watcher):
    out = tmp_path / "d"
    job(folder, out, watcher, stages=["stills"])
    replace(folder / "a.mp4", seed=4)  # as many frames at the same rate: the clips would fit
    summary = job(folder, out, watcher, stages=["motion"])
    assert summary.changed == 1
    new = fingerprint(str(folder / "a.mp4"))
    assert rows(out, f"parse_filename(video_path), video_id = '{new}', still_middle IS NULL") in (
        [("a.mp4", True, True), ("b.mp4", False, False)],
        [("b.mp4", False, False), ("a.mp4", True, True)],
    )  # stills were not asked for this time: none are there, rather than those of the old content
    job(folder, out, watcher, stages=["stills"])
    job(folder, tmp_path / "clean", watcher)
    assert rows(out) == rows(tmp_path / "clean")


def test_new_content_that_is_no_video_leaves_no_row_of_the_old(folder, tmp_path, watcher):
    out = tmp_path / "d"
    job(folder, out, watcher)
    (folder / "a.mp4").write_text("no video")
    summary = job(folder, out, watcher)
    assert summary.failures == [(str(folder / "a.mp4"), "is a text, not a video")]
    assert [(name, status) for name, _, status in paths(out)] == [("a.mp4", "failed"), ("b.mp4", "ok")]
    assert rows(out, "DISTINCT parse_filename(video_path)") == [("b.mp4",)]


def test_a_renamed_folder_is_adopted_without_opening_a_file(folder, tmp_path, watcher, opened):
    out, moved = tmp_path / "d", tmp_path / "elsewhere"
    job(folder, out, watcher)
    kept = "clip_id, start_frame, end_frame, motion_score, still_middle"
    before = rows(out, kept)
    folder.rename(moved)
    opened.clear()
    summary = job(moved, out, watcher)
    assert (summary.moved, summary.changed, summary.clips, opened) == (2, 0, 0, [])
    assert rows(out, kept) == before
    assert rows(out, "video_path", "videos") == [(str(moved / "a.mp4"),), (str(moved / "b.mp4"),)]
    assert {path for (path,) in rows(out, "video_path")} == {str(moved / "a.mp4"), str(moved / "b.mp4")}
    assert job(moved, out, watcher).nothing_to_do


def test_stages_are_filled_in_where_the_file_is_now(folder, tmp_path, watcher):
    out, moved = tmp_path / "d", tmp_path / "elsewhere"
    job(folder, out, watcher, stages=["stills"])
    folder.rename(moved)
    assert job(moved, out, watcher, stages=["motion"]).moved == 2
    assert all(score > 1 for (score,) in rows(out, "motion_score"))
    assert len(rows(out)) == 2 and rows(out, "DISTINCT parse_path(video_path)[-2]") == [("elsewhere",)]


def test_files_that_changed_names_with_each_other(folder, tmp_path, watcher, opened):
    out = tmp_path / "d"
    film(folder / "c.mp4", 3)
    job(folder, out, watcher, stages=["stills"])
    job(folder, out, watcher, sources=[str(folder / "a.mp4")], stages=["motion"])  # a's rows are of a later generation
    ids = [video_id for _, video_id, _ in paths(out)]
    for old, new in (("a", "x"), ("c", "a"), ("b", "c"), ("x", "b")):
        (folder / f"{old}.mp4").rename(folder / f"{new}.mp4")
    opened.clear()
    summary = job(folder, out, watcher, stages=["stills"])
    assert (summary.moved, summary.changed, opened) == (3, 0, [])
    assert paths(out) == [("a.mp4", ids[2], "ok"), ("b.mp4", ids[0], "ok"), ("c.mp4", ids[1], "ok")]
    assert len(rows(out)) == 3


def test_old_content_under_a_new_name_and_new_content_under_the_old(folder, tmp_path, watcher, opened):
    out = tmp_path / "d"
    job(folder, out, watcher)
    (folder / "a.mp4").rename(folder / "old a.mp4")
    film(folder / "a.mp4", 9, frames=25)
    opened.clear()
    summary = job(folder, out, watcher)
    assert (summary.moved, summary.changed) == (1, 1) and set(opened) == {str(folder / "a.mp4")}
    assert [name for name, _, _ in paths(out)] == ["a.mp4", "b.mp4", "old a.mp4"] and len(rows(out)) == 3


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_the_copy_takes_over_when_the_first_is_gone(folder, tmp_path, watcher, opened, what):
    out = tmp_path / "d"
    for name in ("copy 1.mp4", "copy 2.mp4"):
        (folder / name).write_bytes((folder / "a.mp4").read_bytes())
    job(folder, out, watcher)
    content = fingerprint(str(folder / "a.mp4"))
    assert [status for *_, status in paths(out)] == ["ok", "ok", "duplicate", "duplicate"]
    if what == "replaced":
        replace(folder / "a.mp4", seed=7)
    else:
        (folder / "a.mp4").unlink()
    opened.clear()
    job(folder, out, watcher)
    assert set(opened) <= {str(folder / "a.mp4")}
    found = {name: (video_id, status) for name, video_id, status in paths(out)}
    assert found["copy 1.mp4"] == (content, "ok") and found["copy 2.mp4"][1] == "duplicate"
    assert rows(out, "error", "videos")[-1] == (f"same content as {folder / 'copy 1.mp4'}",)
    assert ("a.mp4" in found) == (what == "replaced")
    assert job(folder, out, watcher).nothing_to_do


def test_a_place_outside_of_this_jobs_sources_is_looked_at_before_rows_move(folder, tmp_path, watcher):
    out, other = tmp_path / "d", tmp_path / "other"
    other.mkdir()
    job(folder, out, watcher)
    (other / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert (job(other, out, watcher).moved, job(other, out, watcher).moved) == (0, 0)
    assert [(name, status) for name, _, status in paths(out)][-1] == ("c.mp4", "duplicate")
    replace(folder / "a.mp4", seed=5)
    (folder / "a.mp4").rename(other / "d.mp4")
    summary = job(other, out, watcher)
    assert summary.moved == 1 and ("c.mp4", "ok") in {(name, status) for name, _, status in paths(out)}


def during(monkeypatch, action, times=1):
    """Do something to a file during its decode."""
    watch, left = decoding.watch, [times]

    def meanwhile(unit, **how):
        done = watch(unit, **how)
        if left[0] and unit.video.path.endswith("a.mp4"):
            left[0] -= 1
            action()
        return done

    monkeypatch.setattr(decoding, "watch", meanwhile)


def test_a_file_replaced_while_it_is_worked_on_is_done_anew_at_once(folder, tmp_path, watcher, monkeypatch):
    during(monkeypatch, lambda: replace(folder / "a.mp4", seed=8, frames=30))
    summary = job(folder, tmp_path / "d", watcher)
    assert not summary.anything_failed and summary.clips == 2
    assert paths(tmp_path / "d")[0] == ("a.mp4", fingerprint(str(folder / "a.mp4")), "ok")
    job(folder, tmp_path / "clean", watcher)
    assert rows(tmp_path / "d") == rows(tmp_path / "clean")


def test_a_file_that_is_still_being_written_is_lost_and_done_by_the_next_run(folder, tmp_path, watcher, monkeypatch):
    with monkeypatch.context() as patch:
        during(patch, lambda: os.utime(folder / "a.mp4"), times=9)
        summary = job(folder, tmp_path / "d", watcher)
    assert [(os.path.basename(path), why[:40]) for path, why in summary.lost] == [
        ("a.mp4", "was written to while it was worked on: w")
    ]
    assert summary.anything_failed and summary.failed == 0
    assert [(name, status) for name, _, status in paths(tmp_path / "d")] == [("a.mp4", "lost"), ("b.mp4", "ok")]
    assert not job(folder, tmp_path / "d", watcher).anything_failed
    assert [status for *_, status in paths(tmp_path / "d")] == ["ok", "ok"]


def make_old(out):
    """The shards as an older Winnow wrote them."""
    for path in (out / "videos").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.select([name for name in table.column_names if name != "modified"]), path)
    shutil.rmtree(out / "manifest")  # which it did not write


def test_a_dataset_that_recorded_no_time_is_compared_by_content(folder, tmp_path, watcher, opened):
    out = tmp_path / "d"
    job(folder, out, watcher)
    make_old(out)
    before = rows(out)
    opened.clear()
    assert job(folder, out, watcher).nothing_to_do and not opened and rows(out) == before
    job(folder, out, watcher, "text={kind: rapidocr, size: 320}", stages=["text"])
    assert None not in {modified for (modified,) in rows(out, "modified", "videos")}
    replace(folder / "a.mp4", seed=6)
    make_old(out)
    assert job(folder, out, watcher).changed == 1
    assert rows(out, "modified IS NULL, parse_filename(video_path)", "videos") == [(False, "a.mp4"), (True, "b.mp4")]


def test_a_file_that_cannot_be_read_for_now_keeps_its_rows(folder, tmp_path, watcher, monkeypatch):
    out = tmp_path / "d"
    job(folder, out, watcher)
    before = rows(out)
    os.utime(folder / "a.mp4")
    monkeypatch.setattr(planning, "identify", lambda path: {"video_id": None, "bytes": None, "modified": None})
    assert job(folder, out, watcher).changed == 0 and rows(out) == before


def test_all_stretches_of_a_long_video_go_with_its_content(small_footage, tmp_path, watcher):
    long, out = tmp_path / "a.mp4", tmp_path / "d"
    long.write_bytes((small_footage / "film 1.mp4").read_bytes())
    parts = "decode.unit_seconds=1.6"
    job(long, out, watcher, parts)
    assert rows(out, "unit, units", "videos") == [(0, 2), (1, 2)]
    replace(long, seed=5)
    job(long, out, watcher, parts)
    assert rows(out, "unit, units, status", "videos") == [(0, 1, "ok")] and rows(out, "num_frames") == [(20,)]


def test_a_dataset_whose_config_has_keys_of_an_older_version(folder, tmp_path, watcher):
    out = tmp_path / "d"
    job(folder, out, watcher, stages=["stills"])
    about = json.loads((out / "dataset.json").read_text())
    about["config"]["decode"] |= {"patience": 3, "timeout_seconds": 1800.0}
    about["config"]["text"]["angle"] = 1
    about["stages"]["stills"]["stills"]["sharpen"] = 2
    del about["stages"]["shots"]["shots"]["max_seconds"]
    (out / "dataset.json").write_text(json.dumps(about))
    assert job(folder, out, watcher, stages=["motion"]).clips == 2
    with pytest.raises(DatasetError, match=r"made with stills.quality = 90, this job has 80"):
        job(folder, out, watcher, "stills.quality=80")
    command = [sys.executable, "-m", "pipelines.cli", "select", str(out), "--out", str(tmp_path / "c")]
    command += ["--where", "num_frames > 1", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_copy_in_a_bucket_is_no_move_of_the_object_that_is_still_there(folder, tmp_path, storage, watcher):
    """Killed between the two: the first was recorded, and the copy comes to a later run."""
    bucket, out = storage.bucket(), tmp_path / "d"
    store, data = store_of(f"{bucket}/films"), (folder / "a.mp4").read_bytes()
    store.put("a.mp4", data)
    job(f"{bucket}/films", out, watcher)
    store.put("z copy.mp4", data)
    store.put("b.mp4", (folder / "b.mp4").read_bytes())
    summary = job(f"{bucket}/films", out, watcher)
    assert (summary.moved, summary.duplicates) == (0, 1)
    assert [(name, status) for name, _, status in paths(out)] == [
        ("a.mp4", "ok"), ("b.mp4", "ok"), ("z copy.mp4", "duplicate"),
    ]  # fmt: skip
    store.delete("a.mp4")
    assert job(f"{bucket}/films", out, watcher).moved == 1  # now it is one


def test_what_cannot_be_asked_for_is_not_gone(tmp_path):
    assert is_gone(str(tmp_path / "a.mp4")) and is_gone(str(film(tmp_path / "b.mp4", 1) / "c.mp4"))
    assert not is_gone(str(tmp_path / "b.mp4")) and not is_gone(f"{tmp_path}/{'n' * 300}")  # ENAMETOOLONG
