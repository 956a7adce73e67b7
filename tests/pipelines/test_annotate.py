"""The job end to end on small films: results of each input, resuming, adding stages, and being killed."""

import os
import re
import socket
import subprocess
import sys
import time

import duckdb
import pytest

from curate.weights import MissingWeights
from pipelines.annotation.annotate import annotate
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import StageError, with_needs
from pipelines.config import load
from pipelines.dataset.dataset import Dataset, DatasetError

FAST = ["execution.executor=inline", "decode.isolate=false"]


def job(footage, out, watcher, *overrides, stages=("motion", "stills"), sources=None, **options):
    config = load("quickstart", [*FAST, *overrides])
    named = [str(footage)] if sources is None else sources
    return annotate(named, out, config, place=Place("inline"), watcher=watcher, stages=stages, **options)


def rows(out, columns="* EXCLUDE (image_embedding)", table="clips"):
    dataset = Dataset(out)
    sql = dataset.clips_sql if table == "clips" else dataset.videos_sql
    order = "clip_id" if table == "clips" else "video_path, unit"
    return duckdb.sql(f"SELECT {columns} FROM {sql} ORDER BY {order}").fetchall()


def test_every_input_ends_in_a_row_with_its_reason(small_footage, tmp_path, watcher):
    summary = job(small_footage, tmp_path / "d", watcher)
    found = rows(tmp_path / "d", "parse_filename(video_path), status, clips, error", "videos")
    first = small_footage / "film 0.mp4"
    assert found == [
        ("film 0.mp4", "ok", 2, None),
        ("film 1.mp4", "ok", 2, None),
        ("film 2.mp4", "ok", 2, None),
        ("text.mp4", "failed", 0, "is a text, not a video"),
        ("z copy.mp4", "duplicate", 0, f"same content as {first}"),
    ]
    assert rows(tmp_path / "d", "start_frame, end_frame, num_frames") == [(0, 40, 40), (40, 80, 40)] * 3
    assert (summary.videos, summary.failed, summary.duplicates, summary.clips) == (5, 1, 1, 6)
    decoded = rows(tmp_path / "d", "frames_decoded, frames_in_file", "videos")
    assert decoded[:3] == [(80, 80)] * 3


def test_a_second_run_does_nothing_and_more_footage_is_added(small_footage, tmp_path, watcher):
    out = tmp_path / "d"
    job(small_footage, out, watcher, sources=[str(small_footage / "film 0.mp4")])
    before = rows(out)
    summary = job(small_footage, out, watcher)
    assert (summary.already, summary.videos) == (1, 4)
    assert [row for row in rows(out) if row in before] == before
    files = sorted(path.name for path in out.rglob("*.parquet"))
    again = job(small_footage, out, watcher)
    assert (again.already, again.videos, again.failed) == (5, 0, 0)
    assert files == sorted(path.name for path in out.rglob("*.parquet"))


def test_stages_are_filled_in_without_decoding_again(small_footage, tmp_path, watcher):
    out = tmp_path / "d"
    text = ("text={kind: rapidocr, size: 320}",)
    job(small_footage, out, watcher, *text)
    kept = "clip_id, motion_score, still_first, start_time"
    before = rows(out, kept)
    assert {row for row in rows(out, "text_area")} == {(None,)}
    decoded = rows(out, "seconds['decode'], frames_decoded", "videos")
    summary = job(small_footage, out, watcher, *text, sources=[], stages=["text"])
    assert summary.clips == 6
    assert rows(out, kept) == before
    assert all(area is not None for (area,) in rows(out, "text_area"))
    assert rows(out, "seconds['decode'], frames_decoded", "videos") == decoded
    job(small_footage, tmp_path / "once", watcher, *text, stages=["motion", "stills", "text"])
    assert rows(out) == rows(tmp_path / "once")


def test_an_observer_is_filled_in_and_the_models_columns_stay(small_footage, tmp_path, watcher):
    out, text = tmp_path / "d", ("text={kind: rapidocr, size: 320}",)
    job(small_footage, out, watcher, *text, stages=["text"])
    areas = rows(out, "text_area, still_last")
    assert {row for row in rows(out, "motion_score")} == {(None,)}
    job(small_footage, out, watcher, *text, stages=["motion"])
    assert rows(out, "text_area, still_last") == areas
    assert all(score > 1 for (score,) in rows(out, "motion_score"))


