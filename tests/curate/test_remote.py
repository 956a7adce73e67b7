"""Videos on a store are what they would be on a disk, and their bytes are read once."""

import os

import pytest

from curate.base.child import CHANGED, LATE
from curate.base.store import Entry, StoreError, blocks, store_of
from curate.base.store import connection as connections
from curate.base.store.ranges import BLOCK, Ranges
from curate.clip import Unit, Video
from curate.export.extract import Span, extract
from curate.video import remote, units
from curate.video.decode import frames
from curate.video.identity import cheap_checksum, checksum, fingerprint, identify, same_stamp, stamp
from curate.video.opening import VideoError, open_video
from curate.video.units import plan
from curate.watching.isolation import Isolated
from curate.watching.watch import watch
from tests.curate.films import film

FORMS = {
    "moov first.mp4": {"movflags": "faststart"},
    "moov last.mp4": {},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "a.mkv": {},
    "a.ts": {},
}
OF_THE_PLACE = {"modified", "version", "bytes_read", "requests"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of 12 s with sound and a keyframe a second, about 3 MB each; one of 1.3 MB."""
    folder = tmp_path_factory.mktemp("films")
    for name, options in FORMS.items():
        film(folder / name, seconds=12, options=options)
    film(folder / "small.mp4", seconds=5)
    return folder


@pytest.fixture(autouse=True)
def no_blocks():
    yield
    blocks.sweep()


@pytest.fixture
def bucket(films, storage, monkeypatch, tmp_path):
    """The films on a store, none of them known, no block kept."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    url = storage.bucket()
    for path in films.iterdir():
        store_of(url).put(path.name, path.read_bytes())
    forget()
    storage.reset()
    return url


def forget():
    """As in a process that has just begun."""
    remote._entries.clear()
    remote._readers.clear()
    remote._memory.__dict__.clear()
    remote._spent.clear()


def facts(unit):
    return {name: value for name, value in unit.facts.items() if name not in OF_THE_PLACE}


@pytest.mark.parametrize("name", [*FORMS, "small.mp4"])
def test_a_video_is_planned_and_decoded_from_a_store_as_from_a_disk_reading_it_once(
    name, films, bucket, storage, monkeypatch
):
    monkeypatch.setattr(remote, "WHOLE", 2_000_000)  # so that the films are too large to be read at once
    blocks.enter()
    path, url = str(films / name), f"{bucket}/{name}"
    size = os.path.getsize(path)
    assert identify(url)["video_id"] == fingerprint(path)
    forget()  # other processes plan, and decode
    here, there = plan(Video(path), unit_seconds=4), plan(Video(url), unit_seconds=4)
    assert len(here) == (1 if name == "small.mp4" else 3)
    assert [(unit.start, unit.end, facts(unit)) for unit in there] == [
        (unit.start, unit.end, facts(unit)) for unit in here
    ]
    forget()
    for one, other in zip(here, there, strict=True):
        seen, ours = frames(other), frames(one)
        assert [(frame.index, frame.time) for frame in seen] == [(frame.index, frame.time) for frame in ours]
        assert seen.warnings() == ours.warnings() == []
    counted = storage.counts()
    assert 0.9 * size < counted["bytes_sent"] - 2000 <= 1.1 * size
    if name == "small.mp4":
        assert counted["by_method"] == {"HEAD": 3, "GET": 1}  # a HEAD of each process
        assert cheap_checksum(url) == checksum(path)


def test_what_reading_cost_is_told_with_the_unit(films, bucket, storage):
    url = f"{bucket}/moov last.mp4"
    (unit,) = plan(Video(url))
    unit = watch(unit, observers={"shots": {}}, decode={})
    counted = storage.counts()
    assert unit.status == "ok" and unit.facts["requests"] == counted["requests"]
    assert unit.facts["bytes_read"] == counted["bytes_sent"] and unit.facts["version"]
    assert unit.facts["checksum"] == checksum(str(films / "moov last.mp4"))
    assert watch(*plan(Video(str(films / "a.ts"))), observers={"shots": {}}, decode={}).facts["bytes_read"] is None


@pytest.mark.parametrize("name", ["moov first.mp4", "moov last.mp4", "a.mkv"])
@pytest.mark.parametrize("first", [100, 110])  # a keyframe, which is copied from; and none
def test_a_cut_reads_little_more_than_the_clip(name, first, films, bucket, storage):
    path, url = str(films / name), f"{bucket}/{name}"
    span = Span(first, first + 100, first / 25, first / 25 + 4)
    keyframes = [float(second) for second in range(12)]
    open_video(url)[0].close()
    index = storage.counts()["bytes_sent"]
    forget()
    storage.reset()
    cut = extract(url, span, keyframes)
    assert cut.bytes == extract(path, span, keyframes).bytes and cut.how == ("copy" if first == 100 else "transcode")
    source = os.path.getsize(path) / 3  # four of the twelve seconds
    assert storage.counts()["bytes_sent"] - index <= 1.2 * source + (source / 4 if cut.how == "transcode" else 0) + 2000


def test_an_object_that_is_not_there_is_empty_or_denied(bucket):
    store_of(bucket).put("empty.mp4", b"")
    store_of(bucket).put("text.mp4", b"no video")
    for name, reason in {
        "none.mp4": "there is no such object",
        "empty.mp4": "is empty",
        "text.mp4": "is a text",
    }.items():
        with pytest.raises(VideoError, match=reason):
            open_video(f"{bucket}/{name}")
    assert plan(Video(f"{bucket}/none.mp4"))[0].status == "failed"
    assert stamp(f"{bucket}/none.mp4") == {"bytes": None, "modified": None, "version": None}


def test_an_object_that_is_replaced_meanwhile_is_lost_not_failed(bucket, films):
    url = f"{bucket}/small.mp4"
    (unit,) = plan(Video(url))
    store_of(bucket).replace("small.mp4", (films / "a.ts").read_bytes())
    forget()
    blocks.sweep()
    seen = watch(unit, observers={"shots": {}}, decode={})
    assert (seen.status, seen.lost) == ("lost", [CHANGED]) and "was written to" in seen.error
    assert not same_stamp(unit.facts, stamp(url)) and same_stamp(stamp(url), stamp(url) | {"modified": 1})


def test_a_store_that_does_not_answer_is_not_the_videos_fault(bucket, storage, monkeypatch):
    url = f"{bucket}/moov last.mp4"
    (unit,) = plan(Video(url))
    for fault in ("reset", "cut"):
        forget()
        blocks.sweep()
        storage.faults(1, 1.0, [fault], only="GET", in_a_row=1000)
        monkeypatch.setattr(connections, "PATIENCE", 0.0)
        seen = watch(Unit.unpack(unit.pack()), observers={"shots": {}}, decode={})
        assert (seen.status, seen.lost) == ("lost", [LATE]), seen.error
    monkeypatch.setattr(connections, "PATIENCE", 60.0)
    storage.faults(2, 0.3)
    forget()
    blocks.sweep()
    seen = watch(unit, observers={"shots": {}}, decode={})
    assert (seen.status, seen.facts["frames_decoded"]) == ("ok", 300)


def test_the_index_of_an_mp4_gives_the_units_that_its_packets_give(films):
    for name in ("moov first.mp4", "moov last.mp4"):
        found = units._by_index(str(films / name), 4.0, 10**8)
        assert found == units._by_packets(str(films / name), 4.0, 10**8) and len(found) == 2
    assert units._by_index(str(films / "fragments.mp4"), 4.0, 10**8) is None


def test_a_child_reads_what_only_this_process_sees(films, tmp_path):
    store = store_of(f"memory://{tmp_path.name}")
    store.put("small.mp4", (films / "small.mp4").read_bytes())
    url = store.where("small.mp4")
    child = Isolated(timeout=60)
    try:
        (identity,) = child.identify_each([url], 30.0)
        (unit,) = child.plan(Video(url))
        seen = child.watch(unit, observers={"shots": {}}, decode={})
    finally:
        child.close()
    assert identity["video_id"] == fingerprint(str(films / "small.mp4"))
    assert (seen.status, seen.video.path, seen.facts["frames_decoded"]) == ("ok", url, 125)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("winnow-")]


