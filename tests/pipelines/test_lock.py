"""Who may write a dataset in a bucket: one process at a time, however clocks, machines and answers fail."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from curate.base.store import StoreError, connection, store_of
from pipelines.dataset import lock
from pipelines.dataset.lock import Fence, held
from pipelines.dataset.shards import Manifest
from pipelines.status.runlog import EVERY, RunLog

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
    assert lock_it(place) == []  # nobody was watched
    storage.faults(None)
    assert storage.counts()["faults"]["late 500"] >= 1


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


class Slow:
    """Calls of a store's method, of which the first waits."""

    def __init__(self, monkeypatch, store, method, seconds):
        self.real, self.seconds = getattr(store, method), seconds
        monkeypatch.setattr(store, method, self)

    def __call__(self, *arguments, **options):
        time.sleep(self.seconds)
        self.seconds = 0.0
        return self.real(*arguments, **options)


def memory():
    return store_of(f"memory://{os.urandom(6).hex()}/d")


def test_a_watcher_whose_first_look_was_slow_has_not_watched_yet(monkeypatch):
    """It answers shortly before the time of a lease is over; the holder renews a little later, as it always does."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    monkeypatch.setattr(lock, "RENEW", 0.5)
    monkeypatch.setattr(lock, "has_ended", lambda holder: False)
    store = memory()
    with held(store, "dataset", RuntimeError) as first:
        watcher = memory()
        watcher.url, watcher.prefix, watcher.connection = store.url, store.prefix, store.connection
        Slow(monkeypatch, watcher, "head", 0.95)
        with pytest.raises(RuntimeError, match="another process is writing"), held(watcher, "dataset", RuntimeError):
            pass
        first.check()


def test_a_lease_is_as_old_as_the_beginning_of_its_write(monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 1.0)
    monkeypatch.setattr(lock, "RENEW", 0.4)
    store = memory()
    lease = lock._Lease(store, "dataset", RuntimeError)
    monkeypatch.setattr(lease, "_prove", lambda: None)
    Slow(monkeypatch, store, "put", 0.7)
    lease.take(None)
    try:
        with pytest.raises(RuntimeError, match="could not be renewed for 1 s"):
            lease.check()
    finally:
        lease.give_back()


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_service_that_ignores_conditions_is_refused(monkeypatch, ignored):
    store = memory()
    put, replace = store.put, store.replace
    if ignored == "If-None-Match":
        monkeypatch.setattr(store, "put", lambda name, data: bool(replace(name, data)))
    else:
        monkeypatch.setattr(store, "replace", lambda name, data, version=None: replace(name, data))
    with (
        pytest.raises(RuntimeError, match=rf"writes over objects although it is told not to \({ignored} is ignored\)"),
        held(store, "dataset", RuntimeError),
    ):
        pass
    assert put("other", b"x")


def test_a_service_that_answers_no_more_is_tried_again_in_time(monkeypatch):
    """A write that gets no answer ends after seconds; it neither uses up the lease nor holds up who gives it back."""
    monkeypatch.setattr(connection, "BRIEF", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setattr(connection, "FIRST_PATIENCE", 0.5)
        began = time.monotonic()
        lease = lock._Lease(store_of("s3://bucket/data"), "dataset", RuntimeError)
        with pytest.raises(StoreError, match="cannot be reached"):
            lease._over("version")
        assert time.monotonic() - began < 3


def test_storage_that_counts_writes_is_renewed_seldom(caplog):
    """The hub refuses hundreds of commits an hour."""
    hub = store_of("hf://datasets/me/data")
    lease = lock._Lease(hub, "dataset", RuntimeError)
    assert 3600 / lease.renew <= 30 and lease.lease == 6 * lease.renew
    assert RunLog(None, "r").every == EVERY and Manifest(hub).every >= 120
    lease._prove()
    assert "has no conditional writes" in caplog.text
