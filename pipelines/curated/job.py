"""The work of `winnow select`: a plan, the shards of it that are not there yet, and what they count."""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.base.store.places import Store, join, store_of
from curate.export.span import ClipForm
from curate.selection.selection import Selection
from pipelines.curated.crew.line import CrewLine
from pipelines.curated.cutting import CutJob
from pipelines.curated.exported import schema_of
from pipelines.curated.plan.planned import PlannedClips, SourceRoots
from pipelines.curated.plan.rows import IN_THE_VIDEO, write_plan
from pipelines.curated.rechecking import Recheck
from pipelines.curated.request import PARTIAL, CuratedRequest, Work
from pipelines.curated.shards import ShardCounts, ShardPlan, ShardSet
from pipelines.curated.spool import Spool
from pipelines.curated.worker import CutProgress, ShardWorker
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.lock import LEASE_NAME, Lock

__all__ = ["Job"]

LAYOUT = 2  # of what .partial holds; an unfinished dataset of another one is begun anew
PLAN, SPOOL, FOOTERS, PLAN_FACTS = "plan", "spool", f"{PARTIAL}/footers", f"{PARTIAL}/plan.json"
DELETING = 16  # objects deleted at once


class Job:
    """One curated dataset in the making. scratch: a local folder for the length of it. lock: is held meanwhile."""

    DATA = "data"

    def __init__(
        self,
        dataset: Dataset,
        selection: Selection,
        request: CuratedRequest,
        store: Store,
        work: Work,
        scratch: Path,
        lock: Lock,
    ) -> None:
        self.dataset, self.selection, self.request, self.work = dataset, selection, request, work
        self.store, self.scratch, self.lock = store, scratch, lock
        self.partial = store_of(join(store.url, PARTIAL))
        self.drop = [name for name in IN_THE_VIDEO if name not in request.format.needs]
        self.schema: pa.Schema = schema_of(dataset.schema("clips"), request.format, self.drop)

    @cached_property
    def shards(self) -> ShardSet:
        """Where they lie, and how they are written: aside until all are there, where folders can be renamed."""
        aside = self.store.folder is not None and not (self.store.folder / self.DATA).exists()
        folder = f"{PARTIAL}/{self.DATA}" if aside else self.DATA
        return ShardSet(self.store, folder, FOOTERS, self.request.format, self.schema, self.scratch)

    @cached_property
    def clips(self) -> PlannedClips:
        """The plan; it is made if it is not there."""
        facts = self._facts()
        if facts.get("layout") != LAYOUT:
            self._begin_anew()
            facts = {"layout": LAYOUT, "clips": self._plan()}
            self._record(facts)
        roots, spool = SourceRoots(self.request.roots), join(self.partial.url, SPOOL)
        form = self.request.form | self.work.form
        return PlannedClips(store_of(join(self.partial.url, PLAN)), facts["clips"], form, roots, spool)

    def run(self) -> ShardCounts:
        """Write the shards that are not there yet: counts over all. Raises CutterError, ExecutorError, StoreError."""
        progress = CutProgress(self.clips.count, self.work.progress)
        self.shards.clear()
        if self.work.cluster is None:
            with self.work.cutters() as cut:
                return self._count(_Here(self._worker(cut, progress)), progress)
        with CrewLine(self._spec(), self.work.cluster.address, self.work.workers, self.work.note) as crew:
            return self._count(_Cluster(crew), progress)

    def discard(self) -> None:
        """Delete what the job needed, when the dataset is finished."""
        if self.partial.folder is not None:
            shutil.rmtree(self.partial.folder, ignore_errors=True)
            return
        with ThreadPoolExecutor(DELETING) as threads:
            names = [entry.name for entry in self.partial.list() if entry.name != LEASE_NAME]
            list(threads.map(self.partial.delete, names))

    def _count(self, hands: _Here | _Cluster, progress: CutProgress) -> ShardCounts:
        groups = _Groups(self.clips)
        plans = self._shard_plans(hands, groups, progress)
        footers = {plan.index: self.shards.footer(plan) for plan in self.shards.there(plans)}
        for footer in footers.values():
            _report(progress, footer)
        left = [plan for plan in plans if plan.index not in footers]
        groups.limit(plans, {plan.index for plan in left})
        for plan, footer in hands.write(left, groups, progress):
            self.lock.check()
            footers[plan.index] = footer
        return ShardCounts.over(footers)

    def _shard_plans(self, hands: _Here | _Cluster, groups: _Groups, progress: CutProgress) -> list[ShardPlan]:
        """Which positions are in which shard: known once some clips are cut."""
        facts = self._facts()
        if "bounds" not in facts:
            hands.ahead(groups, self.clips.sample, progress)
            facts["bounds"] = self.clips.bounds(self.request.shard_bytes, hands.sample(self.clips.sample))
            self._record(facts)
        bounds = facts["bounds"]
        return [ShardPlan(k, len(bounds) - 1, bounds[k], bounds[k + 1]) for k in range(len(bounds) - 1)]

    def _worker(self, cut: Any, progress: CutProgress) -> ShardWorker:
        def told(row: dict[str, Any], failed: bool) -> None:
            progress.add(1, int(failed), -int(row["_together"]))

        spool = Spool(self.clips.spool, self.scratch)
        return ShardWorker(self.clips, self.shards, Recheck(self.selection.conditions()), cut, spool, told)

    def _spec(self) -> dict[str, Any]:
        """What a worker on another machine has to know."""
        return {
            "out": self.store.url,
            "folder": self.shards.folder,
            "config": self.work.cluster.config,
            "schema": self.schema.serialize().to_pybytes(),
            "count": self.clips.count,
            "options": dict(self.clips.options),
            "roots": self.clips.roots.roots,
            "conditions": self.selection.conditions(),
            "child": self.work.child,
        }

    def _plan(self) -> int:
        return write_plan(
            self.dataset,
            self.selection,
            seed=self.request.seed,
            drop=self.drop,
            form=ClipForm(**self.request.form),
            plan=store_of(join(self.partial.url, PLAN)),
            scratch=self.scratch,
        )

    def _facts(self) -> dict[str, Any]:
        try:
            return json.loads(self.store.read(PLAN_FACTS))
        except FileNotFoundError:
            return {}

    def _record(self, facts: dict[str, Any]) -> None:
        self.store.replace(PLAN_FACTS, json.dumps(facts).encode())

    def _begin_anew(self) -> None:
        """Without what another Winnow left of it, whose shards may have other bounds."""
        for entry in list(self.partial.list()):
            if entry.name.startswith((f"{self.DATA}/", "footers/", "rows.", "spool/")):
                self.partial.delete(entry.name)
        if self.store.folder is not None:
            shutil.rmtree(self.store.folder / self.DATA, ignore_errors=True)


