"""Object storage as a store, by obstore: S3, Google Cloud, Azure, HTTP (to read), and this process's memory.

Of obstore and s3fs, obstore is taken: it writes conditionally, needs no further package, and reads and lists several times
as fast for the same CPU (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from curate.base.store.connection import Connection, obstore
from curate.base.store.protocol import Changed, Entry, Store, StoreError, shown
from curate.base.store.ranges import Ranges

READ_AHEAD = 1 << 20  # bytes of the smallest range that a stream asks for
PAST_THE_END = ("status code: 416", "NotPartial", "StartTooLarge")  # of an object, maybe an empty one
PAGE = 1000  # objects of a listing at a time


class Bucket(Store):
    """A prefix of a bucket."""

    def __init__(self, url: str, brief: bool = False) -> None:
        """brief: see `Store.brief`."""
        scheme, _, rest = url.partition("://")
        host, _, prefix = rest.partition("/")
        self.url = f"{scheme.lower()}://{rest}".rstrip("/")
        self.prefix = prefix.strip("/")
        self.connection = Connection(f"{scheme.lower()}://{host}", brief)
        self.shared = self.connection.scheme != "memory"
        # S3 Express and WebDAV list in no order
        self.ordered = not host.endswith("--x-s3") and self.connection.scheme not in ("http", "https")

    def brief(self) -> Store:
        return self if self.connection.scheme == "memory" else Bucket(self.url, brief=True)

    def put(self, name: str, data: bytes | Path) -> bool:
        def put(client: Any, attempt: int) -> bool:
            try:
                obstore().put(client, self._key(name), _content(data), mode="create")
            except Exception as error:
                if not _is_there(error):
                    raise
                if attempt:  # an earlier attempt of ours may have been made, and its answer lost
                    return self._holds(name, data)
                if not self.exists(name):
                    raise ConnectionError("another write of it is under way") from None
                return False
            return True

        return self._call(put, name, once=True)

    def replace(self, name: str, data: bytes, version: str | None = None) -> str:
        def put(client: Any, attempt: int) -> str:
            mode: Any = "overwrite" if version is None else self._update(client, name, version)
            try:
                return obstore().put(client, self._key(name), data, mode=mode)["e_tag"] or ""
            except Exception as error:
                if not _is_there(error) and (version is None or not isinstance(error, FileNotFoundError)):
                    raise
                if attempt and self._holds(name, data):
                    return self.head(name).version
                raise Changed(self.where(name)) from None

        return self._call(put, name, once=True)

    def read(self, name: str, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        if end is not None and end <= start >= 0:
            return b""
        options: Any = {} if version is None else {"if_match": version}
        if start < 0:
            options["range"] = {"suffix": -start}
        elif end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}

        def get(client: Any, attempt: int) -> bytes:
            try:
                return bytes(obstore().get(client, self._key(name), options=options).bytes())
            except Exception as error:
                if any(sign in str(error) for sign in PAST_THE_END):
                    return b""
                raise

        return self._call(get, name)

    def head(self, name: str) -> Entry:
        return self._entry(self._call(lambda client, attempt: obstore().head(client, self._key(name)), name))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """A page at a time where the service lists in order of the names; else all are held, and sorted."""
        found = self._listed(prefix)
        yield from found if self.ordered else sorted(found, key=lambda entry: entry.name)

    def _listed(self, prefix: str) -> Iterator[Entry]:
        """Services list the folder of the prefix: from shortly before it, until after it."""
        folder, _, rest = prefix.rpartition("/")
        after = self._key(prefix)[:-1] + chr(ord(rest[-1]) - 1) if rest and rest[-1] > "0" else None
        stream: Iterator[Any] | None = None
        last = ""

        def page(client: Any, attempt: int) -> Any:
            nonlocal stream
            if stream is None or attempt:  # from where the last page ended
                stream = iter(obstore().list(client, self._key(folder) or None, offset=after, chunk_size=PAGE))
            return next(stream, ())

        while found := self._call(page, folder):
            for meta in found:
                entry = self._entry(meta)
                if self.ordered and entry.name.encode() < last.encode():
                    raise StoreError(
                        f"{shown(self.url)}: the service lists its objects out of order, and cannot be used"
                    )
                last = entry.name
                if entry.name.startswith(prefix):
                    yield entry
                elif self.ordered and entry.name > prefix:
                    return
            after = found[-1]["path"]

    def delete(self, name: str) -> None:
        try:
            self._call(lambda client, attempt: obstore().delete(client, self._key(name)), name)
        except FileNotFoundError:
            pass

    def open(self, name: str) -> BinaryIO:
        return Ranges(self, name, self.head(name)).buffered(READ_AHEAD)

    def _call(self, what: Callable[[Any, int], Any], name: str, *, once: bool = False) -> Any:
        return self.connection.call(what, self.where(name) if name else self.url, once=once)

    def _update(self, client: Any, name: str, version: str) -> Any:
        """What makes a write conditional: the ETag; on Google Cloud the generation of the object that has it."""
        if self.connection.scheme != "gs":
            return {"e_tag": version}
        found = obstore().head(client, self._key(name))
        if found["e_tag"] != version:
            raise Changed(self.where(name))
        return {"e_tag": version, "version": found["version"]}

    def _holds(self, name: str, data: bytes | Path) -> bool:
        """Whether an object has this content."""
        try:
            return self.read(name) == (data.read_bytes() if isinstance(data, Path) else data)
        except FileNotFoundError:
            return False

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/")

    def _entry(self, meta: Any) -> Entry:
        name = meta["path"].removeprefix(f"{self.prefix}/" if self.prefix else "")
        modified = int(meta["last_modified"].timestamp() * 1e9)
        return Entry(name, meta["size"], meta["e_tag"] or str(modified), modified)


def _content(data: bytes | Path) -> Any:
    return data if isinstance(data, Path) else bytes(data)


def _is_there(error: Exception) -> bool:
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError")
