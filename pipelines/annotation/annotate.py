"""`winnow annotate`: from sources to an annotated dataset, resuming an earlier run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

from curate.base.child import CHANGED
from curate.base.files import DiskError
from curate.base.store import Store, StoreError, blocks, is_remote, shown, storable, store_of
from curate.clip import Unit, Video, text_to_path
from pipelines.annotation.agreement import check_types, open_dataset, refuse_foreign
from pipelines.annotation.models import check_weights
from pipelines.annotation.planning.feed import AheadFeed, Feed
from pipelines.annotation.planning.intake import Input, Intake
from pipelines.annotation.planning.recorded import RecordedUnits
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import check_views, tables_of, with_needs
from pipelines.annotation.summary import Summary
from pipelines.annotation.supervising import supervised
from pipelines.annotation.tasks import Report, Task
from pipelines.annotation.workers.actors import OnRay
from pipelines.annotation.workers.executor import run, settled
from pipelines.annotation.workers.force import Force, Inline
from pipelines.annotation.workers.worker import Committer, Target
from pipelines.cluster import ExecutorError, RayDied
from pipelines.config import Config
from pipelines.dataset.dataset import (
    Dataset,
    DatasetError,
    Manifest,
)
from pipelines.dataset.lock import Lock, held
from pipelines.dataset.shards import Footer, compact, forget, open_for_writing
from pipelines.sources.stream import InputError, SourceStream
from pipelines.status.runlog import RunLog

PROBE = ".probe-"
INTERRUPTED_SECONDS = 20.0  # for what is finished to be committed, after Ctrl-C


class JobWatcher(Protocol):
    """Displays the progress of a job. Called by more than one thread."""

    def planning(self, looked: int) -> None:
        """looked: how many inputs were looked at so far."""
        ...

    def planned(self, units: int, seconds: float, already: int) -> None:
        """What there is to do, as far as it is known now. already: inputs of which nothing is left to do."""
        ...

    def unit(self, unit: Report) -> None: ...

    def committed(self, units: list[str]) -> None:
        """Rows of these units are committed."""
        ...


def annotate(
    sources: Sequence[str],
    out: str | os.PathLike[str],
    config: Config,
    *,
    place: Place,
    watcher: JobWatcher,
    stages: Sequence[str] | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Fill the dataset with rows for every video of the sources; without sources, for the recorded ones.

    Problems of config, weights, sources or folder raise before any work is done. On Ray the work is that of a child process.
    """
    options: dict[str, Any] = {"place": place, "watcher": watcher, "stages": stages, "retry_failed": retry_failed}
    if place.executor == "ray":
        _refuse_memory(sources, out)
    where = supervised if place.executor == "ray" else annotate_here
    return where(sources, out, config, **options)


def annotate_here(
    sources: Sequence[str],
    out: str | os.PathLike[str],
    config: Config,
    *,
    place: Place,
    watcher: JobWatcher,
    stages: Sequence[str] | None,
    retry_failed: bool,
) -> Summary:
    """`annotate` in this process."""
    began = time.perf_counter()
    store = store_of(out)
    chosen = with_needs(list(config.parts.stages) if stages is None else stages, config)
    check_views(config, chosen)
    models = check_weights(config, chosen)
    refuse_foreign(store)
    found, inputs = SourceStream(sources, store) if sources else None, None
    if found is not None:
        stream = iter(found)
        inputs = chain([next(stream)], stream)  # what is wrong with the sources is told before anything is written
    else:
        Dataset(store)
    summary = Summary() if found is None else Summary(skipped=found.skipped)
    with held(store, "dataset", DatasetError) as lock:
        shards = Dataset(store).samples() if store.exists("dataset.json") else []
        check_types(store, config, shards)
        open_dataset(store, config, chosen, models)
        tables = tables_of(config.parts).with_stored(store, shards)
        open_for_writing(store, tables, lock.check, lock.run)
        if found is not None:
            found.hold()
        with _probe(store, lock.run) if place.executor == "ray" else nullcontext() as probe:
            target = Target(store.url, tables, models, lock.run, probe)
            job = _Job(target, config, chosen, place, watcher, summary, lock)
            job.run(inputs, retry_failed)
        if found is not None:
            job.forget_accepted(found)
            found.close()
        compact(store, run=lock.run, check=lock.check)
    blocks.sweep()
    summary.wall = time.perf_counter() - began
    return summary


def _refuse_memory(sources: Sequence[str], out: str | os.PathLike[str]) -> None:
    """Raise DatasetError, or InputError, for what only this process sees."""
    why = "is in the memory of this process: use --executor inline"
    if not store_of(out).shared:
        raise DatasetError(f"{shown(out)}: {why}, or another --out")
    for source in sources:
        if is_remote(source) and storable(source) and not store_of(source).shared:
            raise InputError(f"{shown(source)}: {why}, or files that other processes see")


@contextmanager
def _probe(store: Store, run: str) -> Iterator[str]:
    """An object of the dataset by which its workers on other machines know that they see the same place."""
    old = store.folder.glob(f"{PROBE}*") if store.folder else store.list(PROBE)
    for left in list(old):  # of a run that was killed
        store.delete(left.name)
    name = f"{PROBE}{run}"
    store.put(name, run.encode())
    try:
        yield name
    finally:
        with suppress(StoreError, DiskError):
            store.delete(name)


