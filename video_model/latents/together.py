"""Several workers at one job: each does its part, they meet now and then, and what stops one ends all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from video_model.errors import DataError
from video_model.workers import TrainingWorker

ROUND = 15.0  # seconds of work between meetings; far below the patience of a worker that has done its part
LOOKS, BETWEEN = 12, 5.0  # at a folder that not all see alike yet: how often, and seconds between
PARTS = 8  # shards of each worker, at least: what is left when the first one has done its part is little

Progress = Callable[[str, int, int, int], None]  # "texts" or "clips", done, in all, skipped
T = TypeVar("T")
Counts = tuple[int, int, int]  # done, in all, skipped


def work_together(worker: TrainingWorker, part: Iterable[Counts], report: Callable[[int, int, int], None]) -> None:
    """Do this worker's part of a job: an iterable that yields how far it is after each piece.

    Returns when all workers have done theirs. report: how far all are together. Where one raises, it raises here, and in
    the others WorkerError with its line, at the next meeting.
    """
    working, counts, error, met = iter(part), (0, 0, 0), None, time.monotonic()
    busy = True
    while True:
        if busy:
            try:
                counts = next(working)
            except StopIteration:
                busy = False
            except Exception as raised:  # the others must hear of it, whatever it is
                error, busy = raised, False
        if busy and worker.world > 1 and time.monotonic() - met < ROUND:
            continue
        *together, others = worker.total([*counts, float(busy)])
        worker.agree(error)
        if busy or worker.world > 1:
            report(*map(int, together))
        if not others:
            return
        met = time.monotonic()


def reporting(what: str, progress: Progress | None) -> Callable[[int, int, int], None]:
    """`report` of a job called `what`."""
    return lambda *counts: progress(what, *counts) if progress else None


def seen_alike(worker: TrainingWorker, look: Callable[[], tuple[str, T]], folder: Path) -> T:
    """What `look` finds in a folder, when it is the same for all workers; it gives a line that stands for it, and it.

    A file system of a network may show a worker an old listing for some time. Raises DataError.
    """
    for turn in range(LOOKS):
        line, found, error = "", None, None
        try:
            line, found = look()
        except DataError as raised:
            error = raised
        worker.agree(error)
        if len(set(worker.told(line))) == 1:
            return found  # type: ignore[return-value]
        if turn < LOOKS - 1:
            time.sleep(BETWEEN)
    raise DataError(f"{folder}: the workers do not see the same files there: give a folder that all nodes share")


@contextlib.contextmanager
def locked(folder: Path, worker: TrainingWorker | None = None) -> Iterator[None]:
    """One run at a time in a folder; a second one waits, and finds the work done. The workers of a run enter together."""
    worker = worker or TrainingWorker()
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644) if worker.first else None
    try:
        if worker.world == 1:
            _lock(descriptor, None)
        while worker.world > 1 and not worker.any(descriptor is not None and _lock(descriptor, ROUND)):
            pass  # met, so that the others are not out of patience while another run works for hours
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, seconds: float | None) -> bool:
    """Whether the lock was had within so many seconds; None: wait for it."""
    end = time.monotonic() + (seconds or 0)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if seconds is None else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                if time.monotonic() > end:
                    return False
                time.sleep(0.2)
                continue
        return True  # or a file system without locks
