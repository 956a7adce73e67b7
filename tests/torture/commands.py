"""One start of a command in a process of its own, and what is killed while it runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.nodes import Nodes
from tests.torture.plans import Kill
from tests.torture.processes import Marked, Process, environment, kill

ROOT = Path(__file__).parent.parent.parent
LOOK_SECONDS = 0.05
HANG_SECONDS = 300.0
ASKED = {  # exit codes of a driver that was sent a signal
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM, 130},
    signal.SIGINT: {130},
}


@dataclass
class Attempt:
    """code: exit code. killed: kinds, with the signal. left: processes that did not end. said: its standard error."""

    code: int
    said: str
    seconds: float
    killed: list[Kill] = field(default_factory=list)
    left: list[Process] = field(default_factory=list)
    hung: bool = False

    @property
    def driver_was_asked(self) -> bool:
        return any(self.code in ASKED[one.signal] for one in self.killed if one.kind == "driver")

    @property
    def told(self) -> bool:
        """Whether it says in its one line why it cannot continue."""
        return any(line.startswith("winnow: ") for line in self.said.splitlines())

    def faults(self) -> list[str]:
        """What is wrong with it, whatever the dataset has."""
        found = [f"process left over: {process}" for process in self.left]
        if self.hung:
            found.append(f"hung for {HANG_SECONDS:.0f} s")
        elif not (self.code in (0, 1) or self.driver_was_asked or (self.code == 2 and self.killed and self.told)):
            found.append(
                f"exit code {self.code} after kills of {[one.kind for one in self.killed]}: {self.said[-300:]!r}"
            )
        if "Traceback" in self.said:
            found.append(f"a traceback: ...{self.said[-300:]!r}")
        return found


@dataclass
class Command:
    """`winnow ARGUMENTS`, which may be started many times. log: a folder for what each start says."""

    arguments: Sequence[str]
    token: str
    temporary: Path
    log: Path
    settings: dict[str, str] = field(default_factory=dict)
    nodes: Nodes | None = None
    starts: int = 0

    def attempt(self, kills: Sequence[Kill], calm: float) -> Attempt:
        """Start it, kill what is to be killed, and wait for its end. calm: seconds of an undisturbed run."""
        self.starts += 1
        self.log.mkdir(parents=True, exist_ok=True)
        out, err = (self.log / f"{self.arguments[0]}-{self.starts}.{end}" for end in ("out", "err"))
        began = time.monotonic()
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *self.arguments],
                cwd=ROOT,
                env=environment(self.token, self.temporary) | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            marked = Marked(self.token, process.pid)
            killed = self._hunt(process, marked, kills, calm, began)
            hung = process.poll() is None
            if hung:
                process.kill()
            code = process.wait()
        seconds = time.monotonic() - began
        left = marked.wait_for_end(spared=lambda process: process.slow_to_end)
        if self.nodes is not None:
            left += self.nodes.marked.wait_for_end(spared=lambda process: process.kind not in ("worker", "decoder"))
        return Attempt(code, err.read_text(errors="replace"), seconds, killed, left, hung)

    def _hunt(
        self, process: subprocess.Popen, marked: Marked, kills: Sequence[Kill], calm: float, began: float
    ) -> list[Kill]:
        """Each kill at its moment, or as soon after as there is a process of the kind."""
        waiting, done = list(kills), []
        while process.poll() is None and (elapsed := time.monotonic() - began) < HANG_SECONDS:
            for wanted in [one for one in waiting if one.moment * calm <= elapsed]:
                if self._kill(wanted, marked):
                    waiting.remove(wanted)
                    done.append(wanted)
            time.sleep(LOOK_SECONDS if waiting else 4 * LOOK_SECONDS)
        return done

    def _kill(self, wanted: Kill, marked: Marked) -> bool:
        if wanted.kind == "node":
            return self.nodes is not None and self.nodes.replace_one()
        where = self.nodes.marked if self.nodes is not None and wanted.kind in ("worker", "decoder") else marked
        found = where.of(wanted.kind)
        return bool(found) and kill(found[int(wanted.pick * len(found))], wanted.signal)
