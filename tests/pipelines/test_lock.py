"""Who may write a dataset in a bucket: one process at a time, however clocks, machines and answers fail."""

import json
import subprocess
import sys
import time

import pytest

from curate.base.store import store_of
from pipelines.dataset import lock
from pipelines.dataset.lock import Fence, held

HOLD = """
import sys, time
from pipelines.dataset import lock
lock.RENEW = 0.5
with lock.held(sys.argv[1], "dataset", RuntimeError):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 3.0)
    monkeypatch.setattr(lock, "RENEW", 0.5)


def holder(place, seconds=60.0):
    process = subprocess.Popen([sys.executable, "-c", HOLD, place, str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def lock_it(place):
    """What was said while it waited."""
    said = []
    with held(place, "dataset", RuntimeError, waiting=said.append) as found:
        found.check()
    return said


def elsewhere(store):
    """The lease as if its holder were on another machine."""
    found = json.loads(store.read("lock.json"))
    store.replace("lock.json", json.dumps(found | {"machine": "another", "host": "far"}).encode())


def test_a_second_process_is_told_who_holds_it_and_gets_it_when_that_has_ended(storage, short):
    place = f"{storage.bucket()}/data"
    process = holder(place)
    try:
        with pytest.raises(RuntimeError, match=rf"another process is writing this dataset \(process {process.pid} on "):
            lock_it(place)
    finally:
        process.kill()
        process.wait()
    began = time.monotonic()
    lock_it(place)  # killed on this machine: not waited for
    assert time.monotonic() - began < 2


def test_a_holder_on_another_machine_is_watched_whatever_its_clock_says(storage, short):
    place = f"{storage.bucket()}/data"
    process = holder(place)
    process.kill()
    process.wait()
    store = store_of(place)
    elsewhere(store)
    found = json.loads(store.read("lock.json"))
    store.replace("lock.json", json.dumps(found | {"since": time.time() + 1e6}).encode())  # a clock far ahead
    began = time.monotonic()
    (said,) = lock_it(place)
    assert 3 <= time.monotonic() - began < 8 and "on far" in said


def test_a_write_whose_answer_is_lost_is_found_to_be_ours(storage, short):
    place = f"{storage.bucket()}/data"
    storage.faults(3, 1.0, kinds=["late 500"], only="PUT")
    began = time.monotonic()
    assert lock_it(place) == []
    storage.faults(None)
    assert storage.counts()["faults"]["late 500"] >= 1 and time.monotonic() - began < 3


def test_who_was_taken_over_may_not_commit(storage, short):
    place = f"{storage.bucket()}/data"
    with held(place, "dataset", RuntimeError) as first:
        first.check()
        store = store_of(place)
        store.replace("lock.json", json.dumps({"run": "other", "pid": 1, "host": "far", "since": 0}).encode())
        time.sleep(1.5)
        with pytest.raises(RuntimeError, match="another process has taken its lock"):
            first.check()
    assert json.loads(store.read("lock.json"))["run"] == "other"  # not given back: it is not ours


def test_a_worker_writes_only_while_its_run_holds_the_lease(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOK", 0.0)
    store = store_of(f"{storage.bucket()}/fenced")
    with held(store, "dataset", RuntimeError) as mine:
        worker = Fence(store, mine.run, RuntimeError)
        worker.check()
        Fence(store_of(tmp_path), mine.run, RuntimeError).check()  # a disk's lock needs none
    with pytest.raises(RuntimeError, match="holds its lock no more: stopped before writing more"):
        worker.check()  # its driver has ended
    with held(store, "dataset", RuntimeError), pytest.raises(RuntimeError, match=r"no more \(process \d+ on "):
        worker.check()  # and another has begun
