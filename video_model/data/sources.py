"""Where training data lies: Parquet files of clips or pictures, WebDataset shards, and what can be wrong with them.

Shards of a curated dataset have a column `video` (a struct of bytes and path) and the columns that Winnow writes. Image-text
Parquet has a column `image`, `jpg`, `jpeg`, `png` or `webp` (such a struct, or plain bytes) and a caption. WebDataset shards
are .tar files of NAME.jpg, NAME.txt and NAME.json.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import is_remote, locate, store_of
from curate.base.store.files import opened
from video_model.data.webdataset import Members, scan
from video_model.errors import DataError, first_line

NUMBERS = ("num_frames", "fps", "width", "height")
NEEDED = ("clip_id", "video_id", *NUMBERS)
PICTURES = ("image", "jpg", "jpeg", "png", "webp")  # names of the column of image-text Parquet
OTHER_CAPTIONS = (
    "caption",
    "text",
    "TEXT",
    "txt",
)  # of the caption column, where no column that was asked for is there
ACCEPTED = (
    "a curated folder (winnow select DATASET --out CURATED), image-text Parquet (image or jpg, and caption or text), or "
    "WebDataset shards (.tar of NAME.jpg and NAME.txt or NAME.json)"
)


@dataclass(frozen=True)
class Place:
    """A file as it is now. path: absolute, or a URL. version: changes whenever its content does."""

    path: str
    bytes: int
    version: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def open(self) -> BinaryIO:
        """Raises OSError, StoreError."""
        return opened(self.path)


@dataclass(frozen=True)
class DataFile:
    """One Parquet file, or one .tar shard with its `members`. path: absolute, or a URL. kind: "video" or "image". column: that holds the bytes. schema:
    of its columns. identity: 16 hex digits of name, size and footer (headers); the same wherever the file lies."""

    path: str
    kind: str
    column: str
    schema: pa.Schema
    group_rows: tuple[int, ...]
    identity: str
    members: Members | None = None

    def __len__(self) -> int:
        """How many rows there are."""
        return sum(self.group_rows)

    def table(self, columns: list[str]) -> pa.Table:
        """Some columns of all rows. Raises DataError."""
        try:
            if self.members is not None:
                members = self.members if self.members.table is not None else scan(self.path)
                return members.table.select(columns)
            if is_remote(self.path):
                with opened(self.path) as stream:
                    return pq.read_table(stream, columns=columns)
            return pq.read_table(self.path, columns=columns, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read ({first_line(error)}); copy or make it again") from None


def whole_path(place: str) -> str:
    """An absolute path, or a URL as it is."""
    return place if is_remote(place) else str(Path(place).absolute())


def find_places(paths: Sequence[str | Path]) -> list[Place]:
    """The files of curated folders, folders of Parquet files and .tar shards, and single files, in order, each once.

    Raises DataError, StoreError."""
    if not paths:
        raise DataError(f"no training data: name {ACCEPTED}")
    found: dict[str, Place] = {}
    for path in paths:
        for place in _places_under(str(path)) if is_remote(path) else map(_place, _files_of(Path(path))):
            found.setdefault(place.path, place)
    return list(found.values())


def open_file(place: Place) -> DataFile:
    """Read and check the footer of one Parquet file, or the headers of a .tar shard. Raises DataError."""
    path = place.path
    if path.endswith(".tar"):
        return _open_shard(place)
    if path.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise DataError(f"{path}: is compressed, so that no picture can be read by itself; uncompress it to .tar")
    try:
        with place.open() as stream:
            meta = pq.read_metadata(stream)
            schema = meta.schema.to_arrow_schema()
            identity = _identity(place, stream)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({first_line(error)}); copy or make it again") from None
    column = next((name for name in ("video", *PICTURES) if name in schema.names), None)
    if column is None:
        address = next((name for name in schema.names if name.lower() == "url"), None)
        why = (
            f"has addresses of pictures ({address}) and no pictures: download them"
            if address
            else (
                f"has neither a video nor a picture column ({', '.join(PICTURES)}); columns are {', '.join(schema.names)}"
            )
        )
        raise DataError(f"{path}: {why}{_annotated_hint(Path(path))}")
    kind = "video" if column == "video" else "image"
    if not _holds_bytes(schema.field(column).type, plain=kind == "image"):
        want = "a struct of bytes and path" + (" or bytes" if kind == "image" else "")
        raise DataError(f"{path}: column {column} is {schema.field(column).type}, not {want}")
    if kind == "video":
        _check_columns(path, schema)
    groups = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
    return DataFile(path, kind, column, schema, groups, identity)


def _open_shard(place: Place) -> DataFile:
    path = place.path
    try:
        members = scan(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); copy it again") from None
    if members.videos and not len(members.table):
        raise DataError(
            f"{path}: is a WebDataset of videos, and clips need what winnow annotate finds out: unpack it, annotate the "
            "folder, and train on what winnow select makes of it"
        )
    identity = hashlib.sha256(f"{place.name}\n{place.bytes}\n{members.identity}".encode()).hexdigest()[:16]
    rows = (len(members.table),)
    return DataFile(path, "image", "jpg", members.table.schema, rows, identity, members)


def small_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that are cheap to read and that a condition may use: numbers, texts, dates, small lists."""
    return [field.name for field in schema if _is_small(field.type)]


