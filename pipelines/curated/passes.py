"""Clips of one source that are cheaper to cut in one pass over it than one by one, cut ahead of the shards they are for.

A clip that cannot be copied costs the decoding from the keyframe before it. Where many clips lie after one keyframe (a
screen recorder that wrote one, a file whose frames have to be counted), the cost of cutting each grows with the square of
the length. These are cut together, and lie in a spool until the shard that each belongs to is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from curate.base.files import writing
from curate.base.sql import literal
from curate.clip import COUNTED, path_to_text, text_to_path
from curate.export.span import CLOSE
from pipelines.curated.cutting import Cutters, Job, asks_for_transcode, spooled
from pipelines.curated.shards import job_of

LEAST_SAVED, LEAST_RATIO = 5.0, 2.0  # s of decoding, and cost one by one over cost together, from which it is done
HEAVY = ("still_middle", "image_embedding")


class Moved:
    """Where a source lies now. roots: old -> new beginning of paths, absolute."""

    def __init__(self, roots: Mapping[str, str]) -> None:
        self.roots = dict(roots)

    def __call__(self, video_path: str) -> str:
        """video_path: as a table has it (`path_to_text`)."""
        path = Path(text_to_path(video_path))
        for old, new in self.roots.items():
            if path.is_relative_to(old):
                return path_to_text(str(Path(new) / path.relative_to(old)))
        return video_path

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"video_path": self(row["video_path"])}


class Spool:
    """Where clips lie that were cut with others of their source, until their shard is written; and the count of all cut.

    rows: the plan's Parquet file. folder: `cut` looks there first; what an interrupted run left in it is kept. cutters:
    None: nothing is cut together. progress: see `make_curated`; a clip counts once it is cut, and once.
    """

    def __init__(
        self,
        rows: Path,
        folder: Path,
        cutters: Cutters | None,
        options: Mapping[str, Any],
        moved: Moved,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.rows, self.folder, self.cutters = rows, folder, cutters
        self.options, self.moved, self.progress = dict(options), moved, progress
        self.total = pq.read_metadata(rows).num_rows
        self.written: list[tuple[int, int]] = []  # positions from, to, of the shards that are there; before `fill`
        self.ready: set[str] = set()  # clips that wait for their shard
        self.done = self.failed = 0
        self._groups: deque[list[int]] | None = None

    def fill(self, end: int) -> None:
        """Cut the groups that have a clip before position `end`, where that is cheaper than one by one.

        The order is shuffled, so a group's other clips are for later shards. Raises CutterError.
        """
        if self.cutters is None:
            return
        if self._groups is None:
            self._groups = deque(groups(self.rows, self.options, self.written))
        under_way: deque[list[Job]] = deque()

        def jobs() -> Iterator[list[Job]]:
            while self._groups and self._groups[0][0] < end:
                group = self._jobs(self._groups.popleft())
                missing = [job for job in group if not spooled(self.folder, job.clip_id)]
                if missing:
                    under_way.append(group)
                    yield missing
                else:
                    self._count(group)

        with writing(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
        for _ in self.cutters.together(jobs()):
            self._count(under_way.popleft())

    def tell(self, done: int, failed: int) -> None:
        """done: clips written to shards, or failed."""
        self.done, self.failed = done, failed
        if self.progress:
            self.progress(done + len(self.ready), self.total, failed)

    def drop(self, clip_ids: Iterable[str]) -> None:
        """Their shard is written."""
        for clip_id in clip_ids:
            for suffix in ("json", "mp4"):
                (self.folder / f"{clip_id}.{suffix}").unlink(missing_ok=True)

    def _jobs(self, positions: list[int]) -> list[Job]:
        columns = [name for name in pq.read_schema(self.rows).names if name not in HEAVY]
        found = pq.read_table(self.rows, columns=columns, filters=[("_position", "in", positions)])
        return [job_of(self.moved.row(row), self.options, self.folder) for row in found.to_pylist()]

    def _count(self, group: list[Job]) -> None:
        self.ready |= {job.clip_id for job in group if (self.folder / f"{job.clip_id}.json").exists()}
        self.tell(self.done, self.failed)


def groups(rows: Path, options: Mapping[str, Any], written: Sequence[tuple[int, int]] = ()) -> list[list[int]]:
    """Positions of the clips of each group that is cheaper to cut in one pass, by the first of them.

    A clip is alone where it can be copied: its packets have a clock, and it has a keyframe near its start. written:
    positions from, to, of clips that are done.
    """
    late = f"start_time + {options.get('trim', 0.1)} * (end_time - start_time) + {CLOSE}"
    copied = f"list_max(list_filter(_keyframes, lambda k: k <= {late})) >= start_time - {CLOSE}"
    if "clock" in pq.read_schema(rows).names:  # not in datasets of an older Winnow
        copied += f" AND coalesce(clock, '') <> '{COUNTED}'"
    if asks_for_transcode(dict(options)):
        copied = "false"
    left = " AND ".join(f"NOT (_position >= {first} AND _position < {end})" for first, end in written) or "true"
    query = f"""
        WITH alone AS (
            SELECT _position, video_id, unit, _decoded_from AS origin, end_time, end_time - _decoded_from AS cost
            FROM read_parquet({literal(rows)})
            WHERE NOT coalesce({copied}, false) AND _decoded_from IS NOT NULL AND {left})
        SELECT list(_position ORDER BY _position) FROM alone GROUP BY video_id, unit, origin
        HAVING sum(cost) - (max(end_time) - origin) > {LEAST_SAVED}
           AND sum(cost) > {LEAST_RATIO} * (max(end_time) - origin)
        ORDER BY min(_position)"""
    return [positions for (positions,) in duckdb.connect().execute(query).fetchall()]
