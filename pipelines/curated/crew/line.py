"""The command's end of the line to the process that talks to Ray, which is started again where it ends without a word.

Ray ends its driver when a daemon of it dies. What the workers had finished is written; the tasks in their hands are given
again. Exit codes and messages are the command's.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple
from multiprocessing.connection import Connection
from typing import Any

from curate.base.child import pack, unpack
from curate.base.files import DiskError
from curate.base.store.places import StoreError
from pipelines.cluster import ExecutorError
from pipelines.curated.cutting import CutJob, CutterError
from pipelines.curated.shards import ShardPlan

__all__ = ["CrewLine"]

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipelines.curated.crew.process import main; main(int(sys.argv[2]))"
)
EXPECTED = {kind.__name__: kind for kind in (CutterError, ExecutorError, StoreError, DiskError)}
IN_VAIN = 3  # starts in a row without one finished task, after which the job stops
PAUSES = 0.0, 2.0, 10.0  # s before each of these
UNREACHABLE_SECONDS = 300.0  # for a cluster to come back that was there before
CLOSE_SECONDS = 30.0  # for Ray to shut down
LOG = logging.getLogger("winnow")


class CrewLine:
    """Workers of Ray, at one remove. spec, workers: see `Crew`. address: of a cluster, None: this machine. note: is told
    what is waited for. Raises ExecutorError and CutterError where the work cannot go on."""

    def __init__(
        self, spec: Mapping[str, Any], address: str | None, workers: int | None, note: Callable[[str], None]
    ) -> None:
        self.start, self.note = {"spec": dict(spec), "address": address, "workers": workers}, note
        self.child: subprocess.Popen | None = None
        self.pipe: Connection | None = None
        self.finished = self.ever = 0  # tasks, since the child was started, and in all

    def __enter__(self) -> CrewLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.child is None or self.pipe is None:
            return
        with suppress(OSError, subprocess.TimeoutExpired):
            self.pipe.send_bytes(pack({"close": True}))
            self.child.wait(CLOSE_SECONDS if kind is None else 2.0)
        self._end()

    def sample(self, count: int) -> dict[int, int | None]:
        """Bytes of the clips at the first positions, None where one cannot be cut; they lie in the spool."""
        return dict(self._run("sample", range(count), lambda position: position))

    def together(self, groups: Iterable[Sequence[CutJob]]) -> Iterator[int]:
        """Cut each group in one pass, into the spool: how many clips of it lie there."""
        for _, count in self._run("together", groups, lambda jobs: [asdict(job) for job in jobs]):
            yield count

    def write(self, plans: Iterable[ShardPlan]) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
        """Write shards: each with its footer, as they are finished."""
        yield from self._run("write", plans, astuple)

    def _run(self, method: str, tasks: Iterable[Any], plain: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        waiting, again = enumerate(tasks), deque[tuple[int, Any]]()
        held: dict[int, Any] = {}  # in the hands of the child
        in_vain, gone_since = 0, None
        while True:
            try:
                self._send(run=method)
                while "ran" not in (said := self._hear()):
                    if "want" in said:
                        key, task = again.popleft() if again else next(waiting, (-1, None))
                        if key < 0:
                            self._send(end=True)
                            continue
                        held[key] = task
                        self._send(task=[key, plain(task)])
                    elif "done" in said:
                        key, answer = said["done"]
                        self.finished, self.ever, in_vain, gone_since = self.finished + 1, self.ever + 1, 0, None
                        yield held.pop(key), answer
                return
            except ExecutorError as error:
                gone_since = gone_since or time.monotonic()
                if not self._may_come_back(error) or time.monotonic() - gone_since > UNREACHABLE_SECONDS:
                    raise
                LOG.warning("%s: trying again in %.0f s", str(error).partition(":")[0], PAUSES[-1])
                time.sleep(PAUSES[-1])
            except (EOFError, OSError):
                in_vain = self._lost(in_vain)
            self._end()
            again.extend(held.items())
            held.clear()

    def _lost(self, in_vain: int) -> int:
        """The child ended without a word: how often it did so in vain, after the pause that goes with it."""
        how = _ended(self.child)
        in_vain = 0 if self.finished else in_vain + 1
        if in_vain >= IN_VAIN:
            raise ExecutorError(
                f"the job's process, or Ray under it, ended {in_vain} times without finishing a task ({how}): see "
                "whether the machine has memory and /dev/shm left, or use --executor inline"
            ) from None
        LOG.warning("the job's process, or Ray under it, ended (%s): starting it again; what is written stays", how)
        time.sleep(PAUSES[min(in_vain, len(PAUSES) - 1)])
        return in_vain

    def _may_come_back(self, error: ExecutorError) -> bool:
        return bool(self.ever and self.start["address"]) and "cannot be reached" in str(error)

    def _send(self, **message: Any) -> None:
        if self.pipe is None:
            self._begin()
        self.pipe.send_bytes(pack(message))  # type: ignore[union-attr]

    def _hear(self) -> dict[str, Any]:
        """The next message but notes. Raises EOFError where the child ended, and what it says that it raised."""
        while True:
            said = unpack(self.pipe.recv_bytes())  # type: ignore[union-attr]
            if "note" in said:
                self.note(said["note"])
            elif "error" in said:
                name, text, trace = said["error"]
                if name not in EXPECTED:
                    sys.stderr.write(trace)  # a defect
                raise EXPECTED.get(name, RuntimeError)(text)
            else:
                return said

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.child = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # this process handles Ctrl-C
            )
        self.pipe, self.finished = Connection(ours.detach()), 0
        self.pipe.send_bytes(pack(self.start))

    def _end(self) -> None:
        """See that nothing of the child is left: it ends with the line, and its local Ray with it."""
        child, pipe, self.child, self.pipe = self.child, self.pipe, None, None
        if pipe is not None:
            pipe.close()
        if child is not None:
            try:
                child.wait(5.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _ended(child: subprocess.Popen | None) -> str:
    try:
        code = child.wait(10) if child else 0
    except subprocess.TimeoutExpired:
        return "it closed its connection"
    if code >= 0:
        return f"exit code {code}; a daemon of Ray may have died"
    known = -code in set(signal.Signals)
    return f"killed by {signal.Signals(-code).name}" if known else f"killed by signal {-code}"