class _Groups:
    """The groups that are cut in passes, in order of their first positions."""

    def __init__(self, clips: PlannedClips) -> None:
        self.starts: list[int] = []
        self.left: set[int] | None = None
        self.groups = clips.groups()
        self.head = next(self.groups, None)

    def limit(self, plans: list[ShardPlan], left: set[int]) -> None:
        """From now on to the clips of the shards with these indices."""
        self.starts, self.left = [plan.first for plan in plans], left

    def until(self, end: int | None = None) -> Iterator[list[CutJob]]:
        """Those that have a clip before position `end`, and were not given before; of each the clips that are needed."""
        while self.head is not None and (end is None or self.head[0] < end):
            _, jobs, positions = self.head
            self.head = next(self.groups, None)
            needed = [job for job, at in zip(jobs, positions, strict=True) if self._needed(at)]
            if needed:
                yield needed

    def _needed(self, position: int) -> bool:
        return self.left is None or bisect_right(self.starts, position) - 1 in self.left


class _Here:
    """The work done by child processes of this one."""

    def __init__(self, worker: ShardWorker) -> None:
        self.worker = worker

    def ahead(self, groups: _Groups, end: int, progress: CutProgress) -> None:
        """Make the passes that have a clip before position `end`."""
        for there in self.worker.together(groups.until(end)):
            progress.add(waiting=len(there))

    def sample(self, count: int) -> dict[int, int | None]:
        return self.worker.sample(0, count)

    def write(
        self, plans: list[ShardPlan], groups: _Groups, progress: CutProgress
    ) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
        """Passes are made as the shards need them, so that little waits in the spool."""

        def before(plan: ShardPlan) -> None:
            self.ahead(groups, plan.end, progress)

        yield from zip(plans, self.worker.write(plans, before), strict=True)


class _Cluster:
    """The work done by workers of Ray."""

    def __init__(self, crew: CrewLine) -> None:
        self.crew = crew

    def ahead(self, groups: _Groups, end: int, progress: CutProgress) -> None:
        """Nothing: any worker cuts a clip of the sample, and passes are made by all at once."""

    def sample(self, count: int) -> dict[int, int | None]:
        return self.crew.sample(count)

    def write(
        self, plans: list[ShardPlan], groups: _Groups, progress: CutProgress
    ) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
        """Passes first: as the order is shuffled, the first shards need nearly all of them."""
        for there in self.crew.together(groups.until()):
            progress.add(waiting=there)
        for plan, footer in self.crew.write(plans):
            progress.waiting = max(0, progress.waiting - (plan.end - plan.first))
            _report(progress, footer)
            yield plan, footer


def _report(progress: CutProgress, footer: dict[str, Any]) -> None:
    made = footer["made"]
    progress.add(made["clips"] + len(made["failed"]), len(made["failed"]))
