"""Which frames of a clip can be taken, at which size; and the order in which batches are made of clips.

Everything here is a pure function of numbers: no pixels, no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from video_model.errors import DataError

Size = tuple[int, int]  # height, width in px
Rates = Sequence[float] | Mapping[str, float]  # a list to choose from, or {"min": 4, "max": 24}


@dataclass(frozen=True)
class FrameGrid:
    """The frames that are kept of each clip: start, start + stride, ... `count` of them. Arrays [N]; fps: of these."""

    start: np.ndarray
    stride: np.ndarray
    count: np.ndarray
    fps: np.ndarray

    def frames(self, row: int) -> np.ndarray:
        """[count] numbers of the frames in the clip."""
        return self.start[row] + self.stride[row] * np.arange(self.count[row])


def grid(num_frames: np.ndarray, fps: np.ndarray, rate: float | None = None, limit: int | None = None) -> FrameGrid:
    """Clips thinned evenly to about `rate` frames per second (None: not at all), at most `limit` from their middle."""
    num_frames = np.asarray(num_frames, np.int64)
    known = np.isfinite(fps) & (fps > 0)
    safe = np.where(known, fps, 1.0)
    stride = np.where(known, _nearest(safe / rate), 1) if rate else np.ones(len(num_frames), np.int64)
    whole = -(-num_frames // stride)
    count = whole if limit is None else np.minimum(whole, limit)
    start = (whole - count) // 2 * stride
    return FrameGrid(start, stride, count, np.where(known, safe / stride, np.nan))


def strides(fps: float, rates: Rates) -> dict[int, float]:
    """Stride -> probability, for clips of `fps` of which frames at the wanted rates are to be taken.

    stride = max(1, round(fps / rate)); a rate of a list is as probable as another, one of a range is uniform in it.
    """
    if not isinstance(rates, Mapping):
        found: dict[int, float] = {}
        for rate in rates:
            stride = int(_nearest(fps / rate))
            found[stride] = found.get(stride, 0.0) + 1 / len(rates)
        return dict(sorted(found.items()))
    low, high = float(rates["min"]), float(rates["max"])
    first, last = int(_nearest(fps / high)), int(_nearest(fps / low))
    if first == last:
        return {first: 1.0}
    # Rates that round to a stride s are those from fps / (s + 1/2) to fps / (s - 1/2).
    edges = [high, *(fps / (s + 0.5) for s in range(first, last)), low]
    return {s: (edges[i] - edges[i + 1]) / (high - low) for i, s in enumerate(range(first, last + 1))}


def draws(*parts: int | str) -> np.random.Generator:
    """Random numbers that the parts decide (a seed, a purpose, a step ...), independent of those of other parts."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16], "big"))


def highest(rates: Rates) -> float:
    return float(rates["max"] if isinstance(rates, Mapping) else max(rates))


def check_rates(rates: Rates) -> None:
    """Raises DataError for what is no list of rates and no range."""
    if isinstance(rates, Mapping):
        good = set(rates) == {"min", "max"} and 0 < rates["min"] <= rates["max"]
    else:
        good = len(rates) > 0 and min(rates) > 0
    if not good:
        raise DataError(f"rates: {rates}: give frame rates > 0, as a list or as min and max")


def draw_window(count: int, length: int, options: Mapping[int, float], rng: np.random.Generator) -> tuple[int, int]:
    """(start, stride) of `length` frames out of `count`: a stride among those that fit, by probability; start uniform."""
    fitting = {s: p for s, p in options.items() if (length - 1) * s < count}
    ends = np.cumsum(list(fitting.values()))
    stride = list(fitting)[int(np.searchsorted(ends / ends[-1], rng.random(), side="right"))]
    return int(rng.integers(count - (length - 1) * stride)), stride


def longest_fit(count: int, shortest_stride: int, lengths: Sequence[int]) -> int:
    """The longest of the lengths that a clip of `count` frames holds; 0 for none."""
    return max((n for n in lengths if (n - 1) * shortest_stride < count), default=0)


