"""A dataset's Parquet files, each with a footer that describes its content."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["FOOTER", "GROUP_ROWS", "DatasetError", "parquet_bytes"]

FOOTER = b"winnow"
GROUP_ROWS = 64  # at least, in a row group
GROUP_BYTES = 8 << 20  # about, of a row group: the smallest part that can be read, and units are read one at a time
MAX_GROUP_ROWS = 8192


class DatasetError(Exception):
    """One line: the dataset, what is wrong with it, and the fix."""


def parquet_bytes(table: pa.Table, group_rows: int | None = None) -> bytes:
    """A table with its metadata as the bytes of a Parquet file."""
    if group_rows is None:
        each = table.nbytes / max(1, len(table))
        group_rows = int(min(MAX_GROUP_ROWS, max(GROUP_ROWS, GROUP_BYTES / max(1.0, each))))
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", row_group_size=group_rows)
    return stream.getvalue()
