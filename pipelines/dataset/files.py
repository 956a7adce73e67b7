"""A dataset's Parquet files, each with a footer that describes its content."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import atomic_file

__all__ = ["FOOTER", "GROUP_ROWS", "DatasetError", "parquet_bytes", "write_table"]

FOOTER = b"winnow"
GROUP_ROWS = 64  # small, since units are read one at a time, and a row group is the smallest part that can be read


class DatasetError(Exception):
    """One line: the dataset, what is wrong with it, and the fix."""


def parquet_bytes(table: pa.Table, group_rows: int = GROUP_ROWS) -> bytes:
    """A table with its metadata as the bytes of a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", row_group_size=group_rows)
    return stream.getvalue()


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table with its metadata, atomically."""
    with atomic_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=GROUP_ROWS)
