"""The spool: clips that were cut before their shard was written, each a file of its own that any worker can read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import msgpack

from curate.base.files import writing
from curate.base.store.places import store_of
from curate.export.span import Extracted

__all__ = ["Spool", "keep", "spooled"]

SUFFIX = ".clip"


def spooled(place: str, clip_id: str) -> Extracted | None:
    """A clip that lies in the spool at `place` (a folder or URL), whole; None where there is none."""
    try:
        fields = msgpack.unpackb(store_of(place).read(clip_id + SUFFIX))
        if fields.pop("digest") != _digest(fields["bytes"]):
            return None
        return Extracted(**fields)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException):
        return None


def keep(folder: Path, clip_id: str, made: Extracted) -> None:
    """Write a clip into a folder. It appears whole; that it survives a power failure is not seen to, only noticed.

    Raises DiskError."""
    aside = folder / f".{clip_id}.{os.getpid()}.tmp"
    with writing(folder):
        try:
            aside.write_bytes(msgpack.packb(asdict(made) | {"digest": _digest(made.bytes)}))
            os.replace(aside, folder / (clip_id + SUFFIX))
        finally:
            aside.unlink(missing_ok=True)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


class Spool:
    """place: where clips are read from. folder: where the processes that cut write them, which is the place itself if
    that is a local folder; else they are put there by `publish`."""

    def __init__(self, place: str, scratch: Path) -> None:
        self.place, self.store = place, store_of(place)
        self.folder = self.store.folder or scratch / "spool"
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, clip_id: str) -> bool:
        return spooled(self.place, clip_id) is not None

    def put(self, clip_id: str, made: Extracted) -> None:
        keep(self.folder, clip_id, made)
        self.publish([clip_id])

    def publish(self, clip_ids: Iterable[str]) -> list[str]:
        """Make what was written of these readable for all workers; the ids of those that are there."""
        there = []
        for clip_id in clip_ids:
            path = self.folder / (clip_id + SUFFIX)
            if not path.exists():
                continue
            if self.store.folder is None:
                self.store.put(path.name, path)
                path.unlink(missing_ok=True)
            there.append(clip_id)
        return there

    def drop(self, clip_ids: Iterable[str]) -> None:
        """Their shard is written."""
        for clip_id in clip_ids:
            self.store.delete(clip_id + SUFFIX)
