"""A crash, a hang and a memory blow-up each cost one unit, with a plain reason, and the next unit is served. Once they are
a loss, twice a failure; what came from outside is a loss each time."""

import errno
import os
import signal
import threading
import time

import pytest

from curate.base import child as children
from curate.base.child import NotStarted
from curate.clip import Unit, Video
from curate.watching.isolation import Isolated
from tests.bad_inputs import PASS, write

NAUGHTY = """
import os, time, curate.video.decode, curate.watching.watch
def naughty(unit, **how):
    what = how.get("decode", {}).get("do")
    if what == "abort": os.abort()
    if what == "exit": os._exit(3)
    if what == "sleep": time.sleep(60)
    if what == "grow": kept = [bytearray(50_000_000) for _ in range(100)]
    if what == "raise": raise ValueError("no such thing")
    return watch(unit, **how)
watch, curate.watching.watch.watch = curate.watching.watch.watch, naughty
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    write(path)
    return str(path)


@pytest.fixture
def child(monkeypatch):
    """An Isolated whose child misbehaves on request."""
    monkeypatch.setattr(
        children,
        "BOOT",
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n" + NAUGHTY + "\n"
        "from curate.base.child import serve; serve(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])",
    )
    one = Isolated(timeout=60, memory_gb=1.0)
    yield one
    one.close()


def asked(child: Isolated, film: str, do: str | None = None, lost: list[str] = []) -> Unit:  # noqa: B006
    return child.watch(Unit(Video(film), lost=lost), **{**PASS, "decode": {"do": do} if do else {}})


def test_the_pass_in_a_child_gives_what_it_gives_here(film):
    from curate.watching.watch import watch

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
        ("grow", "needs more than 1 GB of memory (decode.memory_gb)"),
    ],
)
def test_a_bad_end_is_a_loss_the_same_again_a_failure_and_the_next_is_served(child, film, do, reason):
    unit = asked(child, film, do)
    assert unit.status == "lost" and reason in unit.error and unit.clips == []
    again = asked(child, film, do, lost=unit.lost)
    assert again.status == "failed" and reason in again.error
    assert asked(child, film).status == "ok"


def test_what_the_function_raises_is_the_units_own(child, film):
    unit = asked(child, film, "raise")
    assert unit.status == "failed" and unit.error == "ValueError: no such thing"


def test_a_hang_ends_at_the_timeout_and_the_next_is_served(child, film):
    assert asked(child, film).status == "ok"
    began = time.monotonic()
    unit = child.watch(Unit(Video(film)), 1.0, **{**PASS, "decode": {"do": "sleep"}})
    assert unit.status == "lost" and unit.error == "took longer than 1 s" and time.monotonic() - began < 10
    again = child.watch(Unit(Video(film), lost=unit.lost), 1.0, **{**PASS, "decode": {"do": "sleep"}})
    assert again.status == "failed"
    assert asked(child, film).status == "ok"


def test_a_process_that_was_stopped_is_not_the_files_fault(child, film):
    assert asked(child, film).status == "ok"
    os.kill(child.pid, signal.SIGSTOP)
    unit = child.watch(Unit(Video(film), lost=["time"]), 1.0, **PASS)
    assert unit.status == "lost" and unit.error == "took longer than 1 s: the process was stopped"
    assert asked(child, film).status == "ok"


def test_killed_from_outside_is_a_loss_however_often(child, film):
    lost = []
    for _ in range(3):
        assert asked(child, film).status == "ok"
        first = child.pid
        threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
        unit = asked(child, film, "sleep", lost=lost)
        assert unit.status == "lost" and "killed from outside (SIGKILL" in unit.error
        lost = unit.lost
    assert asked(child, film).status == "ok" and child.pid != first


@pytest.mark.parametrize("memory_gb", [0.02, 0.1, 0.15])
def test_a_limit_that_no_child_starts_under_is_said_and_is_no_units_fault(film, memory_gb, monkeypatch, capfd):
    monkeypatch.setattr(children, "START_RETRY_SECONDS", ())
    one = Isolated(timeout=60, memory_gb=memory_gb)
    with pytest.raises(NotStarted, match=rf"within its {memory_gb:g} GB of memory .*: raise decode.memory_gb"):
        one.watch(Unit(Video(film)), **PASS)
    assert one.pid is None and capfd.readouterr().err == ""


def test_a_machine_without_room_for_a_process_is_tried_again_and_then_said(film, monkeypatch):
    tries = []

    def full(*_, **__):
        tries.append(1)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(children, "START_RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(children.subprocess, "Popen", full)
    with pytest.raises(NotStarted, match="Resource temporarily unavailable"):
        Isolated().plan(Video(film))
    assert len(tries) == 3


def test_killed_between_two_units_nothing_is_lost(child, film):
    assert asked(child, film).status == "ok"
    os.kill(child.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert asked(child, film).status == "ok"


def test_a_file_that_cannot_be_planned_in_time_is_a_failed_unit(child, film, tmp_path):
    (unit,) = child.plan(Video(str(tmp_path / "none.mp4")))
    assert unit.status == "failed" and unit.error == "there is no such file"
