"""Who works on tasks: this process, or workers on Ray (`pipelines.annotation.workers.actors`); and what they tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.annotation.tasks import Report, Task
from pipelines.annotation.workers.worker import Reply, Target, Worker
from pipelines.config import Config
from pipelines.dataset.shards import Footer
from pipelines.status.runlog import RunLog


@dataclass(frozen=True)
class Done:
    """A unit has its outcome."""

    task: Task
    report: Report


@dataclass(frozen=True)
class Committed:
    """A shard is committed."""

    footer: Footer


@dataclass(frozen=True)
class Died:
    """A worker died. suspects: tasks that it was working on. innocent: those that waited. uncommitted: those that were
    done, and whose rows went with it.

    kind: of the suspects' loss (see `curate.base.child`)."""

    reason: str
    kind: str
    suspects: list[Task] = field(default_factory=list)
    innocent: list[Task] = field(default_factory=list)
    uncommitted: list[Task] = field(default_factory=list)


Event = Done | Committed | Died


class Force(Protocol):
    """Takes tasks and tells what became of each. Raises ExecutorError where nothing can work. size: workers at most."""

    size: int

    def room(self) -> bool:
        """Whether it can take another task now."""
        ...

    def give(self, task: Task) -> None: ...

    def events(self, work: bool = True) -> Iterator[Event]:
        """What has happened; waits until something has, or for about a second. work: False: begin with nothing more."""
        ...

    def busy(self) -> int:
        """Tasks that were given and are neither done nor lost."""
        ...

    def uncommitted(self) -> int:
        """Tasks that are done, with rows that are not committed yet."""
        ...

    def flush(self) -> None:
        """Have all rows committed; events tell of it."""
        ...

    def alone(self) -> None:
        """From now on tasks are given one at a time: end all workers but one."""
        ...

    def close(self) -> None: ...


class Inline:
    """Works in this process, on some units at a time."""

    def __init__(
        self, config: Config, stages: Sequence[str], target: Target, log: RunLog | None = None, together: int = 1
    ) -> None:
        self.config, self.stages, self.target, self.together = config, stages, target, together
        self.log = log or RunLog(None, "")
        self.size = 1
        self.worker: Worker | None = None
        self.given: deque[Task] = deque()
        self.waiting = 0
        self.told: list[Event] = []

    def room(self) -> bool:
        return len(self.given) < self.together

    def give(self, task: Task) -> None:
        self.given.append(task)

    def busy(self) -> int:
        return len(self.given)

    def uncommitted(self) -> int:
        return self.waiting

    def events(self, work: bool = True) -> Iterator[Event]:
        if self.given and work:
            if self.worker is None:
                self.worker = Worker(self.config, self.stages, self.target)
            tasks = list(self.given)
            for task in tasks:
                self.log.started(task.id, task.unit.video.path, "this process", footage=task.unit.footage)
            reply = self.worker.work([Task.unpack(task.pack()) for task in tasks])  # copies: units may be retried
            self.told += [Done(task, report) for task, report in zip(tasks, reply.reports, strict=True)]
            self._tell(reply)
            self.given.clear()
        told, self.told = self.told, []
        yield from told

    def flush(self) -> None:
        if self.worker is not None:
            self._tell(self.worker.flush())

    def alone(self) -> None:
        self.together = 1

    def close(self) -> None:
        self.worker = None

    def _tell(self, reply: Reply) -> None:
        self.told += [Committed(footer) for footer in reply.footers]
        self.waiting = reply.waiting


__all__ = ["Committed", "Died", "Done", "Event", "Force", "Inline"]
