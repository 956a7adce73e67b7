"""A job on Ray, in a child process that is started again where it ends without saying why.

Ray ends its driver when a daemon of it dies. So the command does not talk to Ray: its child does, and what the child committed
stays. Exit codes and messages are the command's.
"""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, Protocol

from curate.base.child import pack, unpack
from pipelines.annotation.pools import Place
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report
from pipelines.cluster import ExecutorError
from pipelines.config import Config

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipelines.annotation.driver import main; main(int(sys.argv[2]))"
)
IN_VAIN = 3  # starts in a row without a committed unit, after which the job stops
PAUSES = 0.0, 2.0, 10.0  # s before each of these
UNREACHABLE_SECONDS = 300.0  # for Ray to come back that was there before
STOP_SECONDS = 40.0  # for the child to commit what is finished, after Ctrl-C
OURS = ("pipelines.", "curate.", "duckdb", "pyarrow")
LOG = logging.getLogger("winnow")


class Shown(Protocol):
    """What a command shows of a job: see `pipelines.annotation.annotate.JobWatcher`."""

    def planning(self, looked: int) -> None: ...
    def planned(self, units: int, seconds: float, already: int) -> None: ...
    def unit(self, unit: Report) -> None: ...
    def committed(self, units: list[str]) -> None: ...


def supervised(
    sources: Sequence[str],
    out: str | os.PathLike[str],
    config: Config,
    *,
    place: Place,
    watcher: Shown,
    stages: Sequence[str] | None,
    retry_failed: bool,
) -> Summary:
    """`annotate` in a child process. Raises what the child raised, and ExecutorError where no child gets on."""
    request = {
        "sources": list(sources),
        "out": os.fspath(out),
        "config": config.model_dump_json(),
        "place": asdict(place),
        "stages": None if stages is None else list(stages),
        "retry_failed": retry_failed,
    }
    return _Supervisor(request, watcher).run()


class _Again(Exception):
    """A child says that it has to be started again, and why."""


class _Supervisor:
    """before: counts of children that were ended; now: of this one. pending: reports of units whose rows are not committed yet."""

    def __init__(self, request: dict[str, Any], watcher: Shown) -> None:
        self.request, self.watcher = request, watcher
        self.before, self.now, self.committed = Summary(), Summary(), 0
        self.pending: dict[str, Report] = {}
        self.ever = False
        self.shown = self.showing = 0, 0.0  # units and seconds told by children before this one, and with it

    def run(self) -> Summary:
        began = time.perf_counter()
        in_vain, gone_since = 0, None
        while True:
            self.committed, self.now, self.shown = 0, Summary(), self.showing
            try:
                done, how = self._once()
            except ExecutorError as error:
                if not self._may_come_back(error):
                    raise
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > UNREACHABLE_SECONDS:
                    raise
                LOG.warning("%s: trying again in %.0f s", str(error).rpartition("): ")[0] or error, PAUSES[-1])
                time.sleep(PAUSES[-1])
                continue
            if done is not None:
                done.wall = time.perf_counter() - began
                return done.with_earlier(self.before)
            gone_since = None
            self.ever |= self.committed > 0
            in_vain = 0 if self.committed else in_vain + 1
            self.before = self.now.with_earlier(self.before)
            self.pending.clear()  # their rows went with the child, and are made again
            if in_vain >= IN_VAIN:
                raise ExecutorError(
                    f"the job's process, or Ray under it, ended {in_vain} times without finishing a unit ({how}): see "
                    "whether the machine has memory and /dev/shm left, or use --executor inline; what is committed stays"
                )
            LOG.warning(
                "the job's process, or Ray under it, ended (%s): starting it again; what is committed stays", how
            )
            time.sleep(PAUSES[min(in_vain, len(PAUSES) - 1)])

    def _may_come_back(self, error: ExecutorError) -> bool:
        """Whether Ray was there before, and is not now: a cluster's head that starts again, a machine that is overloaded."""
        return self.ever and any(
            told in str(error) for told in ("cannot be reached", "cannot be started on this machine")
        )

    def _once(self) -> tuple[Summary | None, str]:
        """(the summary, "") of a child that finished; (None, how it ended)."""
        ours, theirs = socket.socketpair()
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # this process handles Ctrl-C
            )
        pipe = Connection(ours.detach())
        try:
            with _as_its_end():
                pipe.send_bytes(pack(self.request))
            told = self._listen(pipe)
        except KeyboardInterrupt:
            self._stop(pipe, child)
            raise
        except _Again as again:
            return None, str(again)
        except EOFError:
            return None, _ended(child)
        finally:
            pipe.close()
            _end(child)
        if isinstance(told, BaseException):  # outside of the above: it may be an OSError of the job
            raise told
        return told, ""

    def _listen(self, pipe: Connection) -> Summary | BaseException:
        """Hand on what the child says until it is done, and return its summary, or why it stopped. Raises EOFError where it ends without a word."""
        while True:
            with _as_its_end():
                ((kind, value),) = unpack(pipe.recv_bytes()).items()
            if kind == "summary":
                return Summary.of_plain(value)
            if kind == "error":
                return _raised(value)
            if kind == "again":
                raise _Again(value)
            if kind == "planning":
                self.watcher.planning(value)
            elif kind == "planned":
                units, seconds, already = value
                self.watcher.planned(units + self.shown[0], seconds + self.shown[1], already)
            elif kind == "log":
                name, level, text = value
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "unit":
                report = Report(**value)
                if report.written:
                    self.pending[report.id] = report
                self.watcher.unit(report)
                self.showing = self.showing[0] + 1, self.showing[1] + report.footage
            elif kind == "committed":
                self.watcher.committed(value)
                self.committed += len(value)
                for unit in value:
                    if report := self.pending.pop(unit, None):
                        self.now.count(report)

    def _stop(self, pipe: Connection, child: subprocess.Popen) -> None:
        """Let the child commit what is finished."""
        try:
            pipe.send_bytes(pack({"stop": True}))
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end and child.poll() is None and pipe.poll(1.0):
                pipe.recv_bytes()
            child.wait(max(0.0, end - time.monotonic()))
        except (EOFError, OSError, KeyboardInterrupt, subprocess.TimeoutExpired):
            return


@contextmanager
def _as_its_end() -> Iterator[None]:
    """A pipe that fails is the child's end; an OSError of anything else here, as of the terminal, is not."""
    try:
        yield
    except OSError as error:
        raise EOFError from error


def _ended(child: subprocess.Popen) -> str:
    try:
        code = child.wait(10)
    except subprocess.TimeoutExpired:
        return "it closed its connection"
    if code < 0:
        return (
            f"killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"killed by signal {-code}"
        )
    return f"exit code {code}; a daemon of Ray may have died"


def _end(child: subprocess.Popen) -> None:
    """See that nothing of the child is left: its local Ray ends with it."""
    if child.poll() is None:
        try:
            child.wait(5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _raised(error: dict[str, Any]) -> BaseException:
    """The exception that a child described."""
    module, name = error["module"], error["name"]
    found = None
    if module == "builtins":
        found = getattr(builtins, name, None)
    elif module.startswith(OURS):
        found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        found = None
    expected = found is not None and (
        module != "builtins" or issubclass(found, (OSError, KeyboardInterrupt, ImportError))
    )
    if not expected:
        sys.stderr.write(error["trace"])  # a defect
    try:
        return (found or RuntimeError)(*error["arguments"])
    except TypeError:
        return RuntimeError(" ".join(map(str, error["arguments"])))


__all__ = ["supervised"]
