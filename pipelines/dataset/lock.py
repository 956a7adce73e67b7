"""A lock that lets one process at a time write a place: the operating system's on a disk, a lease in a bucket.

A lease is the object `lock.json`, which its holder writes again every few seconds, each time only over its own last version.
A process that finds one watches its version: if that does not change for LEASE seconds *of the watcher's own clock*, the
holder is gone, and the watcher writes its own over that version. Whose write comes too late does not hold the lock. So clocks
need not agree, and two processes never both succeed. A holder that ran on this machine, and does no more, is not waited for.
A holder that could not renew for so long must assume it was taken over: `Lock.check`. All this needs conditional writes: a
service that ignores them is refused, and a storage that has none (`Store.conditional`) is warned of.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from curate.base.files import writing
from curate.base.store import Changed, Store, StoreError, store_of

__all__ = ["LEASE", "LEASE_NAME", "LOCK", "Fence", "Lock", "has_ended", "held"]

LOG = logging.getLogger("winnow")
LOCK = ".lock"
LEASE_NAME = "lock.json"
LEASE = 60.0  # s without a renewal after which a holder counts as gone
RENEW = 10.0  # s between renewals
LOOK = 5.0  # s between a worker's looks at the lease of its driver
SLOW_LEASE = 6  # renewals in a lease, where a storage must not be written to as often (`Store.pause`)


class Lock:
    """A lock that is held. run: an id of this holding, different every time."""

    def __init__(self, error: type[Exception]) -> None:
        self.run = uuid.uuid4().hex[:12]
        self.since = time.time()
        self._error = error
        self._lost: str | None = None

    def check(self) -> None:
        """Raise where the lock may have gone to another process: whoever holds it must not commit any more."""
        if self._lost:
            raise self._error(self._lost)


@contextmanager
def held(
    place: str | os.PathLike[str] | Store,
    what: str,
    error: type[Exception],
    *,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[Lock]:
    """Hold the lock of a place; a folder is made if needed.

    what: is written there, for messages. error: raised where another process holds it, or the place cannot be written to or
    locked. waiting: told, once, that a lock is watched to see whether its holder is alive. Raises DiskError if a disk is full.
    """
    store = store_of(place)
    if store.folder is not None:
        with _flocked(store.folder, what, error):
            yield Lock(error)
    else:
        lease = _Lease(store, what, error)
        lease.take(waiting)
        try:
            yield lease
        finally:
            lease.give_back()


@contextmanager
def _flocked(root: Path, what: str, error: type[Exception]) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        stream = open(root / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as reason:
        raise error(f"{root}: cannot be written to ({reason.strerror}): choose another --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(_taken(str(root), what, _read(stream))) from None
        except OSError as reason:  # as of NFS without its lock service, or Lustre mounted without flock
            raise error(
                f"{root}: its file system has no locks ({os.strerror(reason.errno or 0)}), which keep a second process from writing "
                "there: mount it with locks (NFS: with lockd; Lustre: -o flock), or choose an --out on another disk"
            ) from None
        with writing(root):
            stream.truncate(0)
            json.dump(_self(), stream)
            stream.flush()
        yield


@dataclass(frozen=True)
class _Found:
    """A lease object as it was read."""

    version: str
    holder: dict[str, Any]


class _Lease(Lock):
    """A lease in a bucket, renewed by a thread.

    Its requests are given up after seconds, and made again: one without an answer must not use up the time that is left."""

    def __init__(self, store: Store, what: str, error: type[Exception]) -> None:
        super().__init__(error)
        self.store, self.what = store.brief(), what
        self.renew, self.lease = RENEW, LEASE
        if store.pause > RENEW:
            self.renew, self.lease = store.pause, SLOW_LEASE * store.pause
        self._version = ""
        self._renewed = 0.0
        self._beats: dict[str, float] = {}  # of the writes whose answer is not known -> when each was begun
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="winnow-lease", daemon=True)

    def take(self, waiting: Callable[[str], None] | None) -> None:
        """Take the lease; where another holds it, watch for the time of a lease whether that one is alive."""
        since, seen = 0.0, None
        while True:
            found = self._look()
            if found is None:
                if self._first():
                    break
                continue
            if self._is_mine(found):  # a write of ours that seemed to have failed
                break
            if found.holder.get("free") or has_ended(found.holder):
                if self._over(found.version):
                    break
                continue
            if seen is None:  # counted from the answer on: however long it took, it may have been true until now
                since, seen = time.monotonic(), found.version
                if waiting:
                    waiting(
                        f"{self.store}: has a lock{_named(found.holder)}: looking for {self.lease:.0f} s whether its holder is "
                        "alive"
                    )
            elif seen != found.version:
                raise self._error(_taken(str(self.store), self.what, found.holder))
            elif time.monotonic() - since >= self.lease:
                if self._over(found.version) or self._mine():
                    break
                raise self._error(_taken(str(self.store), self.what, (self._look() or found).holder))
            time.sleep(min(1.0, self.renew / 4))
        self._prove()
        self._thread.start()

    def check(self) -> None:
        super().check()
        if time.monotonic() - self._renewed > self.lease - self.renew:
            raise self._error(
                f"{self.store}: its lock could not be renewed for {time.monotonic() - self._renewed:.0f} s, so another process "
                "may have taken it: stopped before writing more; the same command resumes"
            )

    def give_back(self) -> None:
        """Mark the lease as free: deleting has no condition on a version, so another's could be hit."""
        self._ended.set()
        self._thread.join(RENEW)
        if self._lost is None and not self._thread.is_alive():
            try:
                self.store.replace(LEASE_NAME, json.dumps({"free": True}).encode(), self._version)
            except (Changed, StoreError):
                pass  # it runs out

    def _prove(self) -> None:
        """Refuse a service that writes over an object in spite of a condition: there, two processes would both hold it."""
        if not self.store.conditional:
            LOG.warning(
                "%s: this storage has no conditional writes, so that two jobs which start at the same moment may both write "
                "there: start one at a time",
                self.store,
            )
            return
        before = self._version
        ignored = "If-None-Match" if self.store.put(LEASE_NAME, self._text()) else None
        if ignored is None and self._over(before):
            try:
                self.store.replace(LEASE_NAME, self._text(), before)
                ignored = "If-Match"
            except Changed:
                pass
        if ignored:
            raise self._error(
                f"{self.store}: the service writes over objects although it is told not to ({ignored} is ignored), so that two "
                "jobs could write there at once: use a service with conditional writes, or a local folder"
            )

    def _look(self) -> _Found | None:
        try:
            version = self.store.head(LEASE_NAME).version
            holder = json.loads(self.store.read(LEASE_NAME))
            return _Found(version, holder if isinstance(holder, dict) else {})
        except FileNotFoundError:
            return None
        except ValueError:
            return _Found(version, {})

    def _first(self) -> bool:
        return self.store.put(LEASE_NAME, self._text()) and self._mine()

    def _over(self, version: str) -> bool:
        began = time.monotonic()
        try:
            self._version = self.store.replace(LEASE_NAME, self._text(), version)
        except Changed:
            return False
        self._renewed = began
        self._beats.clear()
        return True

    def _renew(self) -> None:
        pause = self.renew
        while not self._ended.wait(pause):
            try:
                if not self._over(self._version) and not self._mine():
                    found = self._look()
                    holder = _named(found.holder) if found else ""
                    self._lost = (
                        f"{self.store}: another process has taken its lock{holder}, as it was not renewed for "
                        f"{self.lease:.0f} s: stopped before writing more; the same command resumes"
                    )
                    return
                pause = self.renew
            except StoreError:  # tried again soon; `check` says when that has been too long
                pause = self.renew / 10

    def _mine(self) -> bool:
        """Whether the lease there is this one's: a write may have succeeded although its answer was lost."""
        found = self._look()
        return found is not None and self._is_mine(found)

    def _is_mine(self, found: _Found) -> bool:
        """A lease is as old as the beginning of the write that made it, whenever it is found."""
        began = self._beats.get(found.holder.get("beat", ""))
        if found.holder.get("run") != self.run or began is None:
            return False
        self._version, self._renewed = found.version, began
        return True

    def _text(self) -> bytes:
        """Differs each time, so that the version changes also where it is a hash of the content."""
        beat = uuid.uuid4().hex
        self._beats[beat] = time.monotonic()
        return json.dumps(_self() | {"since": self.since, "run": self.run, "beat": beat}).encode()


