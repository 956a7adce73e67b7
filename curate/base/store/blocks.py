"""Blocks of objects on this machine's disk, which all processes of a job share, so that each is read from a store once.

A file an object and version: its bytes where they belong (sparse), and then one byte a block that says whether it is there.
Writers write the block first; two of them write the same. A process that has entered the folder holds a shared lock on it
until it ends, however it ends, and its children use the folder too. Whoever finds that nobody holds a lock deletes what is
there. It is a cache: errors of the disk turn it off.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from curate.base.store.protocol import Entry

__all__ = ["Kept", "enter", "kept", "sweep"]

MOST_BYTES, MOST_SHARE = 8 << 30, 0.25  # of the folder: bytes, and share of what is free on its disk
CHECK_BYTES = 64 << 20  # written by this process between looks at the folder's size
USERS = ".users"
VARIABLE = "WINNOW_BLOCKS"  # the folder, for this process and its children


class Kept:
    """The blocks of one version of an object. block: bytes of each, the last one fewer."""

    def __init__(self, path: Path, size: int, block: int) -> None:
        self.path, self.size, self.block = path, size, block
        self.flags = -(-size // block) * block  # where they begin
        self._file: int | None = None
        self._off = False

    def read(self, number: int) -> bytes | None:
        """A block; None where it is not there."""
        try:
            file = self._opened()
            if file is None or os.pread(file, 1, self.flags + number) != b"\1":
                return None
            length = min(self.block, self.size - number * self.block)
            found = os.pread(file, length, number * self.block)
        except OSError:
            self._off = True
            return None
        return found if len(found) == length else None

    def write(self, number: int, data: bytes) -> None:
        try:
            file = self._opened()
            if file is not None and os.pwrite(file, data, number * self.block) == len(data):
                os.pwrite(file, b"\1", self.flags + number)
                _count(len(data))
        except OSError:  # a full disk
            self._off = True

    def complete(self) -> bool:
        """Whether all blocks are there."""
        count = -(-self.size // self.block)
        file = self._opened()
        return file is not None and os.pread(file, count, self.flags) == b"\1" * count

    def forget(self) -> None:
        """Delete them: nobody will read the object again."""
        with suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __del__(self) -> None:
        self.close()

    def _opened(self) -> int | None:
        if self._file is None and not self._off:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                self._off = True
        return self._file


def kept(url: str, entry: Entry, block: int) -> Kept | None:
    """The blocks of an object; None where neither this process nor a parent has entered."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    name = hashlib.sha256(f"{url}\n{entry.version}\n{entry.bytes}\n{block}".encode()).hexdigest()[:32]
    return Kept(Path(folder) / name, entry.bytes, block)


def enter() -> None:
    """Keep blocks from here on, in this process and in children that it starts, until it ends or calls `sweep`."""
    with _entering:
        if not _users and not os.environ.get(VARIABLE):
            _enter(_folder())


def _enter(folder: Path) -> None:
    for _ in range(10):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                return
            lock = os.open(folder / USERS, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # it is being deleted
        except OSError:
            return
        _wipe_unless_used(folder, lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(OSError):
            if os.stat(folder / USERS).st_ino == os.fstat(lock).st_ino:
                _users.append(lock)
                os.environ[VARIABLE] = str(folder)
                atexit.register(sweep)
                return
        os.close(lock)


def sweep() -> None:
    """Keep none from here on; delete the folder if no other process uses it."""
    if not _users:
        return
    os.close(_users.pop())
    folder = Path(os.environ.pop(VARIABLE, "") or _folder())
    with suppress(OSError):
        lock = os.open(folder / USERS, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


_entering = threading.Lock()
_users: list[int] = []  # the open file that holds this process's lock
_written = 0


def _folder() -> Path:
    """Of this user, since this start of the machine: what was not yet on the disk when it went down is lost."""
    start = ""
    with suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return Path(tempfile.gettempdir()) / f"winnow-blocks-{os.getuid()}-{start}"


def _wipe_unless_used(folder: Path, lock: int) -> None:
    """Delete what a job left that was killed."""
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if path.name != USERS:
                path.unlink(missing_ok=True)


def _count(written: int) -> None:
    """Keep the folder within its bounds: what was written to longest ago goes."""
    global _written
    _written += written
    if _written < CHECK_BYTES:
        return
    _written = 0
    folder = Path(os.environ.get(VARIABLE) or _folder())
    files = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                facts = path.stat()
                if path.name == USERS:
                    continue
                files.append((facts.st_mtime_ns, facts.st_blocks * 512, path))
        total = sum(size for _, size, _ in files)
        most = min(MOST_BYTES, MOST_SHARE * (total + shutil.disk_usage(folder).free))
        for _, size, path in sorted(files):
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size
