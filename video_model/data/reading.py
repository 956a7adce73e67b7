"""The bytes of clips and pictures: as a stream through Hugging Face `datasets`, or one by one."""

from __future__ import annotations

import glob
import threading
from collections.abc import Collection, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from curate.base.store import is_remote
from curate.base.store.files import opened
from video_model.data.rows import Index
from video_model.data.sources import DataFile
from video_model.errors import DataError, first_line


def stream(file: DataFile, positions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """(row in the file, its bytes) of some rows, in order. b"" where a row has none. Raises DataError."""
    from datasets import Image, Video, load_dataset

    if file.members is not None:
        with _opened(file) as shard:
            for position in range(len(file)):
                if position in positions:
                    yield position, file.members.read(shard, position)
        return
    if is_remote(file.path):
        yield from _by_groups(file, positions)
        return
    if "::" in file.path:
        raise DataError(f"{file.path}: datasets takes :: for a chain of addresses; rename the folder")
    path = glob.escape(file.path) if "[" in file.path else file.path  # it takes names for patterns
    rows = load_dataset("parquet", data_files={"train": [path]}, split="train", streaming=True, columns=[file.column])
    feature = (rows.features or {}).get(file.column)
    if isinstance(feature, (Image, Video)):
        rows = rows.cast_column(file.column, type(feature)(decode=False))
    left = sum(position in positions for position in range(len(file)))
    try:
        for position, row in enumerate(rows if left else ()):
            if position in positions:
                yield position, _bytes_of(row[file.column])
                left -= 1
                if not left:
                    return
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: cannot be read ({first_line(error)}); copy or make it again") from None


def _by_groups(file: DataFile, positions: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Of an object of a store: the row groups that hold such rows, by ranges."""
    first = 0
    for group, count in enumerate(file.group_rows):
        wanted = [position for position in range(first, first + count) if position in positions]
        if wanted:
            column = _group(file, group)
            for position in wanted:
                yield position, _bytes_of(column[position - first].as_py())
        first += count


class Reader:
    """The bytes of any row of an index, whichever thread asks; a few row groups are kept."""

    def __init__(self, index: Index, keep: int = 8) -> None:
        self.index = index
        self._starts: dict[int, np.ndarray] = {}
        self._groups: LRUCache[tuple[int, int], pa.ChunkedArray] = LRUCache(keep)
        self._lock = threading.Lock()

    def __call__(self, row: int) -> bytes:
        number, position = self.index.place(row)
        file = self.index.files[number]
        if file.members is not None:
            with _opened(file) as shard:
                return file.members.read(shard, position)
        with self._lock:
            starts = self._starts.get(number)
            if starts is None:
                starts = self._starts[number] = np.cumsum([0, *file.group_rows])
            group = int(np.searchsorted(starts, position, side="right")) - 1
            column = self._groups.get((number, group))
            if column is None:
                column = self._groups[number, group] = _group(file, group)
        return _bytes_of(column[position - int(starts[group])].as_py())


def _group(file: DataFile, group: int) -> pa.ChunkedArray:
    try:
        source = opened(file.path) if is_remote(file.path) else file.path
        with pq.ParquetFile(source, pre_buffer=is_remote(file.path)) as parquet:
            return parquet.read_row_group(group, columns=[file.column])[file.column]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: cannot be read ({first_line(error)}); copy it again") from None


def _opened(file: DataFile) -> BinaryIO:
    try:
        return opened(file.path)
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read ({first_line(error)}); copy it again") from None


def _bytes_of(value: dict | bytes | None) -> bytes:
    return (value.get("bytes") if isinstance(value, dict) else value) or b""
