"""Rewriting shards without recomputing: with the columns of this version, or without replaced rows.

Lists of pairs were maps, which Hugging Face `datasets` cannot read; there was one caption; newer columns are null; facts
of the video that clips lack come from its row in videos/. So all shards of a dataset have the same columns, also for tools
that open the files directly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dataset.files import FOOTER, write_table
from pipelines.dataset.tables import OF_VIDEO


def upgrade_shard(path: Path, schema: pa.Schema, twin: Path | None = None) -> bool:
    """Rewrite a shard that lacks columns of `schema`, or has other types, atomically; True if it did.

    Name, rows, footer and other columns stay. twin: of a shard of clips, the file with its videos."""
    found = pq.read_schema(path)
    if all(field.name in found.names and found.field(field.name).type == field.type for field in schema):
        return False
    table = pq.read_table(path)
    known = _facts(table, twin, [name for name in schema.names if name in OF_VIDEO and name not in found.names])
    columns = [
        pa.array(known[field.name], field.type) if field.name in known else _column(table, field) for field in schema
    ]
    others = [name for name in table.column_names if name not in schema.names]
    fields = [*schema, *(found.field(name) for name in others)]
    footer = {FOOTER: found.metadata[FOOTER]}
    table = pa.Table.from_arrays(
        [*columns, *(table[name] for name in others)], schema=pa.schema(fields, metadata=footer)
    )
    write_table(path, table)
    return True


def keep_units(source: Path, target: Path, units: list[str]) -> None:
    """Rewrite a shard's file, rows and footer, with these units only."""
    table = pq.read_table(source)
    ids = [
        f"{video}-{unit:04d}"
        for video, unit in zip(table["video_id"].to_pylist(), table["unit"].to_pylist(), strict=True)
    ]
    footer = {**json.loads(table.schema.metadata[FOOTER]), "units": units}
    kept = set(units)
    table = table.filter(pa.array([name in kept for name in ids], pa.bool_()))
    write_table(target, table.replace_schema_metadata({FOOTER: json.dumps(footer).encode()}))


def _facts(clips: pa.Table, twin: Path | None, names: list[str]) -> dict[str, list[Any]]:
    """The facts among `names` that the file with the videos has, for each clip."""
    there = [name for name in names if name in pq.read_schema(twin).names] if twin else []
    if not there:
        return {}
    videos = pq.read_table(twin, columns=["video_id", "unit", *there]).to_pylist()
    facts = {(row["video_id"], row["unit"]): row for row in videos}
    rows = [facts[key] for key in zip(clips["video_id"].to_pylist(), clips["unit"].to_pylist(), strict=True)]
    return {name: [row[name] for row in rows] for name in there}


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name in table.column_names:
        column = table[field.name]
        if not pa.types.is_map(column.type):
            return column.cast(field.type)
        names = [part.name for part in field.type.value_type]
        rows = [
            None if row is None else [dict(zip(names, pair, strict=True)) for pair in row] for row in column.to_pylist()
        ]
        return pa.array(rows, field.type)
    return pa.array(_missing(table, field.name), field.type)


def _missing(table: pa.Table, name: str) -> list[Any]:
    """Values of a newer column for older rows."""
    if name == "bounds":
        return ["shots"] * len(table)
    if name == "source_captions" and "source_caption" in table.column_names:
        return [[caption] if caption else None for caption in table["source_caption"].to_pylist()]
    return [None] * len(table)
