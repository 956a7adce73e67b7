"""Parquet files of a dataset, which appear whole or not at all, each with a footer of what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import atomic_file

FOOTER = b"winnow"
GROUP_ROWS = 64  # one unit is read back at a time, and a row group is the least that can be read


def write_parquet(path: Path, schema: pa.Schema, rows: list[dict[str, Any]], footer: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    schema = schema.with_metadata({FOOTER: json.dumps(footer).encode()})
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """The same of a table, whose metadata is kept."""
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=GROUP_ROWS)
