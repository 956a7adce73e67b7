"""The bytes of clips and pictures: as a stream through Hugging Face `datasets`, or one by one."""

from __future__ import annotations

import glob
import threading
from collections.abc import Container, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from video_model.data.index import Index
from video_model.data.sources import DataFile
from video_model.errors import DataError, first_line


def stream(file: DataFile, positions: Container[int]) -> Iterator[tuple[int, bytes]]:
    """(row in the file, its bytes) of some rows, in order. b"" where a row has none. Raises DataError."""
    from datasets import Image, Video, load_dataset

    if file.members is not None:
        with _opened(file) as shard:
            for position in range(len(file)):
                if position in positions:
                    yield position, file.members.read(shard, position)
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


class Reader:
    """The bytes of any row of an index, whichever thread asks; a few row groups are kept."""

    def __init__(self, index: Index, keep: int = 8) -> None:
        self.index = index
        self._starts = [np.cumsum([0, *file.group_rows]) for file in index.files]
        self._groups: LRUCache[tuple[int, int], pa.ChunkedArray] = LRUCache(keep)
        self._lock = threading.Lock()

    def __call__(self, row: int) -> bytes:
        number, position = int(self.index.file[row]), int(self.index.position[row])
        file = self.index.files[number]
        if file.members is not None:
            with _opened(file) as shard:
                return file.members.read(shard, position)
        group = int(np.searchsorted(self._starts[number], position, side="right")) - 1
        with self._lock:
            column = self._groups.get((number, group))
            if column is None:
                column = self._groups[number, group] = self._read(file, group)
        return _bytes_of(column[position - int(self._starts[number][group])].as_py())

    def _read(self, file: DataFile, group: int) -> pa.ChunkedArray:
        try:
            with pq.ParquetFile(file.path) as opened:
                return opened.read_row_group(group, columns=[file.column])[file.column]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.path}: cannot be read ({first_line(error)}); copy it again") from None


def _opened(file: DataFile) -> BinaryIO:
    try:
        return open(file.path, "rb")
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read ({first_line(error)}); copy it again") from None


def _bytes_of(value: dict | bytes | None) -> bytes:
    return (value.get("bytes") if isinstance(value, dict) else value) or b""
