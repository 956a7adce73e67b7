"""Files that appear whole or not at all: written aside, flushed to the disk, renamed. A full disk is named."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

FOOTER = b"winnow"
GROUP_ROWS = 64  # one unit is read back at a time, and a row group is the least that can be read


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class DiskError(Exception):
    """A folder that takes no more. One line: the folder, the reason, the fix."""


@contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """What is written to a folder meanwhile: an error of a full or broken disk names the folder. Raises DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskError(
            f"{folder}: cannot be written to ({os.strerror(error.errno)}): free space there, or move the folder to a larger "
            "disk; what is committed stays, and the same command goes on from there"
        ) from None


def write_parquet(path: Path, schema: pa.Schema, rows: list[dict[str, Any]], footer: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    schema = schema.with_metadata({FOOTER: json.dumps(footer).encode()})
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """The same of a table, whose metadata is kept."""
    with whole(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=GROUP_ROWS)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file at `path` when the block ends, and leave nothing where it raises.

    Raises DiskError where the folder takes no more.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.parent):
        try:
            with open(aside, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            commit(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def commit(aside: Path, path: Path) -> None:
    """Rename, and make the rename itself durable."""
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, content: Any) -> None:
    with whole(path) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