def nearest_size(shape: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """[N] index of the size whose proportions are nearest, by the ratio of ratios. shape: [N, 2] height and width.

    A shape of 0, which is not known, takes the squarest size.
    """
    aspects = np.log([height / width for height, width in sizes])
    known = (shape > 0).all(1)
    wanted = np.zeros(len(shape))
    wanted[known] = np.log(shape[known, 0] / shape[known, 1])
    return np.abs(wanted[:, None] - aspects[None]).argmin(1)


def usable_sizes(shape: np.ndarray, sizes: Sequence[Size], least: int) -> list[Size]:
    """The sizes that are left when the one with the fewest clips is given up, again and again, until each has `least`.

    Its clips go to the size nearest among the others.
    """
    sizes = list(sizes)
    while len(sizes) > 1:
        counts = np.bincount(nearest_size(shape, sizes), minlength=len(sizes))
        if counts.min() >= least:
            break
        sizes.pop(int(counts.argmin()))
    return sizes


@dataclass(frozen=True)
class Bucket:
    """Clips that fit one shape of a batch. rows: of the index, ascending."""

    frames: int
    size: Size
    rows: np.ndarray

    def __str__(self) -> str:
        return f"{self.frames} {'frame' if self.frames == 1 else 'frames'} at {self.size[0]}x{self.size[1]}"


def make_buckets(
    rows: Iterable[tuple[int, int, Size]], batch: int, merge: bool = False
) -> tuple[list[Bucket], list[tuple[Bucket, str]]]:
    """Sort (row, frames, size) into buckets of at least one batch each. Also: buckets left out, and why (merge only).

    A bucket with fewer clips than a batch would never be drawn: DataError; with `merge`, its clips go to the next
    shorter length at the same size (a longer one they do not fill), or are left out where there is none.
    """
    groups: dict[tuple[int, Size], list[int]] = {}
    for row, frames, size in rows:
        groups.setdefault((frames, size), []).append(row)
    left_out = []
    for frames, size in sorted(groups, key=lambda key: (-key[0], key[1])):  # long ones first: they move down
        members = groups[frames, size]
        if len(members) >= batch:
            continue
        bucket = Bucket(frames, size, np.array(sorted(members), np.int64))
        reason = f"bucket of {bucket} has {len(members)} {_clips(len(members))}, fewer than a batch of {batch}"
        if not merge:
            raise DataError(
                f"{reason}; use a smaller batch, drop that size or length, or set data.small_buckets to merge"
            )
        shorter = [key for key in groups if key[1] == size and key[0] < frames]
        if shorter:
            groups[max(shorter)] += members
        else:
            left_out.append((bucket, reason))
        del groups[frames, size]
    made = [Bucket(*key, np.array(sorted(groups[key]), np.int64)) for key in sorted(groups)]
    if left_out and not made:
        raise DataError(f"{left_out[0][1]}, and there is no other; use a smaller batch or more clips")
    return made, left_out


class Plan:
    """The batches of an epoch after the other: which rows, in which order. A pure function of (seed, number).

    In an epoch a clip is used at most once; up to a batch less one of each bucket sit out, others each time.
    """

    def __init__(self, buckets: Sequence[Bucket], batch: int, seed: int, name: str) -> None:
        self.buckets, self.batch, self.seed = list(buckets), batch, seed
        self.name = name
        self.per_epoch = sum(len(bucket.rows) // batch for bucket in self.buckets)
        self._made = (-1, [], [])  # epoch, its orders, its batches: replaced as one, as threads share it

    def at(self, number: int) -> tuple[Bucket, np.ndarray]:
        """(bucket, [batch] rows) of the batch with this number, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        made = self._made
        if epoch != made[0]:
            made = self._made = self._make(epoch)
        _, orders, batches = made
        which, first = batches[place]
        return self.buckets[which], orders[which][first : first + self.batch]

    def _make(self, epoch: int) -> tuple[int, list[np.ndarray], list[tuple[int, int]]]:
        orders = [
            bucket.rows[draws(self.seed, self.name, epoch, str(bucket)).permutation(len(bucket.rows))]
            for bucket in self.buckets
        ]
        every = [
            (which, first)
            for which, order in enumerate(orders)
            for first in range(0, len(order) - self.batch + 1, self.batch)
        ]
        turn = draws(self.seed, self.name, epoch).permutation(len(every))
        return epoch, orders, [every[i] for i in turn]


def _nearest(value: np.ndarray | float) -> np.ndarray:
    """Rounded half up, and at least 1."""
    return np.maximum(1, np.floor(np.asarray(value) + 0.5)).astype(np.int64)


def _clips(count: int) -> str:
    return "clip" if count == 1 else "clips"