class Counted:
    """A store of one object, which notes what is read of it."""

    def __init__(self, size):
        self.data, self.asked = bytes(range(256)) * (size // 256), []

    def read(self, name, start, end, version):
        self.asked.append((start // BLOCK, -(-end // BLOCK)))
        return self.data[start:end]

    def where(self, name):
        return name


def test_ranges_grow_in_order_and_begin_small_after_a_seek():
    store = Counted(64 * BLOCK)
    entry = Entry("a", len(store.data), "1")
    stream = Ranges(store, "a", entry, through=True)
    while stream.read(5000):
        pass
    lengths = [end - first for first, end in store.asked]
    assert lengths == [1, 1, 2, 4, 8, 16, 32] and stream.bytes == len(store.data)
    assert stream.checksum() == Ranges(store, "a", entry, through=True).checksum() or stream.digest.whole()
    part = Ranges(store, "a", entry)
    store.asked.clear()
    for place in (50, 3, 20):
        part.seek(place * BLOCK + 7)
        assert part.read(5) == store.data[place * BLOCK + 7 : place * BLOCK + 12]
    assert store.asked == [(50, 51), (3, 4), (20, 21)]
    with pytest.raises(StoreError, match="shorter"):
        Ranges(store, "a", Entry("a", len(store.data) + 5 * BLOCK, "1")).fetch(63 * BLOCK, 66 * BLOCK)


def test_blocks_outlive_a_process_and_go_with_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    entry = Entry("a", 3 * BLOCK - 5, "1")
    assert blocks.kept("s3://b/a", entry, BLOCK) is None  # nobody has entered
    blocks.enter()
    (folder,) = tmp_path.iterdir()
    blocks.kept("s3://b/a", entry, BLOCK).write(2, b"x" * (BLOCK - 5))
    again = blocks.kept("s3://b/a", entry, BLOCK)
    assert again.read(2) == b"x" * (BLOCK - 5) and again.read(1) is None and not again.complete()
    assert blocks.kept("s3://b/a", Entry("a", entry.bytes, "2"), BLOCK).read(2) is None
    monkeypatch.setattr(blocks, "MOST_BYTES", 10)
    monkeypatch.setattr(blocks, "CHECK_BYTES", 1)
    blocks.kept("s3://b/b", entry, BLOCK).write(0, b"y" * BLOCK)
    assert [path.name for path in folder.iterdir()] == [blocks.USERS]  # bounded
    blocks.sweep()
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / "left").write_bytes(b"by a job that was killed")
    blocks.enter()
    assert [path.name for path in folder.iterdir()] == [blocks.USERS]
    blocks.sweep()
