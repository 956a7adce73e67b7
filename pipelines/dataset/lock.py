"""A lock that lets one process at a time write a folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from curate.base.files import writing

LOCK = ".lock"


@contextmanager
def locked(root: Path, what: str, error: type[Exception]) -> Iterator[None]:
    """Hold the folder's lock, which the operating system releases when the process ends; creates the folder if needed.

    what: what is written, for the message. error: raised if another process holds the lock, or the folder cannot be written
    to or locked. Raises DiskError if its disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        stream = open(root / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as reason:
        raise error(f"{root}: cannot be written to ({reason.strerror}): choose another --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(
                f"{root}: another process is writing this {what}{_holder(stream)}: wait for it or stop it, or choose another --out"
            ) from None
        except OSError as reason:  # as of NFS without its lock service, or Lustre mounted without flock
            raise error(
                f"{root}: its file system has no locks ({os.strerror(reason.errno or 0)}), which keep a second process from writing "
                "there: mount it with locks (NFS: with lockd; Lustre: -o flock), or choose an --out on another disk"
            ) from None
        with writing(root):
            stream.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, stream)
            stream.flush()
        yield


def _holder(stream: TextIO) -> str:
    """The process that holds a lock, in brackets; "" if the file does not name it."""
    try:
        stream.seek(0)
        holder = json.load(stream)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f" (process {holder['pid']} on {holder['host']}, since {since})"
    except (ValueError, KeyError, TypeError, OSError):
        return ""
