"""A folder for what DuckDB spills and for small tables that queries join: it lives as long as whoever asked for it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

import duckdb

from curate.base.store.files import database

__all__ = ["Scratch", "process_scratch"]

NAME = "winnow-scratch-"
USED = ".used"  # locked while the folder's process lives
YOUNG = 60.0  # s: one that is being made is not locked yet


class Scratch:
    """A temporary folder. Those of processes that were killed are removed when the next one is made."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=NAME))
        self._used = open(self.folder / USED, "w")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
            fcntl.flock(self._used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._end = weakref.finalize(self, _remove, self.folder, self._used, os.getpid())

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


@lru_cache(maxsize=1)
def process_scratch() -> Scratch:
    """One that lives as long as this process, for files that SQL names after whoever wrote it is gone."""
    return Scratch()


def _remove(folder: Path, used: IO[str], owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
        used.close()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{NAME}*"):
        with suppress(OSError):
            facts = folder.stat()
            if facts.st_uid != os.getuid() or time.time() - facts.st_ctime < YOUNG:
                continue
            with open(folder / USED, "r+") as used:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process lives
                shutil.rmtree(folder, ignore_errors=True)
