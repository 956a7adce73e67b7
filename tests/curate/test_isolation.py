"""A crash, a hang and a memory blow-up each cost one unit, with a plain reason, and the next unit is served."""

import os
import signal
import threading
import time

import pytest

from curate import isolation
from curate.clip import Unit, Video
from curate.isolation import Isolated
from tests.bad_inputs import PASS, write

NAUGHTY = """
import os, time, curate.video, curate.watch
def naughty(unit, **how):
    what = how.get("decode", {}).get("do")
    if what == "abort": os.abort()
    if what == "exit": os._exit(3)
    if what == "sleep": time.sleep(60)
    if what == "grow": kept = [bytearray(50_000_000) for _ in range(100)]
    if what == "raise": raise ValueError("no such thing")
    return watch(unit, **how)
watch, curate.watch.watch = curate.watch.watch, naughty
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write(path)
    return str(path)


@pytest.fixture
def child(monkeypatch):
    """An Isolated whose child misbehaves when it is told to."""
    monkeypatch.setattr(
        isolation,
        "BOOT",
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n" + NAUGHTY + "\n"
        "from curate.isolation import serve; serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])",
    )
    one = Isolated(timeout=60, memory_gb=1.0)
    yield one
    one.close()


def asked(child: Isolated, film: str, do: str | None = None) -> Unit:
    return child.watch(Unit(Video(film)), **{**PASS, "decode": {"do": do} if do else {}})


def test_the_pass_in_a_child_gives_what_it_gives_here(film):
    from curate.watch import watch

    child = Isolated()
    (unit,) = child.plan(Video(film))
    there, here = child.watch(unit, **PASS), watch(unit, **PASS)
    assert [c.values for c in there.clips] == [c.values for c in here.clips] and there.facts == here.facts
    child.close()
    assert child.pid is None


@pytest.mark.parametrize(
    "do, reason",
    [
        ("abort", "the decoder crashed (SIGABRT)"),
        ("exit", "ended unexpectedly (exit code 3)"),
        ("grow", "needed more than 1 GB of memory"),
        ("raise", "ValueError: no such thing"),
    ],
)
def test_a_bad_end_fails_the_unit_and_the_next_is_served(child, film, do, reason):
    unit = asked(child, film, do)
    assert unit.status == "failed" and reason in unit.error and unit.clips == []
    assert asked(child, film).status == "ok"


def test_a_hang_ends_at_the_timeout_and_the_next_is_served(child, film):
    assert asked(child, film).status == "ok"
    child.timeout = 1.0
    began = time.monotonic()
    unit = asked(child, film, "sleep")
    assert unit.status == "failed" and unit.error == "took longer than 1 s" and time.monotonic() - began < 10
    child.timeout = 60
    assert asked(child, film).status == "ok"


def test_killed_from_outside_in_the_middle_of_a_unit(child, film):
    assert asked(child, film).status == "ok"
    first = child.pid
    threading.Timer(0.5, lambda: os.kill(first, signal.SIGKILL)).start()
    unit = asked(child, film, "sleep")
    assert unit.status == "failed" and "SIGKILL" in unit.error
    assert asked(child, film).status == "ok" and child.pid != first


def test_killed_between_two_units_nothing_is_lost(child, film):
    assert asked(child, film).status == "ok"
    os.kill(child.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert asked(child, film).status == "ok"


def test_a_file_that_cannot_be_planned_in_time_is_a_failed_unit(child, film, tmp_path):
    (unit,) = child.plan(Video(str(tmp_path / "none.mp4")))
    assert unit.status == "failed" and unit.error == "there is no such file"
