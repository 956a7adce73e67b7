"""Shards, their manifest and compaction, on a disk and in a bucket: each row counts once, whatever moment is looked at."""

import os
import shutil
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from curate.base.store import StoreError, store_of
from curate.base.store.files import database
from curate.base.store.protocol import Store
from curate.clip import Column
from pipelines.dataset import lock as locks
from pipelines.dataset.dataset import FORMAT, Dataset, DatasetError
from pipelines.dataset.lock import held
from pipelines.dataset.shards import (
    REPLACED,
    Footer,
    Manifest,
    compact,
    forget,
    open_for_writing,
    sweep,
    write_shard,
)
from tests.pipelines.test_dataset import TABLES, unit

STAGES = ("shots", "motion")


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path):
    made = store_of(tmp_path / "d" if request.param == "disk" else f"memory://{os.urandom(6).hex()}/d")
    made.replace("dataset.json", b'{"format": %d, "config": {}, "models": {}}' % FORMAT)
    return made


def put(store, *units, generation=0, replaces=(), stages=STAGES, run="r"):
    return write_shard(
        store, TABLES, units, stages=stages, generation=generation, replaces=replaces, models={}, run=run
    )


def rows(store):
    """(clips, videos): what a reader sees who comes now."""
    dataset, db = Dataset(store), database()
    clips = db.execute(f"SELECT clip_id, motion_score, text_area FROM {dataset.clips_sql} ORDER BY ALL").fetchall()
    return clips, db.execute(f"SELECT video_id, unit, status FROM {dataset.videos_sql} ORDER BY ALL").fetchall()


def names(store, folder):
    return [entry.name for entry in store.list(f"{folder}/part-")]


class Watched(Store):
    """A store that calls back after each change to it."""

    def __init__(self, store, changed):
        self.inner, self.changed = store, changed
        self.url, self.folder, self.shared = store.url, store.folder, store.shared

    def put(self, name, data):
        made = self.inner.put(name, data)
        self.changed(name)
        return made

    def replace(self, name, data, version=None):
        made = self.inner.replace(name, data, version)
        self.changed(name)
        return made

    def delete(self, name):
        self.inner.delete(name)
        self.changed(name)

    def read(self, *arguments, **options):
        return self.inner.read(*arguments, **options)

    def head(self, name):
        return self.inner.head(name)

    def list(self, prefix=""):
        return self.inner.list(prefix)

    def open(self, name):
        return self.inner.open(name)

    def tidy(self):
        self.inner.tidy()

    def where(self, name):
        return self.inner.where(name)


def crowded(store):
    """Eight small shards, of which some rows were replaced, some shards wholly, and one unit by another."""
    for number in range(4):
        put(store, unit(number, motion_score=float(number)), unit(100 + number))
    put(store, unit(0, motion_score=9.0), generation=1)
    put(store, unit(50), generation=1, replaces=[unit(1).id])  # the file of unit 1 has other content now
    put(store, unit(50, motion_score=3.0), generation=2)  # which makes the shard that says so count for nothing else
    put(store, unit(2, text_area=0.5), stages=(*STAGES, "text"), generation=1)


EXPECTED = {0: 9.0, 3: 3.0, 50: 3.0, 2: None, **{100 + n: None for n in range(4)}}


def check_crowded(store):
    clips, videos = rows(store)
    assert [video for video, _, _ in videos] == sorted(f"{n:016x}" for n in EXPECTED)
    assert {clip[:16]: motion for clip, motion, _ in clips} == {f"{n:016x}": score for n, score in EXPECTED.items()}
    assert len(clips) == 2 * len(EXPECTED)


def test_what_was_committed_is_what_is_read(store):
    footer = put(store, unit(2, motion_score=1.0), unit(1).fail("no stream"), run="abc")
    assert Footer.unpack(footer.pack()) == footer and footer.units == [unit(1).id, unit(2).id]
    (row,) = [row for row in footer.rows.to_pylist() if row["status"] == "ok"]
    assert (row["clips"], row["run"], row["stages"], row["video_path"]) == (2, "abc", "shots,motion", "/v/2.mp4")
    again = put(store, unit(2, motion_score=1.0), unit(1).fail("no stream"), run="abc")
    assert again.shard == footer.shard  # once is enough
    assert len(names(store, "videos")) == 1 and [status for _, _, status in rows(store)[1]] == ["failed", "ok"]


