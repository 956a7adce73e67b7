"""Decoding in child processes: a file that crashes or hangs a decoder, or makes it swallow memory, costs one clip.

What comes back is raw pixels of a size known beforehand, or a reason: nothing that a decoder which was taken over can
send is run, or is larger than what was asked for.
"""

from __future__ import annotations

import math
import os
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from curate.base.child import Child, Lost, NotStarted, in_order
from video_model.data.decoding import NO_PICTURE, Frames, Job
from video_model.errors import DataError

CHILD = "video_model.data.decoding"  # its `answer` is what a child does; imports nothing heavy
TIME, AROUND = 9, 16_384  # bytes of an answer beside its pixels: of a frame, and in all


class Decoders:
    """`workers` child processes that decode; started when first needed, and again after a failure.

    timeout: seconds for one clip. memory_gb: most memory that one child may allocate.
    """

    def __init__(self, workers: int | None = None, *, timeout: float = 60.0, memory_gb: float = 4.0) -> None:
        self.workers = max(1, workers or len(os.sched_getaffinity(0)))
        self._children = [Child(CHILD, timeout=timeout, memory_gb=memory_gb) for _ in range(self.workers)]
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decoders")

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Frames | str]:
        """The frames of each job or the reason why there are none, in order; a few are worked on
        ahead. Raises DataError where no child can be started."""
        return in_order(self._threads, self._one, jobs, 2 * self.workers + 1)

    def close(self) -> None:
        """End the children; what they are at is lost."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, job: Job) -> Frames | str:
        child = self._idle.get()
        try:
            return _decoded(child, job)
        finally:
            self._idle.put(child)


def _decoded(child: Child, job: Job) -> Frames | str:
    one = math.prod(job.size) * 3
    try:
        made = child.ask(job.request() | {"data": job.data}, max_bytes=job.most * (one + TIME) + AROUND)
    except NotStarted as error:
        raise DataError(str(error)) from None
    except Lost as lost:
        return str(lost)
    if "reason" in made:
        return str(made["reason"])
    try:
        pixels, times = made["pixels"], np.array(made["times"], np.float64).reshape(-1)
        first = int(made["first"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return "the decoder's answer is none"
    if not pixels or len(pixels) != len(times) * one or len(times) > job.most or not np.isfinite(times).all():
        return f"{len(pixels)} bytes of pixels came back for {len(times)} frames"
    return Frames(np.frombuffer(pixels, np.uint8).reshape(len(times), *job.size, 3), times, first)


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a picture, or of a video's first frame: as the frames of training are read (resized to cover,
    cropped around the centre), in a child process. Raises DataError, OSError."""
    data = path.read_bytes()
    with Decoders(1) as decoders:
        still, moving = decoders(Job(kind, (0,), size, data) for kind in ("image", "video"))
    if isinstance(still, str) and isinstance(moving, str):
        why = moving if still.startswith(NO_PICTURE) else still
        raise DataError(
            f"{path}: is neither a picture nor a video that can be read (it {why}): give a PNG, JPEG or mp4"
        )
    return (moving if isinstance(still, str) else still).pixels[0].copy()
