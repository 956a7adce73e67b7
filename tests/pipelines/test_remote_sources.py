"""Sources on a store: folders, globs, lists and what they name; and streams of any length."""

import json
import random
import re
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.base.store import store_of
from curate.clip import Unit
from curate.video.opening import VideoError
from pipelines.annotation.planning.recorded import RecordedUnits
from pipelines.config import load
from pipelines.dataset.dataset import Dataset, DatasetError
from pipelines.dataset.lock import held
from pipelines.sources import objects
from pipelines.sources.mentions import Mentions
from pipelines.sources.named import translated
from pipelines.sources.sources import InputError, find_videos, skipped_text
from pipelines.sources.stream import TOO_LATE, SourceStream
from pipelines.status.runlog import RunLog
from tests.pipelines.test_annotate import job, rows


@pytest.fixture
def bucket(storage):
    """A bucket with a tree of objects that need not be videos."""
    url = storage.bucket()
    put(
        url,
        "x/b.mp4",
        "x/a.MKV",
        "x/deep/c.webm",
        "x/notes.txt",
        "x/deep/poster.jpg",
        "x/.hidden/d.mp4",
        "x/e.mp4.part",
    )
    put(url, "x/f.mp4", "x/f.mp4.aria2", "y/g.mov")
    storage.reset()
    return url


def put(url, *names, content=b""):
    for name in names:
        store_of(url).put(name, content or name.encode())


def names(found, url):
    return [video.path.removeprefix(f"{url}/") for video in found.videos]


def test_a_folder_of_a_store_is_one_listing(bucket, storage):
    found = find_videos([f"{bucket}/x/"])
    assert names(found, bucket) == ["x/a.MKV", "x/b.mp4", "x/deep/c.webm"]
    text = skipped_text(found.skipped)
    assert "1 .txt" in text and "1 .jpg" in text and "1 hidden ('.hidden')" in text and "3 partial download" in text
    assert found.folders == [f"{bucket}/x"] and not found.refused
    stamp = found.videos[1].stamp
    assert stamp["bytes"] == 7 and stamp["version"] == store_of(bucket).head("x/b.mp4").version
    assert storage.counts()["by_method"].get("GET", 0) == 0


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("x/*.mp4", ["x/b.mp4", "x/f.mp4"]),
        ("*/*.m[kp]4", ["x/b.mp4", "x/f.mp4"]),
        ("**/c.*", ["x/deep/c.webm"]),
        ("x/?.mp4", ["x/b.mp4", "x/f.mp4"]),
        ("y*", ["y/g.mov"]),
    ],
)
def test_globs_on_a_store(bucket, pattern, matches):
    assert names(find_videos([f"{bucket}/{pattern}"]), bucket) == matches


def test_single_objects_and_what_is_not_there(bucket):
    assert names(find_videos([f"{bucket}/y/g.mov", f"{bucket}/x/../y/g.mov"]), bucket) == ["y/g.mov"]
    for source in ("x/none.mp4", "none/", "x/*.avi"):
        with pytest.raises(InputError, match="no such"):
            find_videos([f"{bucket}/{source}"])
    assert not re.fullmatch(translated("*.mp4"), ".a.mp4")


def test_lists_on_a_store_and_lists_of_addresses(bucket, tmp_path):
    put(bucket, "lists/l.csv", content=b"path,caption\n../x/b.mp4,a bee\n" + f"{bucket}/y/g.mov,a gnu\n".encode())
    (tmp_path / "l.jsonl").write_text(json.dumps({"path": f"{bucket}/x/b.mp4", "caption": "again"}) + "\n" * 2)
    found = find_videos([f"{bucket}/lists/l.csv", str(tmp_path / "l.jsonl")])
    assert [(name, video.captions) for name, video in zip(names(found, bucket), found.videos, strict=True)] == [
        ("x/b.mp4", ["a bee", "again"]),
        ("y/g.mov", ["a gnu"]),
    ]
    assert found.lists == [f"{bucket}/lists/l.csv", str(tmp_path / "l.jsonl")]


