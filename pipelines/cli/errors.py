"""Shared by the commands of `winnow`: consoles, exit codes, and errors that the user can fix."""

from __future__ import annotations

import logging
import os
import sys
import traceback

import typer
from rich.console import Console
from rich.text import Text

out_console = Console()
err_console = Console(stderr=True)


def progress_bar(console: Console):
    """The line that every command shows while it works; it is gone at the end."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), BarColumn(24), TextColumn("{task.description}")
    return Progress(*columns, console=console, transient=True, refresh_per_second=4)


DONE, WITH_FAILURES, COULD_NOT_START, DEFECT, INTERRUPTED = 0, 1, 2, 3, 130


class CommandError(Exception):
    """Options that contradict each other. One line with the fix."""


class errors:
    """Errors that the user can fix become one line and exit code 2; after an interruption, the line is how to resume.

    Any other error is a defect of Winnow: its traceback is printed, and the exit code is 3.
    """

    def __enter__(self) -> None:
        for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def __exit__(self, kind, error, _trace) -> None:
        if kind is None or issubclass(kind, (typer.Exit, SystemExit, BrokenPipeError)):
            return
        within, said = _within_sql(error)
        if issubclass(kind, KeyboardInterrupt) or within == "KeyboardInterrupt":
            err_console.print(said or "interrupted: what was committed stays; the same command resumes")
            raise typer.Exit(INTERRUPTED) from None
        if kind.__module__.startswith(("pipelines.", "curate.", "video_model.")) or within == "StoreError":
            _stop(said)
        if reason := _user_error(error):
            _stop(reason)
        traceback.print_exception(error)
        err_console.print(
            Text("winnow: this is a defect of Winnow: please report it with the lines above", style="red")
        )
        raise typer.Exit(DEFECT) from None


def _within_sql(error: BaseException) -> tuple[str, str]:
    """(class, message) of the Python error that a query met in reading a store, which DuckDB tells as a traceback's text."""
    said = str(error)
    _, head, trace = said.partition("Traceback (most recent call last):\n")
    if not head:
        return "", said
    line = next((line for line in trace.split("\n") if line and not line.startswith(" ")), "")
    name, _, message = line.partition(":")
    return name.rpartition(".")[2], message.strip()


def _user_error(error: BaseException) -> str | None:
    """Message for missing packages, disk errors and damaged files, which any module can raise; None for others."""
    if isinstance(error, ModuleNotFoundError):
        from curate.base.extras import missing_package

        return missing_package(error)
    import duckdb
    from pyarrow import ArrowInvalid

    if isinstance(error, OSError):
        if error.filename is None:
            return f"{error}: check the disk, the folders named and their rights"
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {error.strerror}: check that it exists and may be read or written, or choose another place"
    if isinstance(error, (duckdb.Error, ArrowInvalid)):
        from curate.base.sql import message_of

        if "No space left" in str(error):
            return f"{message_of(error)}: free space there; the same command resumes"
        return f"{message_of(error)}: a file of the dataset may be damaged: restore it, or delete the shard and annotate again"
    return None


def _stop(message: str) -> None:
    err_console.print(Text("winnow: " + " ".join(message.split()), style="red"), soft_wrap=True)
    raise typer.Exit(COULD_NOT_START)
