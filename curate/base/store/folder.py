"""A local folder as a store: temporary name, flush to disk, and an exclusive link."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from curate.base.files import flush, writing
from curate.base.store.protocol import Changed, Entry, Store

TEMPORARY = ".tmp"  # end of the names of unfinished files, which are never listed


class Folder(Store):
    """A folder of a local or mounted disk. It is made when the first object is written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(os.path.abspath(path))
        self.url = str(self.folder)

    def put(self, name: str, data: bytes | Path) -> bool:
        path = self._path(name)
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return False
            aside = _aside(path)
            try:
                self._fill(aside, data)
                try:
                    os.link(aside, path)
                except FileExistsError:
                    return False
                except OSError:  # a file system without links: content-named objects may be written twice
                    os.replace(aside, path)
                flush(path.parent)
            finally:
                aside.unlink(missing_ok=True)
        return True

    def replace(self, name: str, data: bytes, version: str | None = None) -> str:
        """A condition on the version holds among processes that hold a lock on the folder (`pipelines.dataset.lock`)."""
        path = self._path(name)
        if version is not None:
            try:
                now = self.head(name).version
            except FileNotFoundError:
                now = None
            if now != version:
                raise Changed(self.where(name))
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = _aside(path)
            try:
                self._fill(aside, data)
                os.replace(aside, path)
                flush(path.parent)
            finally:
                aside.unlink(missing_ok=True)
        return self.head(name).version

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        with open(self._path(name), "rb") as stream:
            stream.seek(start)
            return stream.read() if end is None else stream.read(max(0, end - start))

    def head(self, name: str) -> Entry:
        return _entry(name, os.stat(self._path(name)))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        within = prefix.rpartition("/")[0]
        yield from (
            e for e in _walk(self._path(within) if within else self.folder, within) if e.name.startswith(prefix)
        )

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        return open(self._path(name), "rb")

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _fill(self, aside: Path, data: bytes | Path) -> None:
        if isinstance(data, Path):
            _move(data, aside)
        else:
            aside.write_bytes(data)
        flush(aside)


def _move(source: Path, target: Path) -> None:
    """The source's bytes under another name: by a link where both are on one disk."""
    try:
        os.replace(source, target)
    except OSError:
        with open(source, "rb") as found, open(target, "wb") as made:
            while block := found.read(1 << 20):
                made.write(block)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")


def _walk(folder: Path, name: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir():
            yield from _walk(folder / entry.name, below)
        elif not entry.name.endswith(TEMPORARY):
            with suppress(FileNotFoundError):  # deleted meanwhile
                yield _entry(below, entry.stat())


def _entry(name: str, facts: os.stat_result) -> Entry:
    return Entry(name, facts.st_size, str(facts.st_mtime_ns), facts.st_mtime_ns)
