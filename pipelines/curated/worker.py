"""Who cuts clips and writes shards: the same object in the process of the command and in a worker of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipelines.curated.cutting import CutJob, Cutters, MapFn, Result
from pipelines.curated.plan.planned import SAMPLE_BYTES, PlannedClips
from pipelines.curated.rechecking import Recheck
from pipelines.curated.request import Progress
from pipelines.curated.shards import ShardPlan, ShardSet
from pipelines.curated.spool import Spool

__all__ = ["CutProgress", "ShardWorker"]


class CutProgress:
    """How many clips are done, reported as it changes: a clip counts once it is cut, and once.

    done: clips written to shards, or failed. waiting: clips that were cut in passes and wait for their shard.
    """

    def __init__(self, total: int, report: Progress | None = None) -> None:
        self.total, self._report = total, report
        self.done = self.failed = self.waiting = 0

    def add(self, done: int = 0, failed: int = 0, waiting: int = 0) -> None:
        """waiting: below 0 for clips that have their place now."""
        self.done, self.failed = self.done + done, self.failed + failed
        self.waiting = max(0, self.waiting + waiting)
        if self._report:
            self._report(self.done + self.waiting, self.total, self.failed)


class ShardWorker:
    """cut: turns jobs into results, in their order. recheck: a copy that fails it is cut again, whole. told: of each clip
    that has its place, its row and whether it failed."""

    def __init__(
        self,
        clips: PlannedClips,
        shards: ShardSet,
        recheck: Recheck,
        cut: MapFn,
        spool: Spool,
        told: Callable[[dict[str, Any], bool], None] = lambda *_: None,
    ) -> None:
        self.clips, self.shards, self.recheck, self.cut, self.spool = clips, shards, recheck, cut, spool
        self.told = told

    def sample(self, first: int, end: int) -> dict[int, int | None]:
        """Cut the clips at positions [first, end) into the spool: their bytes, None where one cannot be cut. The rest
        is left once there is enough."""
        jobs = [self.clips.job(row) for row in self.clips.rows(first, end)]
        found: dict[int, int | None] = {}
        for position, job, made in zip(range(first, end), jobs, self.cut(jobs), strict=False):
            found[position] = None if isinstance(made, str) else len(made.bytes)
            if not isinstance(made, str):
                self.spool.put(job.clip_id, made)
            if sum(size or 0 for size in found.values()) > SAMPLE_BYTES:
                break
        return found

    def together(self, groups: Iterable[Sequence[CutJob]]) -> Iterator[list[str]]:
        """Cut each group in one pass over its source, into the spool: the ids that lie there then. What lies there
        already is not cut again. Nothing is cut ahead unless `cut` is `Cutters`. Raises CutterError."""
        if not isinstance(self.cut, Cutters):
            return
        under_way: deque[tuple[Sequence[CutJob], bool]] = deque()

        def missing() -> Iterator[Sequence[CutJob]]:
            for group in groups:
                left = [job for job in group if not self.spool.has(job.clip_id)]
                under_way.append((group, bool(left)))
                if left:
                    yield left

        def done(whole: bool) -> Iterator[list[str]]:
            while under_way and (whole or not under_way[0][1]):
                yield self._lying(under_way.popleft()[0])

        for _ in self.cut.together(missing(), self.spool.folder):
            yield from done(False)
            yield self._lying(under_way.popleft()[0])
        yield from done(True)

    def write(
        self, plans: Sequence[ShardPlan], before: Callable[[ShardPlan], None] = lambda _: None
    ) -> Iterator[dict[str, Any]]:
        """Write shards: the footer of each, in their order, when it is there. before: called before a shard's clips
        are cut, which may be while an earlier one is written."""
        handed_out: deque[dict[str, Any]] = deque()  # rows whose jobs were handed out and whose results are to come

        def jobs() -> Iterator[CutJob]:
            for plan in plans:
                before(plan)
                for row in self.clips.rows(plan.first, plan.end):
                    handed_out.append(row)
                    yield self.clips.job(row)

        results = self.cut(jobs())
        for plan in plans:
            taken: list[str] = []
            pairs = self._whole((next(results), handed_out.popleft()) for _ in range(plan.first, plan.end))
            footer = self.shards.write(plan, self._noted(pairs, taken))
            self.spool.drop(taken)
            yield footer

    def _whole(self, found: Iterable[tuple[Result, dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], Result]]:
        """Rows with their results, cut again where a copy would fail a filter."""
        for result, row in found:
            if not isinstance(result, str) and (why := self.recheck.fails(row, result)):
                (result,) = self.cut([replace(self.clips.job(row, snap=False), spool=None)])
                result = result if isinstance(result, str) else replace(result, why=why)
            yield row, result

    def _noted(
        self, pairs: Iterable[tuple[dict[str, Any], Result]], taken: list[str]
    ) -> Iterator[tuple[dict[str, Any], Result]]:
        """The same, told of; `taken` is filled with the clips that may lie in the spool."""
        for row, result in pairs:
            yield row, result
            if self.clips.ahead(row):
                taken.append(row["clip_id"])
            self.told(row, isinstance(result, str))

    def _lying(self, group: Sequence[CutJob]) -> list[str]:
        return self.spool.publish(job.clip_id for job in group)
