"""The command and the process that runs its job: what becomes of it when that ends without a word. No Ray is needed: the
child here is a script that says what a driver says."""

import logging
import subprocess
import time
from typing import ClassVar

import psutil
import pytest

from curate.base.child import unpack
from curate.base.files import DiskError
from pipelines import cluster
from pipelines.annotation import supervising
from pipelines.annotation.driver import Told
from pipelines.annotation.pools import Place
from pipelines.annotation.summary import Summary
from pipelines.annotation.supervising import supervised
from pipelines.annotation.tasks import Report
from pipelines.cluster import ExecutorError, RayDied, RaySession
from pipelines.config import load
from pipelines.dataset.dataset import DatasetError

CHILD = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from multiprocessing.connection import Connection
from curate.base.child import pack, unpack
from pipelines.annotation.driver import described
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report
pipe = Connection(int(sys.argv[2]))
request = unpack(pipe.recv_bytes())
log = request["out"]
with open(log, "a") as stream: stream.write("x")
turn = os.path.getsize(log)
def say(**message): pipe.send_bytes(pack(message))
def unit(name, **how): say(unit=Report(name, name, written=True, clips=2, footage=4.0, **how).plain())
"""


@pytest.fixture
def job(tmp_path, monkeypatch, watcher):
    """Runs a script as the child; returns what `supervised` does."""

    def run(script):
        monkeypatch.setattr(supervising, "BOOT", CHILD + script)
        monkeypatch.setattr(supervising, "PAUSES", (0.0,))
        place = Place("ray")
        where = str(tmp_path / "log")
        return supervised([], where, load("quickstart"), place=place, watcher=watcher, stages=None, retry_failed=False)

    return run


def test_a_child_whose_ray_died_is_started_again(job, caplog):
    with caplog.at_level(logging.WARNING):
        script = (
            "say(again='Ray on this machine has ended (its raylet was killed)') if turn == 1 else say(summary={})\n"
        )
        assert job(script.replace("{}", "Summary(already=3).plain()")).already == 3
    assert "ended (Ray on this machine has ended (its raylet was killed)): starting it again" in caplog.text


def test_without_its_daemons_ray_is_known_to_be_dead(monkeypatch):
    """Here a process that sleeps is the daemon; nothing else is there to be waited for."""
    session, daemon = RaySession(None, "wait"), subprocess.Popen(["sleep", "60"])
    session.daemons = {psutil.Process(daemon.pid): "raylet"}
    monkeypatch.setattr(cluster, "OPEN", [session])
    cluster.check_ray()
    daemon.kill()
    with pytest.raises(RayDied, match=r"its raylet was killed"):
        for _ in range(100):
            time.sleep(0.05)
            cluster.check_ray()
    daemon.wait()
    with pytest.raises(RayDied):  # also when it is waited for
        session.check()


def test_a_child_that_ends_without_a_word_is_started_again_and_its_units_count_once(job, watcher, caplog):
    """The first commits a and dies with b uncommitted; the second finds a, does b and c, of which c failed."""
    with caplog.at_level(logging.WARNING):
        summary = job(
            "if turn == 1:\n"
            "    unit('a', clip_failures=1); say(committed=['a']); unit('b'); os._exit(1)\n"
            "found = Summary(already=1)\n"
            "say(planned=[2, 8.0, 1])\n"
            "for name, status in (('b', 'ok'), ('c', 'failed')):\n"
            "    report = Report(name, name, status=status, error='so', clips=2, footage=4.0); found.count(report)\n"
            "    say(unit=report.plain())\n"
            "say(summary=found.plain())\n"
        )
    assert (summary.videos, summary.already, summary.clips, summary.clip_failures) == (3, 0, 6, 1)
    assert (summary.failed, summary.failures, summary.footage) == (1, [("c", "so")], 8.0)
    assert "ended (exit code 1; a daemon of Ray may have died): starting it again" in caplog.text
    assert [unit.id for unit in watcher.units] == ["a", "b", "b", "c"]
    assert watcher.started == (4, 16.0, 1)  # as many as are shown as done at the end


def test_children_that_get_nowhere_end_the_job_with_the_reason(job):
    with pytest.raises(ExecutorError, match=r"ended 3 times without finishing a unit \(killed by SIGKILL\)"):
        job("os.kill(os.getpid(), 9)")


def test_progress_buys_more_starts_and_ray_may_come_back(job):
    summary = job(
        "from pipelines.cluster import ExecutorError\n"
        "if turn == 2: say(error=described(ExecutorError('Ray cannot be started on this machine (so): free it'))); os._exit(0)\n"
        "if turn < 9: unit(str(turn)); say(committed=[str(turn)]); os._exit(1)\n"
        "say(summary=Summary(already=7).plain())\n"
    )
    assert (summary.videos, summary.already) == (7, 0)


@pytest.mark.parametrize("kind", [DatasetError, DiskError, ExecutorError, KeyboardInterrupt, FileNotFoundError])
def test_what_a_child_raises_is_raised(job, kind):
    script = f"from {kind.__module__} import {kind.__name__}\nsay(error=described({kind.__name__}('d: told')))\n"
    with pytest.raises(kind, match="d: told"):
        job(script)


def test_a_defect_of_the_child_is_shown_with_its_trace(job, capfd):
    with pytest.raises(IndexError, match="out of range"):
        job("try: [][0]\nexcept IndexError as error: say(error=described(error))\n")
    assert "Traceback" in capfd.readouterr().err


def test_a_summary_crosses_a_process_boundary():
    from curate.base.child import pack, unpack

    summary = Summary(videos=2, moved=1)
    summary.skipped.add("hidden", "/x/.a")
    for index in range(2):
        summary.count(Report("a", "\udcff.mp4", index, 2, status="failed", error="broken"))
    found = Summary.of_plain(unpack(pack(summary.plain())))
    assert found == Summary(**{**summary.__dict__, "long": set()}) and found.reasons["broken"] == 2
    assert found.failed == 1


def test_ray_that_does_not_start_is_tried_again_and_told_in_one_line(monkeypatch):
    ray, started = pytest.importorskip("ray"), []

    def init(**_):
        started.append(1)
        if len(started) != 2:
            raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with RaySession(None, "use --executor inline"):
        assert len(started) == 2
    with pytest.raises(
        ExecutorError, match=r"^Ray cannot be started on this machine \(The current node .* This could happen\): free "
    ):
        RaySession(None, "use --executor inline").__enter__()  # the third and fourth time
    assert len(started) == 4


def test_planning_goes_on_while_a_unit_is_told():
    class Pipe:
        """Planning tells something whenever a message is sent, as its thread may."""

        sent: ClassVar[list[dict]] = []

        def send_bytes(self, data: bytes) -> None:
            self.sent.append(unpack(data))
            if len(self.sent) < 20:
                told.planning(len(self.sent))
                told.planned(2, 1.0, len(self.sent))

    told = Told(Pipe())
    for looked in range(3):
        told.planning(looked)
    told.unit(Report("a", "a.mp4"))
    assert sum("unit" in message for message in Pipe.sent) == 1
