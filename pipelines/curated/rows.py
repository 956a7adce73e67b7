"""The rows that a selection keeps, in the order of the shards, each with what cutting its clip needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import commit, writing
from curate.base.sql import literal
from curate.clip import path_to_text, text_to_path
from curate.export.span import CLOSE, Span, origin_of
from curate.selection.selection import Selection
from pipelines.curated.cutting import CutJob, SourceFile
from pipelines.dataset.dataset import Dataset

IN_THE_VIDEO = ("still_first", "still_last")  # pictures that an exported row leaves out, unless its format needs them
HEAVY = ("still_first", "still_middle", "still_last", "image_embedding")


def write_rows(dataset: Dataset, selection: Selection, seed: int, drop: Sequence[str], path: Path) -> None:
    """Write them to a Parquet file, with the columns _position, _weight (about its bytes), _keyframes (near the clip, s),
    _decoded_from (s) and facts of the source. Sorted on disk, so that it scales. seed: of the order. drop: columns that are left out.
    """
    aside = path.with_suffix(".tmp")
    db = duckdb.connect(config={"temp_directory": str(path.parent)})
    db.register("kept", pa.table({"clip_id": selection.kept_ids()}))
    facts = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {dataset.videos_sql}").fetchall()]
    # Without a source's bytes and length all its clips weigh as their seconds.
    weight = "bytes / nullif(duration, 0)" if {"bytes", "duration"} <= set(facts) else "NULL"
    keyframes = "keyframes" if "keyframes" in facts else "NULL::DOUBLE[]"
    kept_facts = ", ".join(
        f"any_value({name if name in facts else 'NULL'})::{kind} AS _{name}"
        for name, kind in (("bytes", "BIGINT"), ("first_packet", "BIGINT"), ("first_pts", "BIGINT"),
                           ("first_frame", "BIGINT"), ("unit_start", "DOUBLE"), ("modified", "BIGINT"))
    )  # fmt: skip
    whole = "max(checksum)" if "checksum" in facts else "NULL::VARCHAR"  # the row of the first stretch has it
    columns = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {dataset.clips_sql}").fetchall()]
    counted = "coalesce(c.clock, '') = 'counted'" if "clock" in columns else "false"
    # Narrow tables first, so that only one sort and one join carry the stills.
    db.execute(
        f"""CREATE TEMP TABLE places AS
            SELECT clip_id, row_number() OVER (ORDER BY md5('{int(seed)}:' || clip_id), clip_id) - 1 AS _position FROM kept;
            CREATE TEMP TABLE sources AS
            SELECT video_id, unit, any_value({keyframes}) AS keyframes, any_value({weight})::DOUBLE AS weight, {kept_facts},
                   max({whole}) OVER (PARTITION BY video_id) AS _checksum
            FROM {dataset.videos_sql} WHERE status = 'ok' GROUP BY video_id, unit"""
    ).fetchall()
    decoded_from = f"""CASE WHEN {counted} THEN coalesce(v._unit_start, v.keyframes[1])
        ELSE list_max(list_filter(v.keyframes, lambda k: k <= c.start_time + {CLOSE})) END"""
    db.execute(
        f"""COPY (
            SELECT p._position,
                   list_filter(v.keyframes, lambda k: k >= c.start_time - 1 AND k < c.end_time) AS _keyframes,
                   {decoded_from} AS _decoded_from,
                   (c.end_time - c.start_time) * coalesce(v.weight, (SELECT avg(weight) FROM sources), 1) AS _weight,
                   v._bytes, v._first_packet, v._first_pts, v._first_frame, v._unit_start, v._modified, v._checksum,
                   c.* {f"EXCLUDE ({', '.join(drop)})" if drop else ""}
            FROM {dataset.clips_sql} c JOIN places p USING (clip_id)
            LEFT JOIN sources v ON v.video_id = c.video_id AND v.unit = c.unit
            ORDER BY p._position
        ) TO {literal(aside)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"""
    ).fetchall()
    with writing(path.parent):
        commit(aside, path)


class SourceRoots:
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


def job_of(row: Mapping[str, Any], options: Mapping[str, Any], spool: Path | None = None) -> CutJob:
    """row: of a clip, with _bytes, _keyframes and the unit's marks, as `write_rows` has them."""
    facts = {name: row.get(f"_{name}") for name in ("first_packet", "first_pts", "first_frame")}
    origin = origin_of(row.get("clock"), facts, row.get("_unit_start"))
    span = Span(row["start_frame"], row["end_frame"], row["start_time"], row["end_time"], origin)
    source = SourceFile(row["video_id"], row["_bytes"], row.get("_modified"), row.get("_checksum"))
    path = text_to_path(row["video_path"])
    return CutJob(row["clip_id"], path, span, row["_keyframes"], dict(options), source, spool and str(spool))


@dataclass(frozen=True)
class PlannedClips:
    """The clips that are to be cut, in the order of the shards: the rows that `write_rows` wrote to `path`.

    options: of `curate.export.span.ClipForm`. roots: where their sources lie now. spool: folder of the clips that were cut
    ahead (see `pipelines.curated.passes`).
    """

    path: Path
    options: Mapping[str, Any]
    roots: SourceRoots
    spool: Path

    @property
    def count(self) -> int:
        return pq.read_metadata(self.path).num_rows

    def weights(self) -> np.ndarray:
        """[N] about how many bytes each clip takes, in a unit of its own."""
        return pq.read_table(self.path, columns=["_weight"])["_weight"].to_numpy()

    def rows(self, first: int, end: int) -> list[dict[str, Any]]:
        """The rows at positions [first, end), with their sources' paths of now."""
        wanted = [("_position", ">=", first), ("_position", "<", end)]
        return self._moved(pq.read_table(self.path, filters=wanted))

    def light_rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at these positions, without stills and embeddings."""
        columns = [name for name in pq.read_schema(self.path).names if name not in HEAVY]
        return self._moved(pq.read_table(self.path, columns=columns, filters=[("_position", "in", positions)]))

    def job(self, row: Mapping[str, Any], **options: Any) -> CutJob:
        return job_of(row, {**self.options, **options}, self.spool)

    def _moved(self, table: pa.Table) -> list[dict[str, Any]]:
        rows = table.to_pylist(maps_as_pydicts="strict")
        return [row | {"video_path": self.roots(row["video_path"])} for row in rows]
