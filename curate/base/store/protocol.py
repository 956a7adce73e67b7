"""The protocol of a store: whole named byte strings that are put once, listed, read by ranges, and deleted."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")


class StoreError(Exception):
    """A store cannot be used. One line: the place, the reason, the fix.

    transient: the same call may succeed later. denied: the place is there, or may be, but access is refused. changed: an
    object has another version than the one that was to be read."""

    def __init__(self, message: str, transient: bool = False, denied: bool = False, changed: bool = False) -> None:
        super().__init__(message)
        self.transient, self.denied, self.changed = transient, denied, changed


class Changed(Exception):
    """A conditional write came too late: the object has another version by now."""


@dataclass(frozen=True)
class Entry:
    """An object of a store. version: changes whenever the content does (an ETag; of a file, its time of writing in ns).
    modified: ns since 1970, by the store's clock."""

    name: str
    bytes: int
    version: str
    modified: int | None = None


class Store(ABC):
    """A folder, or a prefix of a bucket. Names are relative, with forward slashes.

    url: of the store, without a slash at its end; a plain path for a folder. folder: the local folder, or None. shared:
    other processes see the same bytes (False in memory). conditional: `put` and `replace` with a version hold also between
    writers at the same moment. pause: s to leave between two writes of an object that is written again and again, such as a
    lease or a status, where the storage refuses more. Every method raises StoreError where the place cannot be reached
    or written to, and DiskError where a disk is full.
    """

    url: str
    folder: Path | None = None
    shared: bool = True
    conditional: bool = True
    pause: float = 0.0

    @abstractmethod
    def put(self, name: str, data: bytes | Path) -> bool:
        """Write an object, whole or not at all, if there is none of that name; False where there is one.

        data: the bytes, or a local file that holds them, which may be moved."""

    @abstractmethod
    def replace(self, name: str, data: bytes, version: str | None = None) -> str:
        """Write an object over whatever is there, whole or not at all, and return its version.

        version: only over this one (see `Entry`). Raises Changed."""

    @abstractmethod
    def read(self, name: str, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        """Bytes [start, end) of an object, fewer at its end; with a negative start its last bytes.

        version: of this one only (see `Entry`; a folder does not check). Raises FileNotFoundError, Changed."""

    @abstractmethod
    def head(self, name: str) -> Entry:
        """Size and version of an object. Raises FileNotFoundError."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose name begins with `prefix`, at any depth, in order of the names."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A seekable stream of an object, which reads ranges as they are asked for. Raises FileNotFoundError."""

    def brief(self) -> Store:
        """The same place by requests that are given up after seconds: for small objects that are needed now, or not at all."""
        return self

    def tidy(self) -> None:  # noqa: B027 - only folders have any
        """Delete what writers left behind that were ended in the middle."""

    def exists(self, name: str) -> bool:
        try:
            self.head(name)
        except FileNotFoundError:
            return False
        return True

    def where(self, name: str) -> str:
        """The URL, or local path, of an object: for messages, and for `locate`."""
        return f"{self.url}/{name}"

    def __str__(self) -> str:
        """For messages, without credentials; `url` is the address."""
        return shown(self.url)


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL such as s3://bucket/folder; file:// is a local path."""
    found = SCHEME.match(os.fspath(place))
    return bool(found) and found.group(1).lower() != "file"  # type: ignore[union-attr]


def locate(url: str) -> tuple[str, str]:
    """(URL of the folder, name) of an object's URL or path."""
    if is_remote(url):
        scheme, _, rest = url.partition("://")
        host, _, key = rest.partition("/")
        folder, _, name = key.rpartition("/")
        return f"{scheme}://{host}" + (f"/{folder}" if folder else ""), name
    folder, _, name = url.rpartition("/")
    return folder or "/", name


def shown(place: str | os.PathLike[str]) -> str:
    """A place for messages: without a user's password, and without a query, which may hold a signature."""
    text = os.fspath(place)
    if not is_remote(text):
        return text
    text = re.sub(r"://[^/@]*@", "://", text)
    return text.partition("?")[0] if text.lower().startswith("http") else text
