"""Files and folders that appear whole or not at all: written aside, flushed to the disk, renamed. A full disk is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class DiskError(Exception):
    """A folder that takes no more. One line: the folder, the reason, the fix. errno: that of the operating system."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


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
            "disk; what is committed stays, and the same command goes on from there",
            error.errno,
        ) from None


@contextmanager
def whole(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file at `path` when the block ends, and leave nothing where it raises.

    durable: what is there survives a loss of power; False where that would only cost making it again. Raises DiskError
    where the folder takes no more.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.parent):
        try:
            with open(aside, "wb") as stream:
                yield stream
            if durable:
                commit(aside, path)
            else:
                os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes the one at `path` when the block ends, and leaves nothing where it raises.

    One process at a time makes it. What was there, and what an earlier process left aside, is replaced.
    """
    aside = path.with_name(f".{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        flush_all(aside)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """The file appears whole or not at all; see `whole`."""
    with whole(path, durable=durable) as stream:
        stream.write(content)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """The same of a JSON value."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode(), durable=durable)


def commit(aside: Path, path: Path) -> None:
    """Flush a file or a folder that was written aside, rename it, and make the rename itself durable."""
    flush_all(aside)
    os.replace(aside, path)
    flush(path.parent)


def cache_folder() -> Path:
    """Where what can be made again is kept for a user: $XDG_CACHE_HOME/winnow, or ~/.cache/winnow."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "winnow"


def flush_all(path: Path) -> None:
    """A file, or a folder with all that is in it, to the disk."""
    for part in (*path.rglob("*"), path):
        flush(part)


def flush(path: Path) -> None:
    """A file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
