"""Pixels of real clips: to train a codec on, and to compare generated ones with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from video_model.data.buckets import Size, draws
from video_model.data.decoders import Decoders
from video_model.data.decoding import Frames, Job
from video_model.data.index import Index
from video_model.data.reading import Reader
from video_model.data.windows import Stretch, Thinned, rate_of
from video_model.errors import DataError
from video_model.workers import TrainingWorker

EACH = 16  # clips that a worker decodes between two exchanges


def sample_frames(
    index: Index,
    size: Size,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    timeout: float = 60.0,
    worker: TrainingWorker | None = None,
) -> np.ndarray:
    """[count, 3, H, W] uint8: random frames, from as many clips and pictures as there are. Raises DataError.

    size: (height, width) px. timeout: s to decode one clip. A clip that cannot be decoded gives its place to others. worker: of
    several that all call this, and decode a part each; all get the same.
    """
    usable = np.flatnonzero(index.num_frames > 0)
    each = math.ceil(count / max(1, len(usable)))  # of a clip, so that few are decoded again

    def frames_of(row: int, turn: int) -> tuple[int, ...]:
        return tuple(sorted(draws(seed, "frames", row, turn).integers(index.num_frames[row], size=each).tolist()))

    found: list[np.ndarray] = []
    for _, _, frames in _decoded(index, usable, frames_of, size, seed, workers, timeout, worker):
        found += list(frames.pixels)
        if len(found) >= count:
            break
    order = draws(seed, "order").permutation(len(found))[:count]
    return np.stack([found[i] for i in order]).transpose(0, 3, 1, 2)


def sample_windows(
    index: Index,
    size: Size,
    frames: int,
    rate: float,
    count: int,
    seed: int = 0,
    workers: int | None = None,
    timeout: float = 60.0,
    worker: TrainingWorker | None = None,
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray, list[str]]:
    """Random windows of clips: (pixels [N, T, 3, H, W] uint8, captions, fps [N], motion [N], clip ids).

    rate: frames/s, or the clip's own where that is less; fps: what it is in truth, over the window. A clip is taken again, at another place, only when all were taken. Raises DataError where none is long enough.
    """
    clips = Thinned(index.view("num_frames"), index.view("fps"))
    moving = np.flatnonzero((index.fps > 0) & ~index.is_image)  # nan is not
    usable = moving[clips.longests(moving, [rate], [frames]) > 0] if frames else moving[:0]
    if not len(usable):
        raise DataError(f"none of {len(index)} clips holds {frames} frames at {rate:g} frames/s; use fewer, or faster")

    def frames_of(row: int, turn: int) -> Stretch:
        window = clips.draw(row, frames, [rate], draws(seed, "windows", row, turn))
        return replace(clips.stretch(row), window=window)

    pixels, captions, taken, fps = [], [], [], []
    for row, turn, window in _decoded(index, usable, frames_of, size, seed, workers, timeout, worker):
        pixels.append(window.pixels)
        fps.append(rate_of(window.times))
        captions.append(index.caption(row, draws(seed, "caption", row, turn).random()))
        taken.append(row)
        if len(taken) >= count:
            break
    keys = [index.key(row) for row in taken]
    return (
        np.stack(pixels).transpose(0, 1, 4, 2, 3),
        captions,
        np.array(fps),
        index.view("motion_score")[np.array(taken)],
        keys,
    )


def _decoded(
    index: Index,
    rows: np.ndarray,
    frames_of: Callable[[int, int], tuple[int, ...] | Stretch],
    size: Size,
    seed: int,
    workers: int | None,
    timeout: float,
    worker: TrainingWorker | None,
) -> Iterator[tuple[int, int, Frames]]:
    """(row, turn, frames): all rows in random order, and again in another turn. What comes does not depend on the
    workers, of whom each decodes a part of some rows after the other. Raises DataError where a whole turn fails, and
    WorkerError."""
    reader, worker = Reader(index), worker or TrainingWorker()
    with Decoders(workers, timeout=timeout) as decoders:
        for turn in itertools.count():
            order = draws(seed, "rows", turn).permutation(rows).tolist()
            good, why = False, "there are none"
            if worker.world == 1:
                jobs = (Job(index.kind(row), frames_of(row, turn), size, reader(row)) for row in order)
                every = zip(order, decoders(jobs), strict=True)
            else:

                def job(row: int, turn: int = turn) -> Job:
                    return Job(index.kind(row), frames_of(row, turn), size, reader(row))

                every = _together(order, job, decoders, size, worker)
            for row, result in every:
                if isinstance(result, str):
                    why = result
                    continue
                good = True
                yield row, turn, result
            if not good:
                raise DataError(f"not one of {len(rows)} clips can be decoded ({why}); make the shards again")


def _together(
    order: list[int], job: Callable[[int], Job], decoders: Decoders, size: Size, worker: TrainingWorker
) -> Iterator[tuple[int, Frames | str]]:
    """(row, result) for all workers, of whom each decodes EACH rows of a round."""
    for first in range(0, len(order), EACH * worker.world):
        mine, error = order[first + EACH * worker.rank : first + EACH * (worker.rank + 1)], None
        found: list[Frames | str] = []
        try:
            found = list(decoders(job(row) for row in mine))
        except DataError as raised:
            error = raised
        worker.agree(error)
        counts = [[-1, 0] if isinstance(one, str) else [len(one.times), one.first] for one in found]
        reasons = worker.told(next((one for one in found if isinstance(one, str)), ""))
        whole = [one for one in found if not isinstance(one, str)]
        pixels = np.concatenate([np.empty((0, *size, 3), np.uint8), *(one.pixels for one in whole)])
        times = np.concatenate([np.empty(0), *(one.times for one in whole)])
        parts = [
            torch.tensor(counts, dtype=torch.int64).reshape(-1, 2),
            torch.from_numpy(pixels),
            torch.from_numpy(times),
        ]
        told = [[part.numpy() for part in worker.gathered(one)] for one in parts]
        at = first
        for reason, lengths, shown, seconds in zip(reasons, *told, strict=True):
            start = 0
            for count, begins in lengths.tolist():
                frames = slice(start, start + max(0, count))
                yield order[at], Frames(shown[frames], seconds[frames], begins) if count >= 0 else reason
                start, at = frames.stop, at + 1