def test_another_config_is_refused_before_any_work(small_footage, tmp_path, watcher):
    out = tmp_path / "d"
    job(small_footage, out, watcher)
    with pytest.raises(DatasetError, match=r"made with motion.fps = 2.0, this job has 4.0"):
        job(small_footage, out, watcher, "motion.fps=4")
    job(small_footage, out, watcher, "captions.merge=null")  # no caption was made yet: nothing would be mixed
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("")
    with pytest.raises(DatasetError, match="holds other files"):
        job(small_footage, tmp_path / "other", watcher)
    with pytest.raises(StageError, match="no such stage: choose from shots, motion"):
        job(small_footage, tmp_path / "new", watcher, stages=["ocr"])
    assert not (tmp_path / "new").exists()
    gone = "embedder={kind: open_clip, folder: gone}"
    with pytest.raises(MissingWeights, match=r"ViT-L-14.*not found.*gone"):
        job(small_footage, tmp_path / "new", watcher, gone, stages=["appearance"])
    assert not (tmp_path / "new").exists()


def test_failed_videos_are_tried_again_when_asked_or_when_the_file_is_another(small_footage, tmp_path, watcher):
    film = tmp_path / "late.mp4"
    film.write_bytes(b"")
    job(tmp_path, tmp_path / "d", watcher, sources=[str(film)])
    assert rows(tmp_path / "d", "status, error", "videos")[0][0] == "failed"
    again = job(tmp_path, tmp_path / "d", watcher, sources=[str(film)])
    assert (again.already, again.failed_before, again.videos) == (1, 1, 0)
    again = job(tmp_path, tmp_path / "d", watcher, sources=[str(film)], retry_failed=True)
    assert (again.already, again.failed) == (0, 1)
    film.write_bytes((small_footage / "film 1.mp4").read_bytes())
    summary = job(tmp_path, tmp_path / "d", watcher, sources=[str(film)])
    assert (summary.clips, summary.failed, summary.changed) == (2, 0, 1)
    assert rows(tmp_path / "d", "status", "videos") == [("ok",)]


def test_two_writers_are_refused(small_footage, tmp_path, watcher):
    from pipelines.dataset.lock import held

    message = rf"writing this dataset \(process {os.getpid()} on {re.escape(socket.gethostname())}, since 20"
    with held(tmp_path / "d", "dataset", DatasetError), pytest.raises(DatasetError, match=message):
        job(small_footage, tmp_path / "d", watcher)


MOMENTS = (
    ("the dataset exists", lambda out: (out / "dataset.json").exists()),
    ("a shard is being written", lambda out: any((out / "clips").glob("*"))),
    ("two shards are committed", lambda out: len(list((out / "videos").glob("part-*"))) == 2),
)


def test_killed_at_any_moment_and_started_again(small_footage, tmp_path, watcher):
    """SIGKILL at three moments of three runs; the fourth gets through, and its rows are those of an undisturbed run."""
    out = tmp_path / "d"
    command = [
        sys.executable,
        "-m",
        "pipelines.cli.app",
        "annotate",
        str(small_footage),
        "--out",
        str(out),
        "--stages",
        "motion,stills",
    ]
    command += ["--executor", "inline", "--set", "execution.shard_clips=1"]
    for name, reached in MOMENTS:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached(out):
            time.sleep(0.001)
        assert process.poll() is None, f"the job ended before {name}"
        process.kill()
        process.wait()
    assert subprocess.run(command, capture_output=True).returncode == 1  # done, with the text file recorded as failed
    job(small_footage, tmp_path / "clean", watcher, "execution.shard_clips=1")
    assert rows(out) == rows(tmp_path / "clean")
    status = "video_path, unit, status, error, clips, frames_decoded"
    assert rows(out, status, "videos") == rows(tmp_path / "clean", status, "videos")
    assert not list(out.rglob("*.tmp"))


def test_needs_come_with_a_stage():
    assert with_needs(["similarity"]) == ("shots", "motion", "stills", "captions", "similarity")
    assert with_needs(["text"]) == ("shots", "stills", "text")
    assert with_needs(["shots"]) == ("shots",)
