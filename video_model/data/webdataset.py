"""WebDataset shards: .tar files whose members NAME.jpg, NAME.txt and NAME.json are one sample.

Nothing is extracted: the headers are read once, with the texts; pictures are read later, at their offsets.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from curate.base.store.files import opened

PICTURES = ("jpg", "jpeg", "png", "webp")
VIDEOS = ("mp4", "webm", "mkv", "mov", "avi")
CAPTIONS = ("caption", "text", "TEXT")  # of a sample's JSON; else its .txt
TEXT_BYTES = 1_000_000  # of a text or a JSON, at most
BLOCK = 512  # bytes of a header


@dataclass(frozen=True, eq=False)
class Members:
    """The samples of a shard that have a picture, in the order of the file.

    table: a row for each: `caption`, and the plain values of its JSON; None where a cache keeps it. offsets, sizes: [N] bytes of the picture. identity: of
    the headers. left_out: reason -> count. videos: samples with a video instead.
    """

    table: pa.Table | None
    offsets: np.ndarray
    sizes: np.ndarray
    identity: str
    left_out: dict[str, int]
    videos: int

    def read(self, stream: BinaryIO, row: int) -> bytes:
        """The bytes of a picture, from the shard that is open as `stream`."""
        stream.seek(int(self.offsets[row]))
        return stream.read(int(self.sizes[row]))


def scan(path: str) -> Members:
    """Read the headers and texts of a shard. Where it is damaged or cut short, what comes before is used; that is counted.
    Raises OSError."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    digest, left_out, rows, places = hashlib.sha256(), Counter(), [], []
    with opened(path) as stream:
        for name, offset, size in _members(stream, path.rpartition("/")[2], left_out):
            digest.update(f"{name}\n{offset}\n{size}\n".encode("utf-8", "surrogatepass"))
            key, _, ending = name.rpartition("/")[2].partition(".")
            folder = name[: len(name) - len(key) - len(ending) - 1]
            if key and ending:  # neither hidden nor without a kind
                samples.setdefault(folder + key, {})[ending.lower()] = offset, size
        videos = 0
        for parts in samples.values():
            picture = next((parts[ending] for ending in PICTURES if ending in parts), None)
            if picture is None:
                video = any(ending in parts for ending in VIDEOS)
                videos += video
                left_out["a video in a .tar shard" if video else "a sample of a .tar shard without a picture"] += 1
                continue
            try:
                values = _values(stream, parts)
            except (ValueError, RecursionError):
                left_out["a sample of a .tar shard whose text cannot be read"] += 1
                continue
            rows.append(values)
            places.append(picture)
            digest.update(str(values.get("caption")).encode("utf-8", "surrogatepass"))
    offsets, sizes = np.array(places, np.int64).reshape(-1, 2).T
    return Members(_table(rows), offsets, sizes, digest.hexdigest(), dict(left_out), videos)


def _members(stream: BinaryIO, name: str, left_out: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the plain files. What is wrong with the shard is counted."""
    total, end = stream.seek(0, os.SEEK_END), 0
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as shard:
            while (member := shard.next()) is not None:
                end = shard.offset
                if member.isreg() and not member.issparse() and member.offset_data + member.size <= total:
                    yield member.name, member.offset_data, member.size
                shard.members = []  # type: ignore[attr-defined] # they would all be kept
        stream.seek(end)
        if stream.read(BLOCK) == bytes(BLOCK):
            return
    except (tarfile.TarError, EOFError, ValueError, UnicodeError):
        pass
    left_out[f"{name}: is cut short or damaged at byte {min(end, total)}, and is not read from there on"] += 1


def _values(stream: BinaryIO, parts: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Raises ValueError."""
    found: dict[str, Any] = {}
    if "json" in parts:
        read = json.loads(_text(stream, *parts["json"]))
        if not isinstance(read, dict):
            raise ValueError("not an object")
        found = {name: value for name, value in read.items() if isinstance(value, (str, int, float))}
    captions = [found[name] for name in CAPTIONS if isinstance(found.get(name), str) and found[name].strip()]
    if not captions and "txt" in parts:
        captions = [_text(stream, *parts["txt"]).strip()]
    return found | {"caption": captions[0] if captions else None}


def _text(stream: BinaryIO, offset: int, size: int) -> str:
    if size > TEXT_BYTES:
        raise ValueError("too long for a text")
    stream.seek(offset)
    return stream.read(size).decode("utf-8", "replace")


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row) or {"caption": None}
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Values of several kinds become texts."""
    try:
        return pa.array(values, None if any(value is not None for value in values) else pa.string())
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
