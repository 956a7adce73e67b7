"""The processes of one run, and what kind each is: known by a mark in their environment, which children inherit.

Only processes with the mark are ever looked at, killed or waited for; whatever else runs on the machine is not touched.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MARK = "WINNOW_TORTURE"
KINDS = ("driver", "supervised", "worker", "decoder", "raylet", "gcs")
LEAVE_SECONDS = 60.0  # for what a killed process leaves behind to end by itself


@dataclass(frozen=True)
class Process:
    """One process. born: ticks since boot, which tell two of one pid apart."""

    pid: int
    parent: int
    born: int
    command: tuple[str, ...]

    @property
    def kind(self) -> str:
        """One of KINDS, or "other". Which is the driver, `Marked` knows."""
        words = " ".join(self.command)
        if "curate.base.child" in words:
            return "decoder"
        if "pipelines.annotation.driver" in words:
            return "supervised"
        if self.command[0].endswith("/raylet"):
            return "raylet"
        if self.command[0].endswith("/gcs_server"):
            return "gcs"
        if self.command[0].startswith("ray::StageWorker"):
            return "worker"
        return "other"

    @property
    def slow_to_end(self) -> bool:
        """Ray's agents, which look after their dead node once in ten seconds, and believe it at the fifth time."""
        return self.command[0].startswith("ray::") and self.command[0].endswith("Agent")

    def __str__(self) -> str:
        return f"{self.pid} {' '.join(self.command)[:120]}"


@dataclass
class Marked:
    """All processes whose environment has MARK=token, and their descendants. driver: the command's own pid."""

    token: str
    driver: int | None = None
    _known: set[tuple[int, int]] = field(default_factory=set)

    def alive(self) -> list[Process]:
        """Those that run now, zombies left out."""
        found = {process.pid: process for process in _processes()}
        return [process for process in found.values() if self._ours(process, found)]

    def of(self, kind: str) -> list[Process]:
        """Those of one kind, by age."""
        found = [p for p in self.alive() if kind == ("driver" if p.pid == self.driver else p.kind)]
        return sorted(found, key=lambda process: (process.born, process.pid))

    def wait_for_end(self, spared: Callable[[Process], bool] = lambda process: False) -> list[Process]:
        """Waits until all have ended. Those that have not after LEAVE_SECONDS are returned, and killed."""
        end = time.monotonic() + LEAVE_SECONDS
        while left := [process for process in self.alive() if not spared(process)]:
            if time.monotonic() > end:
                for process in left:
                    kill(process, signal.SIGKILL)
                return left
            time.sleep(0.2)
        return []

    def _ours(self, process: Process, all_: dict[int, Process]) -> bool:
        key, parent = (process.pid, process.born), all_.get(process.parent)
        if (
            key in self._known
            or (parent and (parent.pid, parent.born) in self._known)
            or _has_mark(process.pid, self.token)
        ):
            self._known.add(key)
        return key in self._known


def kill(process: Process, with_: signal.Signals) -> bool:
    """Send a signal to it, if it is still the one that was seen."""
    with suppress(OSError, ValueError):
        if _read(process.pid).born == process.born:
            os.kill(process.pid, with_)
            return True
    return False


def environment(token: str, temporary: Path) -> dict[str, str]:
    """Of a command: with the mark, and with folders of its own for temporary files and for Ray's sessions."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "PYTEST_"))}
    (temporary / "tmp").mkdir(parents=True, exist_ok=True)
    return kept | {
        MARK: token,
        "SPT_NOENV": "1",  # Ray's process titles leave the environment readable
        "TMPDIR": str(temporary / "tmp"),
        "RAY_TMPDIR": str(temporary),  # a short path: sockets lie below it
        "OMP_NUM_THREADS": "1",
    }


def _processes() -> Sequence[Process]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError):
                found.append(_read(int(name)))
    return found


def _read(pid: int) -> Process:
    """ValueError: a zombie, or a process without a command line."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if facts[0] in "ZX" or not command[0]:
        raise ValueError(pid)
    return Process(pid, int(facts[1]), int(facts[19]), tuple(word.decode(errors="replace") for word in command if word))


def _has_mark(pid: int, token: str) -> bool:
    with suppress(OSError):
        return f"{MARK}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False
