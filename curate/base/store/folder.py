"""A local folder as a store: temporary name, flush to disk, and an exclusive link."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from curate.base.files import flush, writing
from curate.base.store.protocol import Changed, Entry, Store, StoreError

TEMPORARY = ".tmp"  # end of the names of unfinished files, which are never listed
ASIDE = re.compile(r"\..*\.(?P<host>[^.]*)\.(?P<pid>\d+)-\d+\.tmp")
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV}
NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}  # of folders, on some network disks


class Folder(Store):
    """A folder of a local or mounted disk. It is made when the first object is written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(os.path.abspath(path))
        self.url = str(self.folder)

    def put(self, name: str, data: bytes | Path) -> bool:
        path = self._path(name)
        with _writing(path.parent):
            _make(path.parent)
            if path.exists():
                return False
            with _aside(path, data) as aside:
                try:
                    os.link(aside, path)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    os.replace(aside, path)  # no links there: content-named objects may be written twice
                _flush_folder(path.parent)
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
        with _writing(path.parent):
            _make(path.parent)
            with _aside(path, data) as aside:
                os.replace(aside, path)
                _flush_folder(path.parent)
        return self.head(name).version

    def read(self, name: str, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        with self.open(name) as stream:
            if start < 0:
                start = max(0, stream.seek(0, os.SEEK_END) + start)
            stream.seek(start)
            return stream.read() if end is None else stream.read(max(0, end - start))

    def head(self, name: str) -> Entry:
        with _missing(self.where(name)):
            facts = os.stat(self._path(name))
            if stat.S_ISDIR(facts.st_mode):
                raise IsADirectoryError
            return _entry(name, facts)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        within = prefix.rpartition("/")[0]
        folder = self._path(within) if within else self.folder
        yield from (entry for entry in _walk(folder, within, ()) if entry.name.startswith(prefix))

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        with _missing(self.where(name)):
            return open(self._path(name), "rb")

    def where(self, name: str) -> str:
        return str(self._path(name))

    def tidy(self) -> None:
        """Unfinished files of processes of this machine that are gone."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                found = ASIDE.fullmatch(name)
                if found and found["host"] == _host() and not psutil.pid_exists(int(found["pid"])):
                    with suppress(OSError):
                        os.unlink(os.path.join(folder, name))

    def _path(self, name: str) -> Path:
        return self.folder / name


@contextmanager
def _missing(place: str) -> Iterator[None]:
    """A folder is no object, and below a file there is none."""
    try:
        yield
    except (IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Errors of the disk as DiskError, and of rights and odd places as StoreError."""
    with writing(folder):
        try:
            yield
        except PermissionError:
            raise StoreError(
                f"{folder}: may not be written to (permission denied): give this user the right to, or choose another folder",
                denied=True,
            ) from None
        except (NotADirectoryError, FileExistsError):
            raise StoreError(f"{folder}: is a file, or below one, and cannot be a folder: choose another") from None


def _make(folder: Path) -> None:
    """The folder and those above it, each flushed into the one that holds it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise


@contextmanager
def _aside(path: Path, data: bytes | Path) -> Iterator[Path]:
    """A flushed file beside `path` that holds the data, and is gone afterwards."""
    aside = path.with_name(f".{path.name[:150]}.{_host()}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    try:
        if isinstance(data, Path):
            _move(data, aside)
        else:
            aside.write_bytes(data)
        flush(aside)
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """The source's bytes under another name: by a rename where both are on one disk."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(source, "rb") as found, open(target, "wb") as made:
            while block := found.read(1 << 20):
                made.write(block)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]


def _walk(folder: Path, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """above: the real folders that this one lies in, so that a link to one of them makes no circle."""
    try:
        facts = os.stat(folder)
        own = facts.st_dev, facts.st_ino
        if own in above:
            return
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        below = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir():
            yield from _walk(folder / entry.name, below, (*above, own))
        elif not entry.name.endswith(TEMPORARY):
            with suppress(FileNotFoundError):  # deleted meanwhile
                yield _entry(below, entry.stat())


def _entry(name: str, facts: os.stat_result) -> Entry:
    return Entry(name, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ino}", facts.st_mtime_ns)
