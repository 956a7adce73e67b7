"""Clips of one source that are cheaper to cut in one pass over it than one by one, cut before the shards are written.

A clip that cannot be copied costs the decoding from the keyframe before it. Where many clips lie after one keyframe (a
screen recorder that wrote one, a file whose frames have to be counted), the cost of cutting each grows with the square of
the length. These are cut together, and lie in a spool until the shard that each belongs to is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from curate.clip import path_to_text, text_to_path
from curate.span import CLOSE
from pipelines.cutting import Cutters, Job, asks_for_transcode, spooled
from pipelines.shards import job_of

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


def cut_passes(rows: Path, spool: Path, cutters: Cutters, options: Mapping[str, Any], moved: Moved) -> None:
    """Cut what is cheaper together into the folder `spool`, where `cut` looks first.

    rows: the plan's Parquet file. What is in the spool from an interrupted run is kept.
    """
    groups = [
        [job for job in group if not spooled(spool, job.clip_id)] for group in _groups(rows, spool, options, moved)
    ]
    if any(groups):
        spool.mkdir(exist_ok=True)
        for _ in cutters.together(group for group in groups if group):
            pass


def _groups(rows: Path, spool: Path, options: Mapping[str, Any], moved: Moved) -> Iterator[list[Job]]:
    late = f"start_time + {options.get('trim', 0.1)} * (end_time - start_time) + {CLOSE}"
    copied = f"list_max(list_filter(_keyframes, lambda k: k <= {late})) >= start_time - {CLOSE}"
    if asks_for_transcode(dict(options)):
        copied = "false"
    query = f"""
        WITH alone AS (
            SELECT _position, video_id, unit, _decoded_from AS origin, end_time, end_time - _decoded_from AS cost
            FROM read_parquet({_quoted(rows)}) WHERE NOT coalesce({copied}, false) AND _decoded_from IS NOT NULL)
        SELECT list(_position ORDER BY _position) FROM alone GROUP BY video_id, unit, origin
        HAVING sum(cost) - (max(end_time) - origin) > {LEAST_SAVED}
           AND sum(cost) > {LEAST_RATIO} * (max(end_time) - origin)
        ORDER BY min(_position)"""
    columns = [name for name in pq.read_schema(rows).names if name not in HEAVY]
    for (positions,) in duckdb.connect().execute(query).fetchall():
        found = pq.read_table(rows, columns=columns, filters=[("_position", "in", positions)])
        yield [job_of(moved.row(row), dict(options), spool) for row in found.to_pylist()]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
