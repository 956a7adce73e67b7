"""The rows that a selection keeps, in the order of the shards, each with what cutting its clip needs."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from curate.base.files import commit, writing
from curate.base.sql import literal
from curate.export.span import CLOSE
from curate.selection.selection import Selection
from pipelines.dataset.dataset import Dataset

HEAVY = ("still_first", "still_last")  # in the video itself


def write_rows(dataset: Dataset, selection: Selection, seed: int, path: Path) -> None:
    """Write them to a Parquet file, with the columns _position, _weight (about its bytes), _keyframes (near the clip, s),
    _decoded_from (s) and facts of the source. Sorted on disk, so that it scales. seed: of the order.
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
                   c.* EXCLUDE ({", ".join(HEAVY)})
            FROM {dataset.clips_sql} c JOIN places p USING (clip_id)
            LEFT JOIN sources v ON v.video_id = c.video_id AND v.unit = c.unit
            ORDER BY p._position
        ) TO {literal(aside)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"""
    ).fetchall()
    with writing(path.parent):
        commit(aside, path)