def test_captions_beside_objects_and_a_videofolders_metadata(bucket, storage):
    put(bucket, "v/a.txt", content=b"a bee")
    put(bucket, "v/b.json", content=b'{"caption": "a cat"}')
    put(bucket, "v/a.mp4", "v/b.mp4", "v/train/d.mp4")
    put(
        bucket,
        "v/metadata.jsonl",
        content=b'{"file_name": "a.mp4", "text": "more"}\n{"file_name": "train/d.mp4", "text": "a dog"}',
    )
    storage.reset()
    found = find_videos([f"{bucket}/v"])
    assert [(name, video.captions) for name, video in zip(names(found, bucket), found.videos, strict=True)] == [
        ("v/a.mp4", ["a bee", "more"]),
        ("v/b.mp4", ["a cat"]),
        ("v/train/d.mp4", ["a dog"]),
    ]
    assert storage.counts()["by_key"].keys() == {
        f"{bucket[5:]}/v/{name}" for name in ("a.txt", "b.json", "metadata.jsonl")
    }
    small, objects.AHEAD = objects.AHEAD, 2  # a window that sees almost nothing asks the store
    try:
        assert find_videos([f"{bucket}/v"]).videos == found.videos
    finally:
        objects.AHEAD = small


def test_a_dataset_of_a_bucket_is_that_of_a_folder(small_footage, storage, tmp_path, watcher):
    url = storage.bucket()
    for path in small_footage.iterdir():
        store_of(f"{url}/films").put(path.name, path.read_bytes())
    job(small_footage, tmp_path / "here", watcher)
    summary = job(None, tmp_path / "there", watcher, sources=[f"{url}/films"])
    assert (summary.videos, summary.failed, summary.duplicates, summary.clips) == (5, 1, 1, 6)
    columns = "* EXCLUDE (image_embedding, video_path)"
    assert rows(tmp_path / "there", columns) == rows(tmp_path / "here", columns)
    videos = "parse_filename(video_path), CASE status WHEN 'ok' THEN video_id END, status, clips, frames_decoded, checksum, bytes"
    assert rows(tmp_path / "there", videos, "videos") == rows(tmp_path / "here", videos, "videos")
    cost = rows(tmp_path / "there", "bytes_read, bytes, version IS NOT NULL", "videos")
    assert all(read <= 1.1 * size and versioned for read, size, versioned in cost)
    storage.reset()
    again = job(None, tmp_path / "there", watcher, sources=[f"{url}/films"])
    assert (again.already, again.videos) == (5, 0)
    assert storage.counts()["by_method"].keys() <= {"LIST", "HEAD"}  # no object is read again


def test_a_video_of_a_list_and_of_a_folder_searched_later_has_what_both_say(tmp_path):
    for name in ("a.mp4", "b.mp4", ".c.mp4"):
        (tmp_path / "f" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"")
    (tmp_path / "f" / "a.txt").write_text("beside")
    (tmp_path / "l.csv").write_text("path,caption\nf/a.mp4,listed\nf/.c.mp4,hidden\nf/gone.mp4,gone\n")
    (tmp_path / "late.csv").write_text("path,caption\nf/a.mp4,late\n")
    found = find_videos([str(tmp_path / "l.csv"), str(tmp_path / "f"), str(tmp_path / "late.csv")])
    assert [(video.path.rpartition("/")[2], video.captions) for video in found.videos] == [
        ("a.mp4", ["listed", "beside", "late"]),
        ("b.mp4", []),
        (".c.mp4", ["hidden"]),
        ("gone.mp4", ["gone"]),
    ]


