"""From the inputs of a job to tasks, in the order of the inputs, some hundred files at a time: workers start on the first
while the others are still to be opened.

Files that are recorded with another size or time of writing, and new ones whose content is recorded, may have been renamed,
exchanged or replaced: these are decided at the end, when all are known. Units that were lost before come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from curate.clip import Unit, Video, path_to_text
from pipelines.annotation.planning.changes import Record, find_changes
from pipelines.annotation.planning.contents import identities
from pipelines.annotation.planning.planner import Identity, Planner
from pipelines.annotation.planning.recorded import RecordedUnits
from pipelines.annotation.planning.units import plan_videos
from pipelines.annotation.summary import Summary
from pipelines.annotation.tasks import Report, Task
from pipelines.config import Config
from pipelines.dataset.dataset import Dataset

BATCH = 256  # files that are opened at a time
TOGETHER = 100_000  # files that may have changed, of which renames and exchanges are found
LOST, DOUBTFUL = "lost", "doubtful"

Input = Video | Unit  # a unit: a refused input


class Intake:
    """Makes the tasks of a job. record: commits a unit on which nothing is computed. flush: commits what was recorded.
    planning: is told how many inputs were looked at.
    counting: inputs that are recorded already are counted."""

    def __init__(
        self,
        known: RecordedUnits,
        config: Config,
        stages: Sequence[str],
        summary: Summary,
        record: Record,
        flush: Callable[[], None],
        planning: Callable[[int], None],
        counting: bool = True,
    ) -> None:
        self.known, self.config, self.stages, self.summary = known, config, stages, summary
        self.record, self.flush, self.planning, self.counting = record, flush, planning, counting
        self.looked = 0

    def tasks(self, inputs: Iterable[Input]) -> Iterator[Task]:
        """Raises ExecutorError."""
        with Planner(self.config) as planner:
            stream = iter(inputs)
            while batch := list(islice(stream, BATCH)):
                yield from self._batch(batch, planner)
                self.looked += len(batch)
                self.planning(self.looked)
            later = self.known.ledger.taken_up(DOUBTFUL)
            while doubtful := [_unpacked(data) for data in islice(later, TOGETHER)]:
                yield from self._changes(doubtful, planner)
            for data in self.known.ledger.taken_up(LOST):
                yield Task.unpack(data)

    def _batch(self, inputs: Sequence[Input], planner: Planner) -> Iterator[Task]:
        known, videos = self.known, []
        for given in inputs:
            if isinstance(given, Video):
                videos.append(given)
            elif known.recorded(given):
                self._count_known(given.video, recorded=True)
            else:
                self._finish(given)
        known.ledger.look_up([path_to_text(video.path) for video in videos])
        doubtful = [video for video in videos if known.may_have_changed(path_to_text(video.path), video.stamp)]
        seen = identities([video.path for video in doubtful], known, planner)
        put_off = {video.path for video in doubtful if self._undecided(path_to_text(video.path), seen)}
        for video in videos:
            if video.path in put_off:
                known.ledger.put_off(DOUBTFUL, _packed(video))
        yield from self._wanted([video for video in videos if video.path not in put_off], planner, seen)

    def _undecided(self, path: str, seen: dict[str, Identity]) -> bool:
        """Whether other inputs decide what became of this file, which may have changed."""
        known, content = self.known, seen[path]["video_id"]
        if known.ledger.empty or content is None:
            return False
        return bool(known.ledger.of_path(path) or known.ledger.of_content(content))

    def _changes(self, videos: Sequence[Video], planner: Planner) -> Iterator[Task]:
        """The tasks of files that may have changed, after the rows of moved ones were rewritten."""
        known = self.known
        changes = find_changes([path_to_text(video.path) for video in videos], known, planner)
        if changes.adopt(videos, known, self.record):
            self.flush()
            known.read(Dataset(known.dataset.store))
        known.changed, known.moved = changes.changed, set(changes.moved)
        if self.counting:
            self.summary.changed += len(changes.changed)
            self.summary.moved += len(changes.moved)
        for at in range(0, len(videos), BATCH):
            yield from self._wanted(videos[at : at + BATCH], planner, changes.seen)

    def _wanted(self, videos: Sequence[Video], planner: Planner, seen: dict[str, Identity]) -> Iterator[Task]:
        """Tasks of videos that are new, that lack a stage, or for which a list changed."""
        known = self.known
        known.ledger.look_up([path_to_text(video.path) for video in videos])
        fresh = [video for video in videos if not known.planned(video)]
        opened = dict(zip([video.path for video in fresh], plan_videos(fresh, planner, seen, known), strict=True))
        for video in videos:
            work, told = [], False
            for unit in opened.get(video.path, ()):
                if known.recorded(unit):
                    continue
                if unit.status == "ok":
                    work.append(unit)
                else:
                    told |= self._finish(unit)
            for unit in [*work, *known.incomplete(video)]:
                told = True
                if known.lost(unit):
                    known.ledger.put_off(LOST, self._task(unit).pack())
                else:
                    yield self._task(unit)
            self._count_known(video, recorded=not told)

    def _task(self, unit: Unit) -> Task:
        known = self.known
        todo = list(self.stages) if unit.todo is None else unit.todo
        replaced = known.replacement(unit)
        return Task(replace(unit, todo=todo), self._done(unit), keep=known.has_good_rows(unit), **replaced)

    def _done(self, unit: Unit) -> list[str]:
        """All stages whose columns the rows of a unit have now, including those of plugins that are not loaded."""
        done = dict.fromkeys([*self.known.stages_of(unit), *self.stages])
        parts = self.config.parts
        return [*parts.with_needs(name for name in done if name in parts.stages), *(done.keys() - parts.stages.keys())]

    def _finish(self, unit: Unit) -> bool:
        """Record a unit that planning failed, lost, or found to be a duplicate, or a refused input."""
        self.record(Task(unit, list(self.stages), **self.known.replacement(unit)))
        self.summary.count(Report.of(unit, written=True))
        return True

    def _count_known(self, video: Video, recorded: bool) -> None:
        """Count an input of which nothing is left to do, and its failures of earlier runs."""
        if not self.counting:
            return
        self.summary.already += recorded
        path = path_to_text(video.path)
        if self.known.retry_failed or path in self.known.changed:
            return
        failed = [row for row in self.known.ledger.of_path(path) if row["status"] == "failed"]
        for row in failed:
            self.summary.count_earlier(video.path, row["error"], first=row is failed[0])


def _packed(video: Video) -> bytes:
    return Unit(video).pack()


def _unpacked(data: bytes) -> Video:
    return Unit.unpack(data).video


__all__ = ["BATCH", "Input", "Intake"]