def test_another_outcome_of_the_same_units_is_another_shard(store):
    """A worker is killed between the two files of a lost unit; the unit then succeeds, and has its clips."""
    lost = Watched(store, lambda name: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        put(lost, unit(1).lose("killed"))
    assert (len(names(store, "clips")), names(store, "videos")) == (1, [])
    put(store, unit(1, motion_score=1.0))
    assert len(rows(store)[0]) == 2
    sweep(store)
    assert len(names(store, "clips")) == 1


def loaded(store):
    return [row for batch in Manifest(store).load() for row in batch.to_pylist()]


def test_the_manifest_is_a_copy(store):
    manifest = Manifest(store)
    manifest.add(put(store, unit(1), unit(2)))
    manifest.flush()
    put(store, unit(3))  # of which the driver died before it heard
    found = sorted((row["video_id"], row["status"]) for row in loaded(store))
    assert found == [(f"{n:016x}", "ok") for n in (1, 2, 3)]
    manifest.rebuild()
    assert len(names(store, "manifest")) == 1
    whole = sorted(loaded(store), key=str)
    store.replace(names(store, "manifest")[0], b"PAR1 torn")
    untold = {"clip_failures"}  # of the footers only
    assert [{k: v for k, v in row.items() if k not in untold} for row in sorted(loaded(store), key=str)] == [
        {k: v for k, v in row.items() if k not in untold} for row in whole
    ]
    store.delete(names(store, "videos")[0])  # a shard that is gone is passed over
    assert 0 < len(loaded(store)) < 3


def test_a_dataset_without_a_manifest_gets_one_when_it_is_written_to(store, monkeypatch):
    store.replace("dataset.json", b'{"format": 1, "config": {}, "models": {}}')
    for number in range(3):
        put(store, unit(number))
    before = rows(store)
    open_for_writing(store, TABLES)
    monkeypatch.setattr("pipelines.dataset.shards.manifest.read_footer", None)  # no footer is needed any more
    assert rows(store) == before and len(names(store, "videos")) == 3


def test_newest_rows_and_replacements_are_told_once(store):
    crowded(store)
    found = loaded(store)
    assert sorted(row["video_id"] for row in found if row["status"] != REPLACED) == sorted(
        f"{n:016x}" for n in EXPECTED
    )
    assert [(row["video_id"], row["generation"]) for row in found if row["status"] == REPLACED] == [(f"{1:016x}", 1)]
    check_crowded(store)


def test_compaction_is_seen_by_nobody(store):
    """A reader looks after each single change; every row is there exactly once."""
    crowded(store)
    changes = []

    def look(name):
        changes.append(name)
        if not name.startswith("manifest/"):
            check_crowded(store)

    found = compact(Watched(store, look))
    assert (found.before, found.after) == (8, 4) and len(changes) > 12
    assert len(names(store, "videos")) == len(names(store, "clips")) == 4  # one for each generation and set of stages
    raw = [entry for entry in store.list() if entry.name.startswith(("clips/", "videos/"))]
    assert len(raw) == 8
    check_crowded(store)
    again = compact(Watched(store, changes.append))
    assert again.before == again.after == 4 and not again.dropped


@pytest.mark.parametrize(("what", "step"), [(compact, 2), (sweep, 3)])
def test_compaction_may_end_anywhere(tmp_path, what, step):
    """It is stopped after each change in turn, and done again: no row comes back, none is lost."""

    class Stopped(Exception):
        pass

    whole = store_of(tmp_path / "whole")
    whole.replace("dataset.json", b'{"format": 2, "config": {}, "models": {}}')
    crowded(whole)
    for stop in range(1, 60, step):
        shutil.copytree(whole.folder, tmp_path / str(stop))
        store = store_of(tmp_path / str(stop))
        left = iter(range(stop - 1))

        def changed(_, left=left):
            if next(left, None) is None:
                raise Stopped

        try:
            what(Watched(store, changed))
        except Stopped:
            what(store)
            check_crowded(store)
        else:
            break
    assert stop > 10


def test_what_is_forgotten_stays_so(store):
    put(store, unit(1), unit(2))
    put(store, unit(3))
    forget(store, TABLES, [unit(2).id, unit(3).id])
    assert [video for video, _, _ in rows(store)[1]] == [f"{1:016x}"] and len(names(store, "videos")) == 1


def test_a_content_that_was_replaced_may_come_back(store):
    put(store, unit(1))
    put(store, unit(2), generation=1, replaces=[unit(1).id])
    sweep(store)
    floor = Dataset(store).current.floor([unit(1).id])
    assert floor == 1 and Dataset(store).current.floor([unit(2).id]) == -1
    put(store, unit(1), generation=floor + 1)
    assert len(rows(store)[1]) == 2


def test_a_shard_without_its_twin_does_not_count(store, caplog):
    put(store, unit(1))
    lone = put(store, unit(2)).shard
    store.delete(f"clips/part-{lone}.parquet")
    assert [video for video, _, _ in rows(store)[1]] == [f"{1:016x}"]
    assert "do not count" in caplog.text
    sweep(store)
    assert len(names(store, "videos")) == 1


def test_columns_that_only_videos_lack_are_added_once(store):

    put(store, unit(1))
    wider = replace(TABLES, facts=(*TABLES.facts, Column("colour", pa.string(), "c")))
    open_for_writing(store, wider)
    assert "colour" in Dataset(store).schema("videos").names
    changes = []
    open_for_writing(Watched(store, changes.append), wider)
    assert changes == [] and len(rows(store)[1]) == 1


# --- the lock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 0.8)
    monkeypatch.setattr(locks, "RENEW", 0.1)


def bucket():
    return store_of(f"memory://{os.urandom(6).hex()}/d")


def test_the_second_driver_is_told_who_holds_a_bucket(quick):
    store = bucket()
    with held(store, "dataset", DatasetError) as lock:
        message = rf"another process is writing this dataset \(process {os.getpid()} on"
        with pytest.raises(DatasetError, match=message), held(store, "dataset", DatasetError):
            pass
        lock.check()
    began = time.monotonic()
    with held(store, "dataset", DatasetError):  # given back: nobody waits
        assert time.monotonic() - began < 0.5


def test_a_lock_that_outlives_its_holder_is_taken_over(quick):
    store, told = bucket(), []
    store.replace("lock.json", b'{"pid": 1, "host": "gone", "since": 9e9}')  # by a clock that is far ahead
    with held(store, "dataset", DatasetError, waiting=told.append) as lock:
        lock.check()
    assert len(told) == 1 and "process 1 on gone" in told[0]


def test_only_one_takes_over(quick):
    store, taken, refused = bucket(), [], []
    store.replace("lock.json", b"{}")

    def take():
        try:
            with held(store, "dataset", DatasetError):
                taken.append(1)
                time.sleep(2)
        except DatasetError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 3)


def test_who_lost_the_lock_commits_no_more(quick):
    store = bucket()
    with held(store, "dataset", DatasetError) as lock:
        store.replace("lock.json", b'{"pid": 2, "host": "other", "since": 0, "run": "x"}')
        with pytest.raises(DatasetError, match=r"another process has taken its lock \(process 2 on other"):
            for _ in range(50):
                lock.check()
                time.sleep(0.05)
    assert b"other" in store.read("lock.json")  # and it is left to the other


def test_who_cannot_renew_gives_up_in_time(quick, monkeypatch):
    store = bucket()
    with held(store, "dataset", DatasetError) as lock:
        monkeypatch.setattr(store, "replace", lambda *_: (_ for _ in ()).throw(StoreError("down", transient=True)))
        began = time.monotonic()
        with pytest.raises(DatasetError, match="could not be renewed"):
            while time.monotonic() - began < 3:
                lock.check()
                time.sleep(0.02)
        assert time.monotonic() - began < 0.8