def test_metadata_of_a_video_that_was_found_before_it_is_counted(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v.mp4").write_bytes(b"")
    (tmp_path / "b" / "metadata.csv").write_text("file_name,text\nv.mp4,own\n../a/v.mp4,late\n")
    found = find_videos([str(tmp_path)])
    assert [video.captions for video in found.videos] == [[], ["own"]] and found.skipped.others == {TOO_LATE: 1}


def test_a_stream_gives_each_video_of_a_long_list_once_in_order_of_its_first_mention(tmp_path):
    draw = random.Random(7)
    mentioned = [f"v{draw.randrange(500) if i % 3 else i}.mp4" for i in range(6000)]
    (tmp_path / "l.txt").write_text("\n".join(mentioned))
    with SourceStream([str(tmp_path / "l.txt")]) as stream:
        found = [item.path.rpartition("/")[2] for item in stream]
    assert found == list(dict.fromkeys(mentioned)) and stream.videos == len(found)


def test_a_row_that_cannot_be_used_keeps_its_place(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"path": "a.mp4"}\n{"caption": "no path"}\n{"path": "b.mp4"}\n')
    with SourceStream([str(tmp_path / "l.jsonl")]) as stream:
        kinds = [(item.kind, item.status) if isinstance(item, Unit) else item.path[-5:] for item in stream]
        assert stream.accepts(f"{tmp_path}/l.jsonl: entry 1") and not stream.accepts(f"{tmp_path}/l.jsonl: entry 2")
    assert kinds == ["a.mp4", ("entry", "failed"), "b.mp4"] and stream.refused == 1


def test_a_full_disk_while_sorting_names_the_folder(monkeypatch):
    mentions = Mentions()

    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(mentions, "db", Full())
    with pytest.raises(Exception, match="set TMPDIR to a larger disk"):
        mentions.give(b"1", "a")


def test_rows_of_a_list_that_was_not_read_are_not_forgotten_with_its_folder(tmp_path):
    url = f"memory://{tmp_path.name}"
    put(url, "x/a.mp4", "x/l.jsonl")
    with SourceStream([f"{url}/x/"]) as stream:
        list(stream)
        assert stream.folders == [f"{url}/x"]
        assert not stream.accepts(f"{url}/x/l.jsonl: entry 3")
        assert stream.accepts(f"{url}/x/gone.jsonl: entry 3")  # nothing of it is left


def test_videos_that_a_list_holds_are_written_only_under_the_lock(small_footage, tmp_path, watcher):
    out, place = tmp_path / "all" / "d", tmp_path / "all"
    place.mkdir()
    film = (small_footage / "film 1.mp4").read_bytes()
    pq.write_table(pa.table({"video": [{"bytes": film, "path": "f.mp4"}], "text": ["x"]}), place / "l.parquet")
    sources = [
        str(place / "l.parquet"),
        str(place),
    ]  # the dataset lies in a source: what it holds is no input of its own
    with held(out, "dataset", DatasetError), pytest.raises(DatasetError, match="another process"):
        job(None, out, watcher, sources=sources)
    assert not (out / "sources").exists()
    assert job(None, out, watcher, sources=sources).videos == 1
    ((path, status),) = rows(out, "video_path, status", "videos")
    assert status == "ok" and path.startswith(f"{out}/sources/")


def test_signed_addresses_are_told_and_never_shown(tmp_path, caplog):
    signed = "https://me:hunter2@host.example/a.mp4?X-Amz-Signature=abc"
    (tmp_path / "l.jsonl").write_text(json.dumps({"path": signed}))
    with SourceStream([str(tmp_path / "l.jsonl")]) as stream:
        assert [video.path for video in stream] == [signed]
    assert "https://host.example/a.mp4: its address has a query" in caplog.text
    log = RunLog(store_of(tmp_path / "d"), "r1")
    log.started("u", signed, "worker", footage=1.0)
    log.finished("v", "failed", path=signed, error="no")
    told = json.dumps(log.state()) + caplog.text + str(store_of(signed)) + str(VideoError(signed, "is empty"))
    log.close("finished", None)
    told += "".join(path.read_text() for path in (tmp_path / "d").rglob("*.json*"))
    assert "host.example/a.mp4" in told and "abc" not in told and "hunter2" not in told
    with pytest.raises(InputError) as raised:
        list(SourceStream(["nowhere://me:hunter2@host/x"]))
    assert "nowhere://host/x" in str(raised.value)


def test_an_object_is_the_recorded_one_by_its_etag(small_footage, storage, tmp_path, watcher):
    url, out = storage.bucket(), tmp_path / "d"
    film = (small_footage / "film 1.mp4").read_bytes()
    put(url, "a.mp4", content=film)
    job(None, out, watcher, sources=[f"{url}/"], stages=["motion"])
    known = RecordedUnits(Dataset(out), ["motion"], False, load("quickstart").parts)
    entry = store_of(url).head("a.mp4")
    (row,) = known.ledger.of_path(f"{url}/a.mp4")
    assert row["version"] == entry.version
    now = {"bytes": entry.bytes, "modified": entry.modified, "version": entry.version}
    assert not known.may_have_changed(f"{url}/a.mp4", now | {"modified": entry.modified + 1})  # written again, the same
    assert known.may_have_changed(f"{url}/a.mp4", now | {"version": "other"})  # within the same second
    known.close()