def _place(path: Path) -> Place:
    about = path.stat()
    return Place(os.path.abspath(path), about.st_size, str(about.st_mtime_ns))


def _places_under(url: str) -> list[Place]:
    """Those of a folder of a store, or of one object."""
    folder, name = locate(url.rstrip("/"))
    if name.endswith((".parquet", ".tar")):
        try:
            entry = store_of(folder).head(name)
        except FileNotFoundError:
            raise DataError(f"{url}: no such object; winnow select DATASET --out makes a curated dataset") from None
        return [Place(url, entry.bytes, entry.version)]
    store = store_of(url)
    entries = [entry for entry in store.list() if entry.name.count("/") <= 1]
    for within in ("data/", ""):
        files = [
            entry for entry in entries
            if entry.name.startswith(within) and "/" not in entry.name.removeprefix(within)
            and entry.name.endswith((".parquet", ".tar")) and not entry.name.removeprefix(within).startswith(".")
        ]  # fmt: skip
        shards = {entry.name.removesuffix(".tar") for entry in files if entry.name.endswith(".tar")}
        if files:
            kept = [e for e in files if e.name.endswith(".tar") or e.name.removesuffix(".parquet") not in shards]
            return [Place(store.where(entry.name), entry.bytes, entry.version) for entry in kept]
    names = {entry.name for entry in entries}
    if "dataset.json" in names:
        raise DataError(
            f"{url}: is an annotated dataset, which has scores but no video bytes; "
            f"choose clips first: winnow select {url} --out CURATED"
        )
    if not names:
        raise DataError(f"{url}: no such folder, or nothing in it; winnow select DATASET --out {url} makes one")
    raise DataError(f"{url}: has no Parquet files and no .tar shards; name {ACCEPTED}")


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; winnow select DATASET --out {path} makes a curated dataset")
    if path.is_file():
        return [path]
    for folder in (path / "data", path):
        files = sorted(p for p in folder.glob("*") if p.suffix in (".parquet", ".tar") and not p.name.startswith("."))
        shards = {file.stem for file in files if file.suffix == ".tar"}
        if files:  # a Parquet beside a shard of its name is img2dataset's account of it
            return [file for file in files if file.suffix == ".tar" or file.stem not in shards]
    if (path / "dataset.json").exists() or (path / "clips").is_dir():
        raise DataError(
            f"{path}: is an annotated dataset, which has scores but no video bytes; "
            f"choose clips first: winnow select {path} --out CURATED"
        )
    if (path / ".partial").is_dir():
        raise DataError(f"{path}: is a curated dataset that is not finished; run the same winnow select again")
    raise DataError(f"{path}: has no Parquet files and no .tar shards; name {ACCEPTED}")


def _annotated_hint(path: Path) -> str:
    root = path.parent.parent if path.parent.name == "clips" else path.parent
    if (root / "dataset.json").exists():
        return f"; it is of an annotated dataset: choose clips first: winnow select {root} --out CURATED"
    return ""


def _check_columns(path: str, schema: pa.Schema) -> None:
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


def _identity(place: Place, stream: BinaryIO) -> str:
    """Of name, size and the raw footer (schema, sizes and offsets of every column chunk, statistics, metadata)."""
    stream.seek(-8, os.SEEK_END)
    (length,) = struct.unpack("<I", stream.read(4))
    stream.seek(-8 - length, os.SEEK_END)
    footer = stream.read(length)
    return hashlib.sha256(f"{place.name}\n{place.bytes}\n".encode() + footer).hexdigest()[:16]


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
