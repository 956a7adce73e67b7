"""`winnow annotate`: from sources to an annotated dataset, resuming an earlier run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

from curate.base.child import CHANGED
from curate.base.store import store_of
from curate.clip import Unit, Video, path_to_text
from pipelines.annotation.agreement import check_types, open_dataset, refuse_foreign
from pipelines.annotation.changes import Changes, find_changes
from pipelines.annotation.executor import run
from pipelines.annotation.models import check_weights
from pipelines.annotation.planner import Planner
from pipelines.annotation.planning import plan_videos
from pipelines.annotation.pools import Place
from pipelines.annotation.recorded import RecordedUnits
from pipelines.annotation.stages import check_views, tables_of, with_needs
from pipelines.config import Config
from pipelines.dataset.dataset import (
    Dataset,
    DatasetError,
    Writer,
    forget,
    open_for_writing,
    read_shards,
    sweep,
)
from pipelines.dataset.lock import held
from pipelines.sources.folders import SkippedFiles
from pipelines.sources.sources import FoundVideos, find_videos


class JobWatcher(Protocol):
    """Displays the progress of a job."""

    def planning(self, done: int, total: int) -> None: ...
    def start(self, units: int, seconds: float, already: int) -> None: ...
    def unit(self, unit: Unit) -> None: ...


@dataclass
class Summary:
    """Counts of one run. already, failed_before: videos recorded before, and the failed ones of them. footage: seconds.

    changed: videos whose file has other content than recorded. moved: those found at another path. failures, earlier, lost:
    (path, reason) of units that failed now, failed before, and were lost.
    """

    videos: int = 0
    already: int = 0
    failed: int = 0
    failed_before: int = 0
    duplicates: int = 0
    warned: int = 0
    clips: int = 0
    clip_failures: int = 0
    changed: int = 0
    moved: int = 0
    footage: float = 0.0
    wall: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    earlier: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    @property
    def anything_failed(self) -> bool:
        """Whether videos failed, now or earlier, stages failed on clips of this run, or units were lost."""
        return bool(self.failed or self.failed_before or self.clip_failures or self.lost)

    @property
    def nothing_to_do(self) -> bool:
        return not (self.videos or self.clips or self.failures or self.lost or self.moved or self.changed)

    def count(self, unit: Unit) -> None:
        self.videos += unit.index == 0
        self.clips += len(unit.clips)
        self.footage += unit.footage if unit.status == "ok" else 0.0
        self.warned += bool(unit.warnings)
        self.duplicates += unit.status == "duplicate"
        self.clip_failures += sum(clip.failed for clip in unit.clips)
        if unit.status == "failed":
            self.failures.append((unit.video.path, unit.error or "no reason was recorded"))
            self.failed = len({path for path, _ in self.failures})
        elif unit.status == "lost":
            self.lost.append((unit.video.path, unit.error or "no reason was recorded"))


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

    Problems of config, weights, sources or folder raise before any work is done.
    """
    began = time.perf_counter()
    root = Path(out)
    chosen = with_needs(list(config.parts.stages) if stages is None else stages, config)
    check_views(config, chosen)
    models = check_weights(config, chosen)
    refuse_foreign(root)
    if sources:
        found = find_videos(sources, root)
    else:
        found = FoundVideos(RecordedUnits(Dataset(root), chosen, retry_failed, config.parts).videos())
    summary = Summary(skipped=found.skipped)
    with held(root, "dataset", DatasetError):
        shards = [shard.name for shard in read_shards(root)]
        check_types(root, config, shards)
        open_dataset(root, config, chosen, models)
        tables = tables_of(config.parts).with_stored(root, shards)
        open_for_writing(store_of(root), tables)
        writer = Writer(
            store_of(root),
            tables,
            models=models,
            shard_clips=config.execution.shard_clips,
            shard_seconds=config.execution.shard_seconds,
        )
        try:
            _Annotation(root, config, chosen, writer, watcher, summary).run(found, place, retry_failed)
        finally:
            writer.flush()
        sweep(root)
    summary.wall = time.perf_counter() - began
    return summary


