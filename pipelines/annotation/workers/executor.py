"""Runs tasks on whoever works on them, with the same rows: each once, whatever dies meanwhile.

A worker or decoder that dies costs its current unit only. That unit is lost, not failed: it is retried with nothing beside
it, and recorded as failed only if that reproduces the loss. Units that waited behind it, or were not committed yet, are
just queued again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator

from curate.base.child import CHANGED, KILLED, LATE, MEMORY, TIME, UNSEEN, WORKER, Lost
from curate.watching.isolation import record_loss
from pipelines.annotation.planning.feed import Feed
from pipelines.annotation.tasks import Report, Task, again
from pipelines.annotation.workers.force import Committed, Died, Done, Event, Force
from pipelines.cluster import ExecutorError, RayDied
from pipelines.dataset.shards import Footer
from pipelines.status.runlog import RunLog

RETRIES_ALONE = 2  # retries of a lost unit, with nothing beside it
QUEUED_AGAIN = 3  # times that a unit whose worker was killed from outside is queued again as if nothing had happened
AT_ONCE, IN_A_ROW = 6, 32  # equal losses in a row that stop the job: before anything succeeded, and after
TOLD_DEATHS = 10  # of so many workers that died at their start, one is told of
DEATHS, DEATHS_EACH = 8, 3  # deaths of workers without a finished unit that stop the job: so many, and for each worker
ADVICE = {  # fix by kind of loss; crashes are not the machine's fault
    KILLED: "free memory of the machine, or use fewer --workers",
    LATE: "use fewer --workers, and look at the disk or network that the files are on",
    MEMORY: "raise decode.memory_gb, or free memory of the machine",
    UNSEEN: "put sources where all machines see them",
    TIME: "look at the disk or network that the files are on, or raise decode.timeout_seconds",
}
SETTLE_SECONDS = 120.0  # for what is finished to be committed, once the job cannot go on
LOG = logging.getLogger("winnow")

Outcome = tuple[Task, Report]


def run(feed: Feed, force: Force, log: RunLog | None = None, *, before: int = 0) -> Iterator[Outcome | Footer]:
    """Yield every task once, in the order they finish, with its report: "ok", "failed", or "lost" if every attempt was lost;
    and the footers of committed shards.

    Lost units are retried after all others, with nothing beside them. before: how many units earlier runs completed: if
    none, fewer equal losses stop the job. Raises ExecutorError if the job cannot continue, after yielding the lost units.
    """
    yield from _Rounds(feed, force, log or RunLog(None, ""), before).run()


class _Rounds:
    """Runs all units in parallel, then retries the lost ones alone."""

    def __init__(self, feed: Feed, force: Force, log: RunLog, before: int) -> None:
        self.feed, self.force, self.log = feed, force, log
        self.queued: deque[Task] = deque()  # given before, and innocent of what became of their worker
        self.lost: dict[str, tuple[Task, Report]] = {}
        self.told: set[str] = set()  # units whose outcome was yielded, and whose rows are made again
        self.alike: list[str] = []
        self.deaths = 0
        self.patience = IN_A_ROW if before else AT_ONCE
        self.hopeless = False

    def run(self) -> Iterator[Outcome | Footer]:
        try:
            yield from self._all()
            for _ in range(RETRIES_ALONE):
                if self.lost and not self.hopeless:
                    yield from self._retry_alone()
                    yield from self._all()
        except RayDied:  # nobody is left to commit anything
            raise
        except ExecutorError:
            yield from self.lost.values()
            yield from settled(self.force, SETTLE_SECONDS)
            if left := self.force.uncommitted():
                LOG.warning("%d finished units were not committed within %.0f s: they run again", left, SETTLE_SECONDS)
            raise
        yield from self.lost.values()

    def _all(self) -> Iterator[Outcome | Footer]:
        """Work until nothing is left to give, and everything is committed."""
        while True:
            while self.force.room() and (task := self._next()):
                self.force.give(task)
            if not self.force.busy() and not self.queued and self.feed.ended:
                if not self.force.uncommitted():
                    return
                self.force.flush()
            for event in self.force.events():
                yield from self._handle(event)

    def _next(self) -> Task | None:
        if self.queued:
            return self.queued.popleft()
        return self.feed.take(wait=not self.force.busy())

    def _handle(self, event: Event) -> Iterator[Outcome | Footer]:
        if isinstance(event, Committed):
            yield event.footer
        elif isinstance(event, Died):
            yield from self._buried(event)
        elif _to_retry(event.report):
            self._lose(event.task, event.report)
        else:
            if event.report.status == "ok":
                self.patience = IN_A_ROW
            self.alike.clear()
            self.deaths = 0
            self.lost.pop(event.task.id, None)
            if event.task.id not in self.told:
                yield event.task, event.report
            self.told.discard(event.task.id)

    def _lose(self, task: Task, report: Report) -> None:
        """Keep a lost unit for later. Raises ExecutorError if too many in a row were lost alike."""
        self.lost[task.id] = again(task, report.lost), report
        kind = report.lost[-1]
        self.log.lost(task.id, kind, report.error or "")
        self.alike = [*self.alike, kind] if self.alike[-1:] == [kind] and kind in ADVICE else [kind]
        if kind in ADVICE and len(self.alike) >= self.patience:
            raise ExecutorError(
                f"stopped: {len(self.alike)} units in a row were lost alike ({report.error}): {ADVICE[kind]}; finished "
                "units are kept, and the same command resumes"
            )

    def _buried(self, event: Died) -> Iterator[Outcome]:
        """What becomes of the units of a worker that died."""
        self.deaths += 1
        self.queued.extend([*event.innocent, *event.uncommitted])
        self.told |= {task.id for task in event.uncommitted}
        stop = self.deaths >= DEATHS + DEATHS_EACH * self.force.size
        for task in event.suspects:
            self.log.lost(task.id, event.kind, event.reason)
            unit = record_loss(again(task, task.unit.lost).unit, Lost(_death(task, event), event.kind))
            report = Report.of(unit)
            if event.kind == KILLED and unit.lost.count(KILLED) <= QUEUED_AGAIN and not stop:
                self.queued.append(again(task, unit.lost))
            elif _to_retry(report) or stop:
                report.status = "lost"
                self.lost[task.id] = again(task, unit.lost), report
            else:
                self.lost.pop(task.id, None)
                yield task, report
        if stop:
            raise ExecutorError(
                f"stopped: {self.deaths} workers in a row ended without finishing a unit ({event.reason}): free memory of "
                "the machines, or use fewer --workers; finished units are kept, and the same command resumes"
            )
        if event.suspects or event.uncommitted or self.deaths % TOLD_DEATHS == 1:
            count = len(event.suspects) + len(event.innocent) + len(event.uncommitted)
            LOG.warning("a worker was lost (%s): %d units are queued again", event.reason, count)

    def _retry_alone(self) -> Iterator[Outcome | Footer]:
        """Retry the lost units with nothing beside them. Those that are lost again stay in `lost`."""
        tasks = [task for task, _ in self.lost.values()]
        LOG.warning("lost: %d units (%s): retrying one by one", len(tasks), _reasons(self.lost.values()))
        self.force.alone()
        in_vain = 0
        for task in tasks:
            before = len(task.unit.lost)
            self.alike.clear()
            self.force.give(task)
            while self.force.busy():
                for event in self.force.events():
                    yield from self._handle(event)
            if task.id in self.lost and len(self.lost[task.id][1].lost) > before:
                in_vain += 1
                if in_vain >= AT_ONCE:  # the machine has not recovered: leave the rest to the next run
                    self.hopeless = True
                    return
            else:
                in_vain = 0


def settled(force: Force, seconds: float = float("inf")) -> Iterator[Footer]:
    """Have the rows of finished units committed, and nothing else. seconds: to wait for it."""
    end = time.monotonic() + seconds
    force.flush()
    while True:
        for event in force.events(work=False):
            if isinstance(event, Committed):
                yield event.footer
        if not force.uncommitted() or time.monotonic() > end:
            return


def _death(task: Task, event: Died) -> str:
    if event.kind != WORKER:
        return f"the worker was lost while working on it ({event.reason})"
    times = sum(kind == WORKER for kind in task.unit.lost) + 1
    reason = (
        "the worker process died while working on it"
        if times == 1
        else f"the worker process died {times} times while working on it, also with nothing beside it"
    )
    return f"{reason} ({event.reason})"


def _to_retry(report: Report) -> bool:
    return report.status == "lost" and report.lost[-1] != CHANGED  # a modified file has to be planned again


def _reasons(lost: Iterable[tuple[Task, Report]]) -> str:
    return "; ".join(dict.fromkeys(str(report.error) for _, report in lost))[:300]


__all__ = ["Done", "run", "settled"]
