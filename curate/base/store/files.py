"""Objects of stores as files for DuckDB and pyarrow, which read them through Python's `fsspec`."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import Any, BinaryIO

import duckdb
import fsspec

from curate.base.store.places import store_of
from curate.base.store.protocol import is_remote, locate

__all__ = ["StoreFiles", "database", "opened", "readable_by_sql"]

PROTOCOL = "store"  # before the URL, so that DuckDB asks us and no extension of its own


class StoreFiles(fsspec.AbstractFileSystem):
    """A read-only file system of all stores. Paths are `store://` and the object's URL."""

    protocol = PROTOCOL
    cachable = True
    root_marker = ""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return [cls._strip_protocol(one) for one in path] if isinstance(path, list) else path.removeprefix("store://")

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise PermissionError(f"{path}: stores are written by `Store.put`")
        stream = opened(self._strip_protocol(path))
        return _Shared(stream)  # type: ignore[return-value]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        folder, name = locate(path)
        entry = store_of(folder).head(name)
        return {"name": path, "size": entry.bytes, "type": "file", "ETag": entry.version, "mtime": entry.modified}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp((self.info(path)["mtime"] or 0) / 1e9, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        return [self._strip_protocol(path)]


class _Shared:
    """A stream that several threads read at once, each from where it has sought: DuckDB's do, by a seek and then a read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock, self._own = stream, threading.Lock(), threading.local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = self.tell() + offset, os.SEEK_SET
        with self._lock:
            self._own.at = self._stream.seek(offset, whence)
        return self._own.at

    def tell(self) -> int:
        return getattr(self._own, "at", 0)

    def read(self, count: int = -1) -> bytes:
        with self._lock:
            self._stream.seek(self.tell())
            found = self._stream.read(count)
        self._own.at = self.tell() + len(found)
        return found

    def close(self) -> None:
        self._stream.close()


def opened(place: str | os.PathLike[str]) -> BinaryIO:
    """A seekable stream of a local path, or of an object's URL. Raises FileNotFoundError."""
    folder, name = locate(os.fspath(place))
    return open(place, "rb") if not is_remote(place) else store_of(folder).open(name)


def readable_by_sql(place: str | os.PathLike[str]) -> str:
    """The name by which `read_parquet` finds a path or an object's URL, on a connection of `database`."""
    text = os.fspath(place)
    return f"{PROTOCOL}://{text}" if is_remote(text) else text


def database(path: str = ":memory:", **config: Any) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection that reads objects of stores."""
    connection = duckdb.connect(path, config=config)
    connection.register_filesystem(StoreFiles())
    connection.execute(
        "SET enable_progress_bar = false"
    ).fetchall()  # which a process started by `python -c` would draw
    return connection
