"""What a run tells of itself: counts, rates, what it waits for, on any store, in a bounded number of objects."""

import json
import time

import pytest

from curate.base.store import StoreError, store_of
from pipelines.status import events as events_module
from pipelines.status.events import read_events
from pipelines.status.runlog import STATUS, RunLog


def read(store):
    return json.loads(store.read(STATUS))


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return store_of(tmp_path / "data" if request.param == "folder" else f"memory://status-{time.time_ns()}/data")


def test_a_run_tells_what_it_did_and_does(store):
    log = RunLog(store, "r1", every=0.02)
    log.already(3)
    log.planned(4, 400.0)
    log.planned(1, 100.0, final=True)
    log.started("a-0000", "/films/a.mp4", "w1", pool="decode", footage=100.0, limit=600.0)
    log.started("b-0000", "/films/b.mp4", "w2", pool="decode", footage=100.0)
    log.started("c-0000", "/films/\udcff.mp4", "w3", footage=100.0)
    log.finished("b-0000", "failed", error="no video stream")
    time.sleep(0.05)
    log.finished("a-0000", "ok", footage=99.0, clips=7, seconds={"decode": 3.0, "text": 9.0})
    log.lost("c-0000", "worker", "the worker died")
    log.started("d-0000", "/films/d.mp4", "w1", footage=100.0, limit=600.0)
    log.committed("part-1", 2, clips=7, size=1000)
    log.workers("decode", 1, 3, "1 CPU each")
    log.waiting("a node")
    deadline = time.monotonic() + 10
    while not (store.exists(STATUS) and read(store)["waiting"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    found = read(store)
    assert found["state"] == "running" and found["planned"] == {
        "units": 5,
        "footage": 500.0,
        "final": True,
        "already": 3,
    }
    assert found["done"] == {"ok": 1, "failed": 1} and found["lost"] == 1 and found["clips"] == 7
    assert found["footage"] == 99.0 and found["handled"] == 200.0
    assert [(unit["unit"], unit["limit"]) for unit in found["running"]["longest"]] == [("d-0000", 600.0)]
    assert found["slowest"][0]["path"] == "/films/a.mp4" and found["slowest"][0]["wall"] >= 0.05
    assert list(found["stages"].items()) == [("text", 9.0), ("decode", 3.0)]
    assert found["reasons"] == {"no video stream": 1} and found["failures"][0]["path"] == "/films/b.mp4"
    assert found["pools"]["decode"] == {"there": 1, "wanted": 3, "waits_for": "1 CPU each"}
    assert found["waiting"]["for"] == "a node" and found["left"] > 0
    log.close()
    ended = read(store)
    assert ended["state"] == "finished" and ended["running"]["units"] == 0 and ended["beats"] > found["beats"]
    kinds = [event["event"] for event in read_events(store, "r1")]
    assert kinds == ["began", "planned", "unit", "unit", "lost", "committed", "workers", "waiting", "ended"]


def test_state_and_events_are_bounded(store, monkeypatch):
    monkeypatch.setattr(events_module, "PART_BYTES", 20_000)
    log = RunLog(store, "big", every=0.01)
    for at in range(2000):
        log.started(f"u{at}", f"/films/{at}.mp4")
        log.finished(f"u{at}", "failed", error=f"reason {at}")
    log.close()
    found = read(store)
    assert found["done"] == {"failed": 2000} and sum(found["reasons"].values()) == 2000
    assert len(found["reasons"]) == 51 and len(found["failures"]) == len(found["slowest"]) == 20
    assert len(json.dumps(found)) < 20_000
    assert len(list(store.list("events/"))) < 40
    assert [e["unit"] for e in read_events(store, "big") if e["event"] == "unit"] == [f"u{at}" for at in range(2000)]


def test_old_events_are_deleted(store, monkeypatch):
    monkeypatch.setattr(events_module, "KEPT", 2)
    for run in ("r1", "r2", "r3", "r4"):
        RunLog(store, run, every=0.01).close()
        time.sleep(0.01)
    assert {entry.name.split("-")[0] for entry in store.list("events/")} == {"events/r2", "events/r3", "events/r4"}


def test_a_store_that_does_not_answer_stops_nothing(store, monkeypatch, caplog):
    put, broken = store.put, [True]

    def fails(name, data):
        if broken:
            raise StoreError("no answer", transient=True)
        return put(name, data)

    monkeypatch.setattr(store, "put", fails)
    monkeypatch.setattr(events_module, "MOST_BYTES", 3000)
    monkeypatch.setattr(events_module, "FIRST_AGE", 0.0)
    log = RunLog(store, "r1", every=0.01)
    for at in range(100):
        log.finished(f"u{at}", "ok", path=f"/films/{at}.mp4")
    time.sleep(0.1)
    broken.clear()
    log.close()
    assert read(store)["done"] == {"ok": 100} and caplog.text.count("cannot be written") == 1
    kept = [event["unit"] for event in read_events(store, "r1") if event["event"] == "unit"]
    assert kept[-1] == "u99" and len(kept) + read(store)["events"]["dropped"] >= 100


def test_a_run_that_was_taken_over_writes_no_more(store):
    first = RunLog(store, "first", every=3600)
    time.sleep(0.1)
    second = RunLog(store, "second", every=3600)
    time.sleep(0.1)
    first.finished("u", "ok")
    first.close()
    assert read(store)["run"] == "second"
    second.close()
    assert read(store)["run"] == "second"
