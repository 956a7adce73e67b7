"""A folder for what DuckDB spills and for small tables that queries join: it lives as long as whoever asked for it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import duckdb

from curate.base.store.files import database

__all__ = ["Scratch"]

NAME = "winnow-scratch-"
USED = ".used"  # locked while the folder's process lives


class Scratch:
    """A temporary folder. Those of processes that were killed are removed when the next one is made."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=NAME))
        self._used = open(self.folder / USED, "w")  # noqa: SIM115
        fcntl.flock(self._used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._end = weakref.finalize(self, _remove, self.folder, self._used)

    def database(self, name: str = "", memory: str = "200MB", **config: str) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection that holds little in memory and the rest here. name: of a database on disk; "": in memory."""
        options = {
            "memory_limit": memory,
            "temp_directory": str(self.folder),
            "preserve_insertion_order": "false",
        } | config
        return database(str(self.folder / f"{name}.duckdb") if name else ":memory:", **options)

    def path(self, name: str) -> Path:
        return self.folder / name

    def close(self) -> None:
        self._end()


def _remove(folder: Path, used) -> None:  # type: ignore[no-untyped-def]
    shutil.rmtree(folder, ignore_errors=True)
    used.close()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{NAME}*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / USED, "r+") as used:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process lives
                shutil.rmtree(folder, ignore_errors=True)
