"""What sources say of videos, on disk: rows of lists, and which videos were given already. A temporary SQLite file without
a name, which goes when the process does."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import msgpack

from curate.base.files import DiskError
from curate.clip import Listed, Unit
from pipelines.sources.entries import Entry

__all__ = ["Mention", "Mentions"]

BUFFERED = 2000  # rows
CACHE_KB = 64_000  # of SQLite's pages in memory

TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -{cache};
    CREATE TABLE rows (n INTEGER PRIMARY KEY, key BLOB, path BLOB, entry BLOB);
    CREATE TABLE given (key BLOB PRIMARY KEY, path BLOB) WITHOUT ROWID;
    CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class Mention:
    """A row of a list, or a file that was named. n: its place among all. path: as it names the video, absolute. entry: what
    it says; None for a name alone; a failed unit for a row that cannot be used."""

    __slots__ = ("entry", "key", "n", "path")

    def __init__(self, n: int, key: bytes | None, path: bytes, entry: bytes | None) -> None:
        self.n, self.key, self.path = n, key, os.fsdecode(path)
        self.entry: Entry | Unit | None = None
        if entry is not None:
            self.entry = Unit.unpack(entry) if key is None else _unpacked(entry)


class Mentions:
    """Mentions by their place and by their video's key, a hash of its real path. Methods raise DiskError."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self.db.executescript(TABLES.format(cache=CACHE_KB))
        self.db.execute("BEGIN")
        self.count = 0
        self._buffer: list[tuple[int, bytes | None, bytes, bytes | None]] = []
        self._indexed = False

    def close(self) -> None:
        self.db.close()

    def add(self, key: bytes, path: str, entry: Entry | None) -> None:
        self._add(key, os.fsencode(path), None if entry is None else _packed(entry))

    def refuse(self, unit: Unit) -> None:
        """A row that cannot be used."""
        self._add(None, os.fsencode(unit.video.path), unit.pack())

    def between(self, first: int, last: int) -> Iterator[Mention]:
        """Mentions [first, last), in order."""
        while first < last:
            self._flush()
            found = self._do(
                "SELECT n, key, path, entry FROM rows WHERE n >= ? AND n < ? ORDER BY n LIMIT 1000", (first, last)
            )
            if not found:
                return
            for row in found:
                yield Mention(*row)
            first = found[-1][0] + 1

    def of(self, key: bytes) -> list[Mention]:
        """All mentions of a video, in order."""
        if not self.count:
            return []
        self._flush()
        if not self._indexed:
            self._do("CREATE INDEX by_key ON rows (key, n) WHERE key IS NOT NULL")
            self._indexed = True
        return [
            Mention(*row) for row in self._do("SELECT n, key, path, entry FROM rows WHERE key = ? ORDER BY n", (key,))
        ]

    def give(self, key: bytes, path: str) -> None:
        """Note that a video was given, by which path."""
        self._do("INSERT INTO given VALUES (?, ?)", (key, os.fsencode(path)))

    def given(self, key: bytes) -> str | None:
        """The path by which it was."""
        found = self._do("SELECT path FROM given WHERE key = ?", (key,))
        return os.fsdecode(found[0][0]) if found else None

    def first_time(self, what: str, text: str) -> bool:
        """Whether this text of this kind was not asked about before."""
        key = key_of(f"{what}\n{text}")
        if self._do("SELECT 1 FROM seen WHERE key = ?", (key,)):
            return False
        self._do("INSERT INTO seen VALUES (?)", (key,))
        return True

    def known(self, what: str, text: str) -> bool:
        """Whether `first_time` was asked about it."""
        return bool(self._do("SELECT 1 FROM seen WHERE key = ?", (key_of(f"{what}\n{text}"),)))

    def _add(self, *row: Any) -> None:
        self._buffer.append((self.count, *row))
        self.count += 1
        if len(self._buffer) >= BUFFERED:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._do("INSERT INTO rows VALUES (?, ?, ?, ?)", many=self._buffer)
            self._buffer.clear()

    def _do(self, sql: str, values: tuple = (), many: Iterable[tuple] | None = None) -> list[tuple]:
        try:
            if many is not None:
                self.db.executemany(sql, many)
                return []
            return self.db.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            if "full" not in str(error) and "I/O" not in str(error):
                raise
            raise DiskError(
                f"{tempfile.gettempdir()}: cannot be written to ({error}), and the sources are sorted there: free space, or "
                "set TMPDIR to a larger disk"
            ) from None


def key_of(path: str) -> bytes:
    """16 bytes for a path: as good as the path itself."""
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def _packed(entry: Entry) -> bytes:
    span = entry.span and asdict(entry.span)
    return msgpack.packb((entry.captions, entry.columns, span), unicode_errors="surrogateescape")


def _unpacked(data: bytes) -> Entry:
    captions, columns, span = msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
    return Entry(captions=captions, columns=columns, span=span and Listed(**span))
