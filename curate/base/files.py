"""Atomic writes of files and folders: to a temporary name, flushed to disk, renamed. Errors of a full disk name the folder."""

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
    """A folder cannot be written to. One line: the folder, the reason, the fix. errno: of the operating system."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


@contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of a full or broken disk into a DiskError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskError(
            f"{folder}: cannot be written to ({os.strerror(error.errno)}): free space there, or move the folder to a larger "
            "disk; what is committed stays, and the same command resumes",
            error.errno,
        ) from None


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A stream whose bytes replace the file at `path` when the block ends; nothing changes where it raises.

    durable: flush to disk before the rename; False for what can be made again. Raises DiskError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.parent):
        try:
            with open(temporary, "wb") as stream:
                yield stream
            if durable:
                commit(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which replaces the one at `path` when the block ends; nothing changes where it raises.

    For one process at a time. Leftovers of an interrupted one are removed.
    """
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        flush_all(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write the file atomically; see `atomic_file`."""
    with atomic_file(path, durable=durable) as stream:
        stream.write(content)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Write a JSON value atomically; see `atomic_file`."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False).encode(), durable=durable)


def commit(temporary: Path, path: Path) -> None:
    """Flush a temporary file or folder, rename it to `path`, and flush the rename."""
    flush_all(temporary)
    os.replace(temporary, path)
    flush(path.parent)


def cache_folder() -> Path:
    """The user's cache: $XDG_CACHE_HOME/winnow, or ~/.cache/winnow."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "winnow"


def flush_all(path: Path) -> None:
    """Flush a file, or a folder and everything in it, to disk."""
    for part in (*path.rglob("*"), path):
        flush(part)


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
