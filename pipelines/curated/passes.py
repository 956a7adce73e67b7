"""Clips of one source that are cheaper to cut in one pass over it than one by one, cut ahead of the shards they are for.

A clip that cannot be copied costs the decoding from the keyframe before it. Where many clips lie after one keyframe (a
screen recorder that wrote one, a file whose frames have to be counted), the cost of cutting each grows with the square of
the length. These are cut together, and wait in a folder, the spool, until the shard that each belongs to is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import duckdb
import pyarrow.parquet as pq

from curate.base.files import writing
from curate.base.sql import literal
from curate.clip import COUNTED
from curate.export.span import CLOSE, ClipForm
from pipelines.curated.cutting import CutJob, Cutters, MapFn, spooled
from pipelines.curated.request import Progress
from pipelines.curated.rows import PlannedClips

LEAST_SAVED, LEAST_RATIO = 5.0, 2.0  # s of decoding, and cost one by one over cost together, from which it is done


class CutProgress:
    """How many clips are done, reported as it changes: a clip counts once it is cut, and once.

    done: clips written to shards, or failed. waiting: clips that are cut and wait for their shard.
    """

    def __init__(self, total: int, report: Progress | None = None) -> None:
        self.total, self._report = total, report
        self.done = self.failed = 0
        self.waiting: set[str] = set()

    def add(self, done: int = 0, failed: int = 0, waiting: Iterable[str] = ()) -> None:
        self.done, self.failed = self.done + done, self.failed + failed
        self.waiting |= set(waiting)
        if self._report:
            self._report(self.done + len(self.waiting), self.total, self.failed)

    def one(self, clip_id: str, failed: bool) -> None:
        """A clip has its place in a shard, or among the failures."""
        self.waiting.discard(clip_id)
        self.add(1, int(failed))


class CutAhead:
    """Cuts groups of clips together, as the shards need them. What an interrupted run left in the spool is kept.

    cut: nothing is cut together unless it is `Cutters`.
    """

    def __init__(self, clips: PlannedClips, cut: MapFn, progress: CutProgress) -> None:
        self.clips, self.folder, self.progress = clips, clips.spool, progress
        self.cutters = cut if isinstance(cut, Cutters) else None
        self.written: list[tuple[int, int]] = []  # positions from, to, of the shards that are there; set before `fill`
        self._groups: deque[list[int]] | None = None

    def fill(self, end: int) -> None:
        """Cut the groups that have a clip before position `end`, where that is cheaper than one by one.

        The order is shuffled, so a group's other clips are for later shards. Raises CutterError.
        """
        if self.cutters is None:
            return
        if self._groups is None:
            self._groups = deque(groups(self.clips, self.written))
        with writing(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
        under_way: deque[list[CutJob]] = deque()
        for _ in self.cutters.together(self._missing(end, under_way)):
            self._count(under_way.popleft())

    def drop(self, clip_ids: Iterable[str]) -> None:
        """Their shard is written."""
        for clip_id in clip_ids:
            for suffix in ("json", "mp4"):
                (self.folder / f"{clip_id}.{suffix}").unlink(missing_ok=True)

    def _missing(self, end: int, under_way: deque[list[CutJob]]) -> Iterator[list[CutJob]]:
        """The jobs of each group that are not done; the group itself is added to `under_way`."""
        while self._groups and self._groups[0][0] < end:
            group = [self.clips.job(row) for row in self.clips.light_rows(self._groups.popleft())]
            missing = [job for job in group if not spooled(self.folder, job.clip_id)]
            if missing:
                under_way.append(group)
                yield missing
            else:
                self._count(group)

    def _count(self, group: list[CutJob]) -> None:
        ids = (job.clip_id for job in group)
        self.progress.add(waiting=[clip_id for clip_id in ids if (self.folder / f"{clip_id}.json").exists()])


def groups(clips: PlannedClips, written: Sequence[tuple[int, int]] = ()) -> list[list[int]]:
    """Positions of the clips of each group that is cheaper to cut in one pass, by the first of them.

    A clip is alone where it can be copied: its packets have a clock, and it has a keyframe near its start. written:
    positions from, to, of clips that are done.
    """
    form = ClipForm(**clips.options)
    late = f"start_time + {form.trim} * (end_time - start_time) + {CLOSE}"
    copied = f"list_max(list_filter(_keyframes, lambda k: k <= {late})) >= start_time - {CLOSE}"
    if "clock" in pq.read_schema(clips.path).names:  # not in datasets of an older Winnow
        copied += f" AND coalesce(clock, '') <> '{COUNTED}'"
    if not form.may_copy:
        copied = "false"
    left = " AND ".join(f"NOT (_position >= {first} AND _position < {end})" for first, end in written) or "true"
    query = f"""
        WITH alone AS (
            SELECT _position, video_id, unit, _decoded_from AS origin, end_time, end_time - _decoded_from AS cost
            FROM read_parquet({literal(clips.path)})
            WHERE NOT coalesce({copied}, false) AND _decoded_from IS NOT NULL AND {left})
        SELECT list(_position ORDER BY _position) FROM alone GROUP BY video_id, unit, origin
        HAVING sum(cost) - (max(end_time) - origin) > {LEAST_SAVED}
           AND sum(cost) > {LEAST_RATIO} * (max(end_time) - origin)
        ORDER BY min(_position)"""
    return [positions for (positions,) in duckdb.connect().execute(query).fetchall()]
