"""A folder for what a process needs while it works: beside the result on a local disk, else on the machine's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from curate.base.files import writing
from curate.base.store.places import Store

__all__ = ["scratch_folder"]

NAME = "winnow-select-"


@contextmanager
def scratch_folder(partial: Store) -> Iterator[Path]:
    """An empty folder, deleted at the end. partial: of the dataset that is being made.

    Those of processes that were killed on this machine are deleted too.
    """
    parent = partial.folder / "scratch" if partial.folder else Path(tempfile.gettempdir())
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        if partial.folder is None:
            _sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=f"{NAME}{os.getpid()}-{_started(os.getpid())}-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{NAME}*-*"):
        pid, started = path.name.removeprefix(NAME).split("-")[:2]
        if pid.isdigit() and str(_started(int(pid))) != started:
            shutil.rmtree(path, ignore_errors=True)


def _started(pid: int) -> int:
    """When a process was started, s since 1970; 0 if there is none of that id."""
    try:
        return round(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0
