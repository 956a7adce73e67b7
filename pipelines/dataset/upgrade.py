"""Rows of older shards in the columns of this version, without recomputing.

Lists of pairs were maps, which Hugging Face `datasets` cannot read; there was one caption; newer columns are null; facts
of the video that clips lack come from its row in videos/. So all shards of a dataset have the same columns, also for tools
that open the files directly.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.dataset.tables import OF_VIDEO

__all__ = ["lacks", "upgraded"]


def lacks(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a shard's columns lack some of `schema`, or have other types."""
    return any(field.name not in found.names or found.field(field.name).type != field.type for field in schema)


def upgraded(table: pa.Table, schema: pa.Schema, videos: pa.Table | None = None) -> pa.Table:
    """Rows with the columns of `schema`, and those of their own that it lacks. videos: of a shard of clips, its videos."""
    known = _facts(
        table, videos, [name for name in schema.names if name in OF_VIDEO and name not in table.column_names]
    )
    columns = [
        pa.array(known[field.name], field.type) if field.name in known else _column(table, field) for field in schema
    ]
    others = [name for name in table.column_names if name not in schema.names]
    fields = [*schema, *(table.schema.field(name) for name in others)]
    return pa.Table.from_arrays([*columns, *(table[name] for name in others)], schema=pa.schema(fields))


def _facts(clips: pa.Table, videos: pa.Table | None, names: list[str]) -> dict[str, list[Any]]:
    """The facts among `names` that the videos have, for each clip."""
    there = [name for name in names if videos is not None and name in videos.column_names]
    if not there or videos is None:
        return {}
    facts = {(row["video_id"], row["unit"]): row for row in videos.select(["video_id", "unit", *there]).to_pylist()}
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
