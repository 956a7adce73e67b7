"""Where training data lies: Parquet files of clips or pictures, and what can be wrong with them.

Two kinds of file: shards of a curated dataset (column `video`, a struct of bytes and path, and the columns that
Winnow writes), and image-text files (column `image`, such a struct or plain bytes, and a caption).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from video_model.errors import DataError, first_line

NUMBERS = ("num_frames", "fps", "width", "height")
NEEDED = ("clip_id", "video_id", *NUMBERS)
OTHER_CAPTIONS = ("caption", "text")  # names of the caption column of image-text files


@dataclass(frozen=True)
class DataFile:
    """One Parquet file. kind: "video" or "image". schema: of its columns. identity: 16 hex digits of name, size and
    footer; the same wherever the file lies."""

    path: str
    kind: str
    schema: pa.Schema
    group_rows: tuple[int, ...]
    identity: str

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def plain(self) -> bool:
        """The column with the bytes is these bytes, not a struct."""
        return not pa.types.is_struct(self.schema.field(self.kind).type)


def find_files(paths: Sequence[str | Path]) -> list[DataFile]:
    """The Parquet files of curated folders, folders of Parquet files and single files, in order, each once.

    Raises DataError."""
    if not paths:
        raise DataError("no training data: name a curated folder (winnow select DATASET --out CURATED makes one)")
    files = dict.fromkeys(os.path.abspath(file) for path in paths for file in _files_of(Path(path)))
    return [open_file(Path(file)) for file in files]


def open_file(path: Path) -> DataFile:
    """Read and check the footer of one Parquet file. Raises DataError."""
    try:
        meta = pq.read_metadata(path)
        schema = meta.schema.to_arrow_schema()
        identity = _identity(path)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({first_line(error)}); copy or make it again") from None
    kind = next((name for name in ("video", "image") if name in schema.names), None)
    if kind is None:
        raise DataError(
            f"{path}: has neither a video nor an image column; columns are {', '.join(schema.names)}"
            f"{_annotated_hint(path)}"
        )
    if not _holds_bytes(schema.field(kind).type, plain=kind == "image"):
        want = "a struct of bytes and path" + (" or bytes" if kind == "image" else "")
        raise DataError(f"{path}: column {kind} is {schema.field(kind).type}, not {want}")
    if kind == "video":
        _check_columns(path, schema)
    groups = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
    return DataFile(os.path.abspath(path), kind, schema, groups, identity)


def small_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that are cheap to read and that a condition may use: numbers, texts, dates, small lists."""
    return [field.name for field in schema if _is_small(field.type)]


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; winnow select DATASET --out {path} makes a curated dataset")
    if path.is_file():
        return [path]
    for folder in (path / "data", path):
        if files := sorted(p for p in folder.glob("*.parquet") if not p.name.startswith(".")):
            return files
    if (path / "dataset.json").exists() or (path / "clips").is_dir():
        raise DataError(
            f"{path}: is an annotated dataset, which has scores but no video bytes; "
            f"choose clips first: winnow select {path} --out CURATED"
        )
    if (path / ".partial").is_dir():
        raise DataError(f"{path}: is a curated dataset that is not finished; run the same winnow select again")
    raise DataError(f"{path}: has no Parquet files; name a curated folder (winnow select DATASET --out CURATED)")


def _annotated_hint(path: Path) -> str:
    root = path.parent.parent if path.parent.name == "clips" else path.parent
    if (root / "dataset.json").exists():
        return f"; it is of an annotated dataset: choose clips first: winnow select {root} --out CURATED"
    return ""


def _check_columns(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        raise DataError(
            f"{path}: column {', '.join(missing)} missing, which a curated dataset has; columns are "
            f"{', '.join(schema.names)}; make it with winnow select"
        )
    for name in NEEDED:
        kind = schema.field(name).type
        good = pa.types.is_integer(kind) or pa.types.is_floating(kind) if name in NUMBERS else _is_text(kind)
        if not good:
            raise DataError(f"{path}: column {name} is {kind}, not {'a number' if name in NUMBERS else 'text'}")


def _identity(path: Path) -> str:
    """Of name, size and the raw footer (schema, sizes and offsets of every column chunk, statistics, metadata)."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        stream.seek(-8, os.SEEK_END)
        (length,) = struct.unpack("<I", stream.read(4))
        stream.seek(-8 - length, os.SEEK_END)
        footer = stream.read(length)
    return hashlib.sha256(f"{path.name}\n{size}\n".encode() + footer).hexdigest()[:16]


def _holds_bytes(kind: pa.DataType, plain: bool) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return plain and _is_binary(kind)


def _is_small(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return pa.types.is_list(kind) and not pa.types.is_floating(kind.value_type) and _is_small(kind.value_type)
    return not _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
