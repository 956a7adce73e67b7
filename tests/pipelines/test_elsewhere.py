"""What a worker on another machine does not see: the sources, or the dataset. It is told, and never recorded as a fault of a
file."""

import os
import socket

import pytest

from curate.base.child import UNSEEN
from curate.base.store import StoreError, store_of
from curate.clip import Clip, Unit, Video
from curate.export.span import Span
from curate.video import identity
from pipelines.annotation import annotate as jobs
from pipelines.annotation import decoding
from pipelines.annotation.annotate import annotate
from pipelines.annotation.decoding import Frames, unseen
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import tables_of
from pipelines.annotation.workers.worker import Target, Worker
from pipelines.cluster import DRIVER, ExecutorError, elsewhere, worker_environment
from pipelines.config import load
from pipelines.curated.cutting import CutJob, CutterError, cut
from pipelines.dataset.dataset import DatasetError
from pipelines.demo import write
from pipelines.sources.sources import InputError
from tests.footage import pan
from tests.pipelines.test_annotate import FAST, job, rows

CONFIG = load("quickstart", FAST)


@pytest.fixture
def film(tmp_path):
    (tmp_path / "films").mkdir()
    write(tmp_path / "films" / "a.mp4", pan(20, 2, seed=1))
    return tmp_path / "films" / "a.mp4"


@pytest.fixture
def other_machine(monkeypatch):
    monkeypatch.setenv(DRIVER, "another boot")


def test_workers_know_whether_they_are_on_the_machine_of_their_driver(monkeypatch):
    assert not elsewhere()  # of no driver
    monkeypatch.setenv(DRIVER, worker_environment(1)[DRIVER])
    assert not elsewhere()
    monkeypatch.setenv(DRIVER, "another boot")
    assert elsewhere()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_file_that_this_machine_does_not_see_is_lost_and_done_by_the_next_run(
    film, tmp_path, watcher, monkeypatch, where
):
    watch, aside = decoding.watch, tmp_path / "aside"

    def hidden(unit, **how):
        os.rename(film, aside)  # as on a node without the mount
        found = watch(unit, **how)
        if where == "elsewhere":
            assert (loss := unseen(unit)) and loss.kind == UNSEEN and socket.gethostname() in str(loss)
        else:
            assert unseen(unit) is None
        return found

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "watch", hidden)
        patch.setattr("pipelines.annotation.workers.executor.RETRIES_ALONE", 0)
        if where == "elsewhere":
            patch.setenv(DRIVER, "another boot")
        summary = job(film.parent, tmp_path / "d", watcher)
    os.rename(aside, film)
    (found,) = rows(tmp_path / "d", "status, error", "videos")
    if where == "here":  # deleted meanwhile
        assert found == ("failed", "there is no such file") and summary.failed == 1
        return
    assert found[0] == "lost" and "does not see it" in found[1] and summary.failed == 0
    job(film.parent, tmp_path / "d", watcher)
    assert rows(tmp_path / "d", "status", "videos") == [("ok",)]


def test_an_object_that_this_machine_may_not_read_is_lost_and_one_that_is_gone_is_not(other_machine, monkeypatch):
    unit = Unit(Video("memory://elsewhere/a.mp4", "ab" * 16), facts={"bytes": 3})
    assert unseen(unit) is None  # gone, for all machines

    def denied(*_, **__):
        raise StoreError("access is denied", denied=True)

    monkeypatch.setattr(identity, "entry_of", denied)
    assert unseen(unit).kind == UNSEEN


def test_frames_for_a_captioner_of_a_file_that_is_not_seen_are_lost(film, other_machine, monkeypatch):
    monkeypatch.setattr(decoding, "frames_needed", lambda *_: 2)
    unit = Unit(Video(str(film.parent / "b.mp4"), "ab" * 16), facts={"bytes": 3, "modified": 1}, todo=["captions"])
    unit.clips = [Clip(0, 10, 0.0, 1.0, 0.0, 1.0)]
    (found,) = Frames(CONFIG)([unit])
    assert found.status == "lost" and found.lost == [UNSEEN]


def test_a_clip_whose_source_this_machine_does_not_see_stops_the_cut(film, monkeypatch):
    asked = CutJob("x", str(film.parent / "b.mp4"), Span(0, 10, 0.0, 0.4))
    assert "no such file" in cut(asked)
    monkeypatch.setenv(DRIVER, "another boot")
    with pytest.raises(CutterError, match=r"does not see it.*--executor inline"):
        cut(asked)


def test_a_worker_that_sees_another_disk_is_refused_with_its_name(tmp_path):
    tables = tables_of(CONFIG.parts)
    store = store_of(tmp_path / "d")
    store.put(f"{jobs.PROBE}killed", b"")
    with jobs._probe(store, "run1") as probe:
        assert [path.name for path in store.folder.iterdir()] == [probe]
        Worker(CONFIG, ["motion"], Target(store.url, tables, {}, "run1", probe))
        with pytest.raises(ExecutorError, match=f"machine {socket.gethostname()} does not see the dataset"):
            Worker(CONFIG, ["motion"], Target(str(tmp_path / "own disk"), tables, {}, "run1", probe))
    assert not list(store.folder.iterdir()) and not (tmp_path / "own disk").exists()


def test_memory_is_no_place_for_the_workers_of_ray(tmp_path, film, watcher):
    def on_ray(source, out):
        annotate([str(source)], out, CONFIG, place=Place("ray"), watcher=watcher)

    with pytest.raises(DatasetError, match=r"memory://a/d: is in the memory of this process: use --executor inline"):
        on_ray(film, "memory://a/d")
    with pytest.raises(InputError, match=r"memory://a/films: is in the memory of this process"):
        on_ray("memory://a/films", tmp_path / "d")
    assert not (tmp_path / "d").exists()