class _Job:
    """One run of `annotate`: counts what planning and workers tell, and records what nothing is computed on."""

    def __init__(
        self,
        target: Target,
        config: Config,
        stages: tuple[str, ...],
        place: Place,
        watcher: JobWatcher,
        summary: Summary,
        lock: Lock,
    ) -> None:
        self.target, self.config, self.stages, self.place = target, config, stages, place
        self.watcher, self.summary, self.lock = watcher, summary, lock
        self.store = store_of(target.place)
        self.manifest = Manifest(self.store)
        self.committer = Committer(target, config)
        self.guard = threading.RLock()  # of the two above: planning records too
        self.log = RunLog(self.store, target.run)
        self.units, self.seconds = 0, 0.0
        self.modified: dict[str, Video] = {}
        self.refused: list[tuple[str, str]] = []  # unit, path of inputs that an earlier run refused

    def run(self, inputs: Iterable[Input] | None, retry_failed: bool) -> None:
        """inputs: of the sources; None: the recorded ones."""
        state, reason = "stopped", None
        try:
            known = self._recorded(retry_failed)
            self.refused = [(row["id"], text_to_path(row["video_path"])) for row in known.ledger.no_files()]
            self._work(known.videos() if inputs is None else inputs, known, first=True)
            if videos := list(self.modified.values()):
                known = self._recorded(retry_failed)
                self._work(videos, known, first=False)
            state = "finished"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        except Exception as error:
            reason = str(error)
            raise
        finally:
            self._flush()
            self.manifest.flush()
            self.log.close(state, reason)

    def _recorded(self, retry_failed: bool) -> RecordedUnits:
        return RecordedUnits(Dataset(self.target.place), self.stages, retry_failed, self.config.parts)

    def forget_accepted(self, found: SourceStream) -> None:
        """Remove the rows of inputs that were refused in an earlier run, and are accepted now."""
        if gone := [unit for unit, path in self.refused if found.accepts(path)]:
            forget(self.store, self.target.tables, gone, self.target.run)

    def _work(self, inputs: Iterable[Input], known: RecordedUnits, first: bool) -> None:
        """Plan and run the units, and count what becomes of them. first: files that were modified meanwhile are kept in
        `modified`, for another time; otherwise they are recorded as lost."""
        intake = Intake(
            known, self.config, self.stages, self.summary, self._finish, self._flush, self.watcher.planning, first
        )
        tasks = self._counted(intake.tasks(inputs))
        ray = self.place.executor == "ray"
        feed = AheadFeed(tasks) if ray else Feed(tasks)
        force: Force = (OnRay if ray else _inline)(self.config, self.stages, self.place, self.target, self.log)
        try:
            for told in run(feed, force, self.log, before=known.done):
                self.lock.check()
                if isinstance(told, Footer):
                    self._committed(told)
                else:
                    self._count(*told, first)
        except RayDied:
            raise
        except BaseException:
            with suppress(ExecutorError, DiskError, StoreError):  # the first error is the one to tell
                for footer in settled(force, INTERRUPTED_SECONDS):
                    self._committed(footer)
            raise
        finally:
            feed.close()
            force.close()
            known.close()

    def _counted(self, tasks: Iterator[Task]) -> Iterator[Task]:
        for task in tasks:
            self.units += 1
            self.seconds += task.unit.footage
            self.log.planned(1, task.unit.footage)
            self.watcher.planned(self.units, self.seconds, self.summary.already)
            yield task
        self.log.already(self.summary.already)
        self.log.planned(0, 0.0, final=True)

    def _count(self, task: Task, report: Report, first: bool) -> None:
        if first and report.lost[-1:] == [CHANGED]:
            self.modified[report.path] = replace(task.unit.video, video_id="")
            self.log.lost(report.id, CHANGED, report.error or "")
            return
        if not report.written and task.writes(Unit(task.unit.video, status=report.status, stored=task.unit.stored)):
            unit = replace(task.unit, status=report.status, error=report.error, lost=report.lost)
            self._record(replace(task, unit=unit))
        self.summary.count(report)
        self.watcher.unit(report)
        facts = {"path": report.path, "footage": report.footage, "clips": report.clips}
        self.log.finished(report.id, report.status, **facts, seconds=report.seconds, error=report.error)

    def _finish(self, task: Task) -> None:
        """Record a unit that planning failed, lost, or found to be a duplicate, or a refused input."""
        unit = task.unit
        self.log.planned(1, unit.footage)
        self.log.finished(unit.id, unit.status, path=unit.video.path, footage=unit.footage, error=unit.error)
        self._record(task)

    def _record(self, task: Task) -> None:
        """Commit a unit on which nothing is computed, some time."""
        with self.guard:
            for footer in self.committer.add(task.unit, task):
                self._committed(footer)

    def _flush(self) -> None:
        """Commit what `_record` has collected."""
        with self.guard:
            for footer in self.committer.flush():
                self._committed(footer)

    def _committed(self, footer: Footer) -> None:
        with self.guard:
            self.manifest.add(footer)
        units = footer.units
        self.log.committed(footer.shard, len(units))
        self.watcher.committed(units)


def _inline(config: Config, stages: Sequence[str], place: Place, target: Target, log: RunLog) -> Inline:
    return Inline(config, stages, target, log)