class Fence:
    """What a worker asks before it commits: whether the run that it works for still holds the lease of its bucket. On a disk,
    whose lock goes with the driver and its workers, it always may."""

    def __init__(self, store: Store, run: str, error: type[Exception]) -> None:
        self.store, self.run, self._error = store, run, error
        self._looked = -LOOK

    def check(self) -> None:
        """Raise where another run holds the lease, or none does; looks every LOOK seconds at most. Raises StoreError."""
        if not self.run or self.store.folder is not None or time.monotonic() - self._looked < LOOK:
            return
        try:
            holder = json.loads(self.store.read(LEASE_NAME))
        except (FileNotFoundError, ValueError):
            holder = None
        if not isinstance(holder, dict) or holder.get("run") != self.run:
            raise self._error(
                f"{self.store}: the run that this worker belongs to holds its lock no more{_named(holder or {})}: stopped before "
                "writing more; the same command resumes"
            )
        self._looked = time.monotonic()


def _self() -> dict[str, Any]:
    """This process, for others to find. machine: its boot and its process ids. born: ticks since boot."""
    pid = os.getpid()
    about = {"pid": pid, "host": socket.gethostname(), "since": time.time()}
    return about | {"machine": _machine(), "born": _born(pid)}


def has_ended(holder: dict[str, Any]) -> bool:
    """Whether a process that held a lock surely runs no more: that can only be known of one of this machine."""
    pid, machine = holder.get("pid"), _machine()
    if not machine or holder.get("machine") != machine or not isinstance(pid, int) or not holder.get("born"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return _born(pid) not in (None, holder["born"])


def _machine() -> str | None:
    """The boot of this machine and its process ids, which containers have their own of; None: not known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process was started, in ticks since boot; "" for one that has ended and was not waited for; None: not known."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if facts[0] in "ZX" else facts[19]


def _taken(place: str, what: str, holder: dict[str, Any]) -> str:
    return f"{place}: another process is writing this {what}{_named(holder)}: wait for it or stop it, or choose another --out"


def _named(holder: dict[str, Any]) -> str:
    """The process that holds a lock, in brackets; "" if the lock does not name it."""
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f" (process {holder['pid']} on {holder['host']}, since {since})"
    except (KeyError, TypeError, ValueError, OSError):
        return ""


def _read(stream: TextIO) -> dict[str, Any]:
    try:
        stream.seek(0)
        found = json.load(stream)
        return found if isinstance(found, dict) else {}
    except (ValueError, OSError):
        return {}
