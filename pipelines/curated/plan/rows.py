"""The plan of a curated dataset: the rows that a selection keeps, in the order of the shards, each with what cutting its
clip needs.

    PLAN/rows-00000.parquet     the rows at positions 0 to 4095, and so on
    PLAN/weights.parquet        about how many bytes each of them takes, in order
    PLAN/together.parquet       what cutting needs of the clips that are cut in passes (see `pipelines.curated.plan.passes`)

It is made by DuckDB, which sorts on disk, and stays in order of positions through to the files: nothing here grows with
the number of clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import writing
from curate.base.store.files import database
from curate.base.store.places import Store
from curate.clip import COUNTED
from curate.export.span import CLOSE, ClipForm
from curate.selection.selection import Selection
from pipelines.curated.plan.passes import grouped_sql
from pipelines.dataset.dataset import Dataset

IN_THE_VIDEO = ("still_first", "still_last")  # pictures that an exported row leaves out, unless its format needs them
ROWS, GROUP_ROWS = 4096, 512  # of a file of the plan, and of a row group, which is what a reader holds
GIGABYTES, PER_THREAD = 1.0, 0.25  # of memory for sorting: at least, and for each thread
FACTS = {
    "bytes": "BIGINT",
    "first_packet": "BIGINT",
    "first_pts": "BIGINT",
    "first_frame": "BIGINT",
    "unit_start": "DOUBLE",
    "modified": "BIGINT",
    "version": "VARCHAR",
}
OF_THE_CUT = ("clip_id", "video_id", "video_path", "start_frame", "end_frame", "start_time", "end_time")


def write_plan(
    dataset: Dataset,
    selection: Selection,
    *,
    seed: int,
    drop: Sequence[str],
    form: ClipForm,
    plan: Store,
    scratch: Path,
) -> int:
    """Write the plan into a store; how many clips there are. What an interrupted process wrote of it stays.

    seed: of the order. drop: columns that are left out. form: decides what is cut in passes. scratch: for what does not
    fit into memory. Raises duckdb.Error.
    """
    db = _database(scratch)
    try:
        db.execute(f"CREATE VIEW kept AS SELECT * FROM {selection.kept_sql}").fetchall()
        # Narrow tables first: the stills take part in the last sort only.
        db.execute(
            f"""CREATE TABLE places AS
                SELECT clip_id, row_number() OVER (ORDER BY md5('{int(seed)}:' || clip_id), clip_id) - 1 AS _position
                FROM kept"""
        ).fetchall()
        _write_light(db, dataset, form)
        columns = f"* EXCLUDE ({', '.join(drop)})" if drop else "*"
        heavy = (
            f"SELECT c.*, p._position FROM (SELECT {columns} FROM {dataset.clips_sql}) c JOIN places p USING (clip_id)"
        )
        light = "SELECT _keyframes, _decoded_from, _weight, _checksum, _together, _" + ", _".join(FACTS)
        count = _put_rows(db, f"{heavy} ORDER BY _position", f"{light} FROM light ORDER BY _position", plan, scratch)
        _put(plan, "weights.parquet", db.sql("SELECT _weight FROM light ORDER BY _position"), scratch)
        held = db.sql("SELECT * FROM light").columns
        wanted = [name for name in held if name in OF_THE_CUT or name == "clock" or name.startswith("_")]
        named = ", ".join(f"l.{name}" for name in wanted)
        groups = f"SELECT {named}, g._group FROM light l JOIN grouped g USING (_position) ORDER BY g._group, _position"
        _put(plan, "together.parquet", db.sql(groups), scratch)
    finally:
        db.close()
    return count


def _database(scratch: Path) -> duckdb.DuckDBPyConnection:
    """One that holds its tables and what it sorts in files."""
    db = database(str(scratch / "plan.duckdb"), temp_directory=str(scratch / "spill"))
    threads = db.execute("SELECT current_setting('threads')").fetchall()[0][0]
    memory = min(max(GIGABYTES, PER_THREAD * threads), psutil.virtual_memory().total / 2e9)
    db.execute(f"SET memory_limit = '{memory:.3f}GB'").fetchall()
    return db


def _write_light(db: duckdb.DuckDBPyConnection, dataset: Dataset, form: ClipForm) -> None:
    """The tables `light`, of what cutting needs, and `grouped`, of what is cut in passes, over the kept clips."""
    clips = {row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {dataset.clips_sql}").fetchall()}
    facts = {row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {dataset.videos_sql}").fetchall()}
    # Without a source's bytes and length all its clips weigh as their seconds.
    weight = "bytes / nullif(duration, 0)" if {"bytes", "duration"} <= facts else "NULL"
    keyframes = "keyframes" if "keyframes" in facts else "NULL::DOUBLE[]"
    held = ", ".join(f"{name if name in facts else 'NULL'}::{kind} AS _{name}" for name, kind in FACTS.items())
    whole = "checksum" if "checksum" in facts else "NULL::VARCHAR"  # the row of the first stretch has it
    clock = "clock" if "clock" in clips else "NULL::VARCHAR AS clock"  # not in datasets of an older Winnow
    db.execute(
        f"""CREATE TABLE sources AS
            SELECT video_id, unit, {keyframes} AS keyframes, ({weight})::DOUBLE AS weight, {held},
                   max({whole}) OVER (PARTITION BY video_id) AS _checksum
            FROM {dataset.videos_sql} WHERE status = 'ok'
            QUALIFY row_number() OVER (PARTITION BY video_id, unit ORDER BY video_path) = 1"""
    ).fetchall()
    decoded_from = f"""CASE WHEN coalesce(c.clock, '') = '{COUNTED}' THEN coalesce(v._unit_start, v.keyframes[1])
        ELSE list_max(list_filter(v.keyframes, lambda k: k <= c.start_time + {CLOSE})) END"""
    db.execute(
        f"""CREATE TABLE found AS
            SELECT p._position, {", ".join(f"c.{name}" for name in OF_THE_CUT)}, c.unit, c.clock,
                   list_filter(v.keyframes, lambda k: k >= c.start_time - 1 AND k < c.end_time) AS _keyframes,
                   {decoded_from} AS _decoded_from,
                   (c.end_time - c.start_time) * coalesce(v.weight, (SELECT quantile_disc(weight, 0.5) FROM sources), 1) AS _weight,
                   _checksum, {", ".join(f"v._{name}" for name in FACTS)}
            FROM (SELECT {", ".join(OF_THE_CUT)}, unit, {clock} FROM {dataset.clips_sql}) c
            JOIN places p USING (clip_id) LEFT JOIN sources v ON v.video_id = c.video_id AND v.unit = c.unit"""
    ).fetchall()
    db.execute(f"CREATE TABLE grouped AS {grouped_sql('found', form)}").fetchall()
    db.execute(
        """CREATE TABLE light AS SELECT f.*, g._group IS NOT NULL AS _together
           FROM found f LEFT JOIN grouped g USING (_position); DROP TABLE found; DROP TABLE sources"""
    ).fetchall()


def _put_rows(db: duckdb.DuckDBPyConnection, heavy: str, light: str, plan: Store, scratch: Path) -> int:
    """The files of rows, from two queries of the same clips in the same order; how many rows there are."""
    count = 0
    both = (batches(cursor.sql(query).to_arrow_reader(ROWS), ROWS) for cursor, query in
            ((db.cursor(), heavy), (db.cursor(), light)))  # fmt: skip
    for index, (rows, more) in enumerate(zip(*both, strict=True)):
        for field in more.schema:
            rows = rows.append_column(field, more[field.name])
        path = scratch / "rows.parquet"
        with writing(scratch):
            pq.write_table(
                rows, path, compression="zstd", row_group_size=GROUP_ROWS, use_dictionary=False, write_statistics=False
            )
        plan.put(f"rows-{index:05d}.parquet", path)
        count += rows.num_rows
    return count


def _put(plan: Store, name: str, rows: duckdb.DuckDBPyRelation, scratch: Path) -> None:
    path, reader = scratch / "part.parquet", rows.to_arrow_reader(1 << 16)
    with writing(scratch), pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in batches(reader, 1 << 16):
            writer.write_table(batch)
    plan.put(name, path)


def batches(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.Table]:
    """Tables of so many rows, but the last."""
    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        while sum(part.num_rows for part in held) >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held = table.slice(rows).to_batches()
    if any(part.num_rows for part in held):
        yield pa.Table.from_batches(held)
