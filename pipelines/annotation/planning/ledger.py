"""The recorded units of a dataset, and what this run has seen, in a temporary SQLite file: the driver's memory stays flat."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["COLUMNS", "Ledger"]

COLUMNS = (  # of a recorded unit
    *("id", "video_path", "video_id", "unit", "units", "unit_start", "unit_end", "status", "kind", "error"),
    *("duration", "bytes", "modified", "version", "checksum", "duplicate_of"),
    *("source_list", "source_spans", "source_texts", "source_unplaced", "shard", "generation", "stages"),
)
CACHE_KB = 32 << 10  # of memory that fills within some hundred thousand units, and is all that the ledger takes
TABLES = f"""
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; PRAGMA mmap_size = 0;
PRAGMA cache_size = -{CACHE_KB};
CREATE TABLE recorded ({", ".join(COLUMNS)}, PRIMARY KEY (id)) WITHOUT ROWID;
CREATE TABLE claims (content TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID;
CREATE TABLE later (at INTEGER PRIMARY KEY, what TEXT, data BLOB);
CREATE INDEX later_what ON later (what);
"""
INDICES = """
CREATE INDEX IF NOT EXISTS by_path ON recorded (video_path);
CREATE INDEX IF NOT EXISTS by_owner ON recorded (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_kind ON recorded (kind) WHERE kind <> 'file';
"""


class Ledger:
    """Rows are dicts with the keys `COLUMNS`, as in tables (paths: see `path_to_text`). One thread at a time."""

    def __init__(self, folder: str | None = None) -> None:
        """folder: for the file, which is gone when the process is; None: that of temporary files."""
        handle, path = tempfile.mkstemp(prefix="winnow-ledger-", suffix=".sqlite", dir=folder)
        os.close(handle)
        self.lock = threading.RLock()
        self.base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.base.executescript(TABLES)
        os.unlink(path)  # SQLite keeps it open: nothing is left when the process is killed
        self.empty = True
        self.ahead: dict[str, list[dict[str, Any]]] = {}

    def close(self) -> None:
        self.base.close()

    # --- recorded units

    def load(self, rows: Iterable[Sequence[Any]]) -> None:
        """Replace the recorded units by these: values of `COLUMNS`, stages joined by commas."""
        with self.lock:
            self.ahead = {}
            self.base.execute("DELETE FROM recorded")
            holes = ", ".join("?" * len(COLUMNS))
            self.base.execute("BEGIN")
            self.base.executemany(f"INSERT OR REPLACE INTO recorded VALUES ({holes})", rows)
            self.base.execute("COMMIT")
            self.base.executescript(INDICES)
            self.empty = not self._one("SELECT EXISTS (SELECT 1 FROM recorded)")

    def look_up(self, paths: Sequence[str]) -> None:
        """Have the units of some hundred paths at hand, for `of_path`, until the next call."""
        if self.ahead.keys() >= set(paths):
            return
        found: dict[str, list[dict[str, Any]]] = {path: [] for path in paths}
        for row in self._rows(f"video_path IN ({', '.join('?' * len(found))}) ORDER BY unit, id", *found):
            found[row["video_path"]].append(row)
        self.ahead = found

    def row(self, unit_id: str) -> dict[str, Any] | None:
        return next(self._rows("id = ?", unit_id), None)

    def of_path(self, path: str) -> list[dict[str, Any]]:
        """The units of a path, in order."""
        if path in self.ahead:
            return list(self.ahead[path])
        return list(self._rows("video_path = ? ORDER BY unit, id", path))

    def of_content(self, video_id: str) -> list[dict[str, Any]]:
        """The units with this content, in order, without duplicates of it."""
        return list(
            self._rows("id >= ? AND id < ? AND status <> 'duplicate' ORDER BY id", f"{video_id}-", f"{video_id}.")
        )

    def contents_like(self, digits: str) -> list[str]:
        """The recorded contents whose id begins with these hex digits."""
        found = self._rows(
            "id >= ? AND id < ? AND status <> 'duplicate'", digits, digits + "~", columns="DISTINCT video_id"
        )
        return [row["video_id"] for row in found]

    def copies(self, owner: str) -> list[str]:
        """Paths of the recorded duplicates of a path."""
        return [row["video_path"] for row in self._rows("duplicate_of = ? ORDER BY id", owner, columns="video_path")]

    def no_files(self) -> list[dict[str, Any]]:
        """The units of refused folders, links and entries of lists."""
        return list(self._rows("kind <> 'file'"))

    def paths(self) -> Iterator[str]:
        """Every recorded path of a file, in order."""
        last = ""
        while True:
            with self.lock:
                found = self.base.execute(
                    "SELECT DISTINCT video_path FROM recorded WHERE video_path > ? AND kind = 'file' "
                    "ORDER BY video_path LIMIT 1000",
                    [last],
                ).fetchall()
            if not found:
                return
            yield from (path for (path,) in found)
            last = found[-1][0]

    def count(self, status: str) -> int:
        return self._one("SELECT count(*) FROM recorded WHERE status = ?", status)

    # --- what this run has seen

    def claim(self, content: str, path: str) -> str:
        """The path that claimed this content first, maybe this one."""
        with self.lock:
            self.base.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", [content, path])
            return self._one("SELECT path FROM claims WHERE content = ?", content)

    def put_off(self, what: str, data: bytes) -> None:
        """Keep bytes for later, in order."""
        with self.lock:
            self.base.execute("INSERT INTO later (what, data) VALUES (?, ?)", [what, data])

    def taken_up(self, what: str) -> Iterator[bytes]:
        """The bytes that were put off, in order, each once."""
        while True:
            with self.lock:
                found = self.base.execute(
                    "SELECT at, data FROM later WHERE what = ? ORDER BY at LIMIT 256", [what]
                ).fetchall()
                if not found:
                    return
                self.base.execute("DELETE FROM later WHERE what = ? AND at <= ?", [what, found[-1][0]])
            yield from (data for _, data in found)

    def _rows(self, where: str, *values: Any, columns: str = "*") -> Iterator[dict[str, Any]]:
        if self.empty:
            return iter(())
        with self.lock:
            found = self.base.execute(f"SELECT {columns} FROM recorded WHERE {where}", values)
            names = [part[0] for part in found.description]
            return iter([_row(names, row) for row in found.fetchall()])

    def _one(self, sql: str, *values: Any) -> Any:
        with self.lock:
            return self.base.execute(sql, values).fetchone()[0]


def _row(names: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    row = dict(zip(names, values, strict=True))
    if "stages" in row:
        row["stages"] = row["stages"].split(",")
    return row