class _Annotation:
    """One run of `annotate`: plans the units, runs the stages, and writes the rows."""

    def __init__(
        self, root: Path, config: Config, stages: tuple[str, ...], writer: Writer, watcher: JobWatcher, summary: Summary
    ) -> None:
        self.root, self.config, self.stages = root, config, stages
        self.writer, self.watcher, self.summary = writer, watcher, summary

    def run(self, found: FoundVideos, place: Place, retry_failed: bool) -> None:
        known = self._known(found, retry_failed)
        units = self._planned(found.videos, found.refused, known)
        self._count_known(found, units, known, retry_failed)
        modified = self._work(units, known, place, again=True)
        if videos := [video for video in found.videos if video.path in modified]:
            self.writer.flush()
            known = RecordedUnits(Dataset(self.root), self.stages, retry_failed, self.config.parts)
            self._work(self._planned(videos, [], known), known, place, again=False)

    def _known(self, found: FoundVideos, retry_failed: bool) -> RecordedUnits:
        """The recorded units. Rows of refused inputs that are accepted now are removed."""
        known = RecordedUnits(Dataset(self.root), self.stages, retry_failed, self.config.parts)
        if gone := known.accepted_now(found.accepts):
            forget(self.root, gone)
            known = RecordedUnits(Dataset(self.root), self.stages, retry_failed, self.config.parts)
        return known

    def _planned(self, videos: Sequence[Video], refused: Sequence[Unit], known: RecordedUnits) -> list[Unit]:
        """The units to run. Those that planning failed, lost, or found to be duplicates are written."""
        with Planner(self.config) as planner:
            changes = find_changes(videos, known, planner, self.watcher.planning)
            if changes.adopt(videos, known, self.writer):
                known.read(Dataset(self.root))
            known.changed, known.moved = changes.changed, set(changes.moved)
            units = []
            for unit in chain(refused, self._wanted(videos, planner, changes, known)):
                if unit.status == "ok":
                    units.append(unit)
                elif not known.recorded(unit):
                    self.writer.add(unit, stages=self.stages, **known.replacement(unit))
                    self.summary.count(unit)
        units = [replace(unit, todo=list(self.stages)) if unit.todo is None else unit for unit in units]
        return sorted(units, key=known.lost)  # stable: units that were lost before come last

    def _wanted(
        self, videos: Sequence[Video], planner: Planner, changes: Changes, known: RecordedUnits
    ) -> Iterator[Unit]:
        """Units of videos that are new, that lack a stage, or for which a list changed."""
        fresh = [video for video in videos if not known.planned(video)]
        for unit in plan_videos(fresh, planner, changes.seen, known, self.watcher.planning):
            if not known.recorded(unit):
                yield unit
        wanted = {path_to_text(video.path) for video in videos}
        listed = {path_to_text(v.path): v for v in videos if v.captions or v.columns or v.spans}
        yield from (unit for unit in known.incomplete(listed) if path_to_text(unit.video.path) in wanted)

    def _count_known(self, found: FoundVideos, units: Sequence[Unit], known: RecordedUnits, retry_failed: bool) -> None:
        """Count the inputs that are recorded already, and those of them that failed."""
        summary = self.summary
        inputs = [*found.videos, *(unit.video for unit in found.refused)]
        wanted = {path_to_text(video.path) for video in inputs}
        summary.already = len(inputs) - len({unit.video.path for unit in units}) - summary.videos
        summary.changed, summary.moved = len(known.changed), len(known.moved)
        summary.earlier = [] if retry_failed else known.failures(wanted - known.changed)
        summary.failed_before = len({path for path, _ in summary.earlier})

    def _work(self, units: Sequence[Unit], known: RecordedUnits, place: Place, again: bool) -> set[str]:
        """Run the stages and write the rows. Returns paths of files that were modified meanwhile, if `again`: the caller
        retries them; otherwise they are recorded as lost."""
        self.watcher.start(len(units), sum(unit.footage for unit in units), self.summary.already)
        modified: set[str] = set()
        for unit in run(units, self.config, self.stages, place, before=known.done):
            if again and unit.lost[-1:] == [CHANGED]:
                modified.add(unit.video.path)
                continue
            if unit.status == "ok" or not (
                unit.stored or known.has_good_rows(unit)
            ):  # a failure never replaces good rows
                self.writer.add(unit, stages=self._done(unit, known), **known.replacement(unit))
            self.summary.count(unit)
            self.watcher.unit(unit)
        return modified

    def _done(self, unit: Unit, known: RecordedUnits) -> list[str]:
        """All stages whose columns the rows of a unit have now, including those of plugins that are not loaded."""
        done = dict.fromkeys([*known.stages_of(unit), *self.stages])
        parts = self.config.parts
        return [*parts.with_needs(name for name in done if name in parts.stages), *(done.keys() - parts.stages.keys())]
