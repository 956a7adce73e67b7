"""One run of the torture: make a dataset under kills, select from it, and say what is wrong with the result."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.torture import checks
from tests.torture.commands import Attempt, Command
from tests.torture.footage import INPUTS, SETTINGS
from tests.torture.nodes import Nodes
from tests.torture.plans import Kill, Plan
from tests.torture.processes import Marked

PLUGIN = str(Path(__file__).with_name("slow_parts.py"))
STAGES = "motion,stills,slow_thought"
MOST_ATTEMPTS = 10
TABLES = ("videos", "clips")


class Place(Protocol):
    """Of places.py."""

    name: str
    environment: dict[str, str]

    def url(self, name: str) -> str: ...
    def mirror(self, name: str, to: Path) -> Path: ...
    def remove(self, name: str) -> None: ...
    def close(self) -> None: ...


@dataclass
class Reference:
    """What an undisturbed run in a place gives. calm: seconds by executor and command."""

    rows: dict[str, checks.Rows]
    shards: dict[str, str]
    calm: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """Of one seed. faults: empty where all is as it should be."""

    plan: Plan
    killed: Counter = field(default_factory=Counter)
    attempts: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class Run:
    """The commands of one run, in folders of its own."""

    def __init__(self, name: str, place: Place, scratch: Path, plan: Plan) -> None:
        self.name, self.place, self.plan = name, place, plan
        self.scratch = scratch / name
        self.result = Result(plan)
        self.nodes: Nodes | None = None
        self.token = f"{scratch.name}-{name}"
        self.calm: dict[str, float] = {}  # command -> seconds of its last start

    def make(self, reference: Reference | None) -> Result:
        """Annotate and select under kills; then compare with the reference, if there is one."""
        began = time.monotonic()
        calm = reference.calm if reference else {}
        try:
            if self.plan.executor == "cluster":
                self.nodes = Nodes(f"{self.token}-nodes", self.scratch / "n")
            self._annotate(calm.get(self.plan.executor, 60.0))
            if not self.result.faults:
                self._select(calm.get("select", 60.0))
            if not self.result.faults and reference:
                self._compare(reference)
        finally:
            if self.nodes is not None:
                self.nodes.close()
            self.result.faults += [f"process left over: {process}" for process in Marked(self.token).wait_for_end()]
        self.result.seconds = time.monotonic() - began
        return self.result

    def reference(self) -> Reference:
        """What was made, read back."""
        rows = {table: self._rows(table)[0] for table in TABLES}
        return Reference(rows, checks.bytes_of(self._mirror("curated")))

    def clear(self) -> None:
        """Remove all that the run made."""
        for name in ("dataset", "curated"):
            self.place.remove(self._folder(name))
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _annotate(self, calm: float) -> None:
        plan = self.plan
        how = {
            "inline": ["--executor", "inline"],
            "ray": ["--executor", "ray", "--workers", str(plan.workers)],
            "cluster": ["--executor", "ray", "--workers", "3", "--address", self.nodes.address if self.nodes else ""],
        }[plan.executor]
        sources = [self.place.url("footage/films"), self.place.url("footage/listed/list.jsonl")]
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        command = self._command(
            [
                "annotate",
                *sources,
                "--out",
                self._url("dataset"),
                "--plugin",
                PLUGIN,
                "--stages",
                STAGES,
                *settings,
                *how,
            ]
        )
        self._until_done(command, plan.attempts, calm, self._all_recorded)
        if not self.result.faults:  # once more: there is nothing left to do
            again = command.attempt((), calm)
            said = (command.log / f"annotate-{command.starts}.out").read_text()
            if again.code != 1 or "nothing to do" not in said:
                self.result.faults.append(f"started once more: exit code {again.code}, {said[:200]!r}")

    def _select(self, calm: float) -> None:
        arguments = ["select", self._url("dataset"), "--out", self._url("curated"), "--where", "start_frame = 0"]
        command = self._command([*arguments, "--shard-size", "60KB", "--seed", "3", "--plugin", PLUGIN])
        self._until_done(command, [self.plan.selecting], calm, lambda attempt: attempt.code == 0)

    def _until_done(self, command: Command, kills: Sequence[Sequence[Kill]], calm: float, done) -> None:
        for number in range(MOST_ATTEMPTS):
            attempt = command.attempt(kills[number] if number < len(kills) else (), calm)
            self.result.attempts += 1
            self.calm[command.arguments[0]] = attempt.seconds
            self.result.killed.update(kill.kind for kill in attempt.killed)
            self.result.faults += [f"{command.arguments[0]} {command.starts}: {fault}" for fault in attempt.faults()]
            if self.result.faults or (attempt.code in (0, 1) and done(attempt)):
                return
        self.result.faults.append(f"not done after {MOST_ATTEMPTS} starts")

    def _all_recorded(self, attempt: Attempt) -> bool:
        """Whether no video is lost; it is a fault if the command said that it ended and inputs have no row."""
        if attempt.code == 0:
            self.result.faults.append("exit code 0, though files failed")
        rows = self._rows("videos")[0]
        there = {path for path, _ in rows}
        if len(there) < INPUTS:
            self.result.faults.append(
                f"exit code {attempt.code}, and only {len(there)} of {INPUTS} inputs have a row: {attempt.said[-300:]!r}"
            )
        return all(row["status"] != "lost" for row in rows.values())

    def _compare(self, reference: Reference) -> None:
        faults = self.result.faults
        for table in TABLES:
            found, twice = self._rows(table)
            also = checks.OF_THE_PLACE if self.place.name == "bucket" else ()
            faults += [*twice, *checks.differences(found, reference.rows[table], table, also)]
        if checks.bytes_of(self._mirror("curated")) != reference.shards:
            faults.append("the selection has other bytes")
        for name in ("dataset", "curated"):
            faults += checks.leftovers(self._mirror(name), self.scratch / "t")

    def _rows(self, table: str) -> tuple[checks.Rows, list[str]]:
        return checks.rows_of(self._mirror("dataset"), table, self.place.url("footage"))

    def _command(self, arguments: list[str]) -> Command:
        return Command(
            arguments, self.token, self.scratch / "t", self.scratch / "log", self.place.environment, self.nodes
        )

    def _folder(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _url(self, name: str) -> str:
        return self.place.url(self._folder(name))

    def _mirror(self, name: str) -> Path:
        return self.place.mirror(self._folder(name), self.scratch / "mirror")
