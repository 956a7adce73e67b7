"""Atomic writes of a dataset's Parquet files, each with a footer that describes its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import atomic_file

FOOTER = b"winnow"
GROUP_ROWS = 64  # small, since units are read one at a time, and a row group is the smallest part that can be read


def write_parquet(path: Path, schema: pa.Schema, rows: list[dict[str, Any]], footer: dict[str, Any]) -> None:
    """Write rows and a footer, atomically."""
    schema = schema.with_metadata({FOOTER: json.dumps(footer).encode()})
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table with its metadata, atomically."""
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=GROUP_ROWS)
