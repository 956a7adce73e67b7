"""Any other storage as a store, through fsspec: the Hugging Face hub (hf://), SFTP, Hadoop, and what fsspec knows besides.

There is no conditional write here: `put` looks first, and two writers at the same moment may both write. Names are made of
content, so that this costs a write and nothing else; but a lock on such a store holds only if one driver at a time is
started. On the hub each write is a commit of its repository, a second or so each, and hundreds an hour are refused.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.registry import known_implementations

from curate.base.store.protocol import SCHEME, Changed, Entry, Store, StoreError, shown

__all__ = ["Others", "knows"]

# No storage that others see, a wrapper of other file systems, or served by `Bucket`.
NOT_HERE = {"file", "local", "memory", "cached", "blockcache", "filecache", "simplecache", "reference", "dir", "data"}
WHOLE = {"hf"}  # which write an object whole or not at all; others write it aside and move it, where they can
TRIES, PAUSE = 6, 0.5  # s, doubled
COMMIT_PAUSE = {"hf": 120.0}  # s between commits that only say again how things are: the hub refuses hundreds an hour

Found = TypeVar("Found")


def knows(scheme: str) -> bool:
    return scheme in known_implementations and scheme not in NOT_HERE


class Others(Store):
    """A folder of a file system of fsspec. Credentials are those of its own environment variables and files."""

    conditional = False

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.scheme = SCHEME.match(url).group(1).lower()  # type: ignore[union-attr]
        self.pause = COMMIT_PAUSE.get(self.scheme, 0.0)
        self._system: Any = None

    @property
    def system(self) -> Any:
        if self._system is None:
            try:
                self._system, self._root = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise StoreError(f"{shown(self.url)}: {' '.join(str(error).split())}") from None
        return self._system

    def put(self, name: str, data: bytes | Path) -> bool:
        def put() -> bool:
            if self.exists(name):
                return False
            self._write(name, data.read_bytes() if isinstance(data, Path) else data)
            return True

        return self._call(put, name)

    def replace(self, name: str, data: bytes, version: str | None = None) -> str:
        def replace() -> str:
            if version is not None and (not self.exists(name) or self.head(name).version != version):
                raise Changed(self.where(name))
            self._write(name, data)
            return self.head(name).version

        return self._call(replace, name)

    def read(self, name: str, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        if end is not None and end <= start >= 0:
            return b""
        if version is not None and self.head(name).version != version:
            raise Changed(self.where(name))
        return self._call(lambda: self.system.cat_file(self._path(name), start or None, end), name)

    def head(self, name: str) -> Entry:
        def info() -> Entry:
            self.system.invalidate_cache()
            found = self.system.info(self._path(name))
            if found["type"] == "directory":
                raise FileNotFoundError(self.where(name))
            return self._entry(name, found)

        return self._call(info, name)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = self._path(prefix.rpartition("/")[0])

        def find() -> dict[str, Any]:
            self.system.invalidate_cache()
            try:
                return self.system.find(folder, detail=True)
            except FileNotFoundError:
                return {}

        start = len(self._path("").rstrip("/")) + 1
        found = {path[start:]: info for path, info in self._call(find, prefix).items() if info["type"] == "file"}
        for name in sorted(found):
            if name.startswith(prefix) and not name.endswith(".tmp"):
                yield self._entry(name, found[name])

    def delete(self, name: str) -> None:
        try:
            self._call(lambda: self.system.rm_file(self._path(name)), name)
        except FileNotFoundError:
            pass

    def open(self, name: str) -> BinaryIO:
        return self._call(lambda: self.system.open(self._path(name), "rb"), name)

    def _path(self, name: str) -> str:
        return f"{self.system and self._root}/{name}".rstrip("/")

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if (
            self.scheme in WHOLE or type(self.system).mv is fsspec.AbstractFileSystem.mv
        ):  # which copies, and knows globs
            self.system.pipe_file(path, data)
            return
        folder, last = posixpath.split(path)
        aside = f"{folder}/.{last}.{os.getpid()}-{time.monotonic_ns()}.tmp"
        self.system.makedirs(folder, exist_ok=True)
        try:
            self.system.pipe_file(aside, data)
            self.system.mv(aside, path)
        except BaseException:
            if self.system.exists(aside):
                self.system.rm_file(aside)
            raise

    def _entry(self, name: str, info: dict[str, Any]) -> Entry:
        time_of = next(
            (info[key] for key in ("mtime", "last_modified", "LastModified", "created") if info.get(key)), None
        )
        seconds = time_of.timestamp() if isinstance(time_of, datetime) else time_of
        modified = None if not isinstance(seconds, (int, float)) else int(seconds * 1e9)
        version = next((str(info[key]) for key in ("ETag", "etag", "blob_id", "oid", "sha256") if info.get(key)), None)
        return Entry(name, info["size"], version or f"{modified}-{info['size']}", modified)

    def _call(self, what: Callable[[], Found], name: str) -> Found:
        pause = PAUSE
        for left in reversed(range(TRIES)):
            try:
                return what()
            except (StoreError, Changed, FileNotFoundError, FileExistsError):
                raise
            except (PermissionError, NotImplementedError) as error:
                denied = isinstance(error, PermissionError)
                why = "access is denied" if denied else "this storage cannot do that"
                raise StoreError(f"{shown(self.where(name))}: {why}: check the credentials", denied=denied) from None
            except Exception as error:
                if not left:
                    reason = " ".join(str(error).split())[:120] or type(error).__name__
                    raise StoreError(
                        f"{shown(self.where(name))}: cannot be reached ({reason}): check the address and the network; what "
                        "is committed stays, and the same command resumes",
                        transient=True,
                    ) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")
