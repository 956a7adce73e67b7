"""At which size and length clips are taken, and the order in which batches are made of them.

Everything here is a pure function of numbers: no pixels, no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from video_model.errors import DataError

Size = tuple[int, int]  # height, width in px


def draws(*parts: int | str) -> np.random.Generator:
    """Random numbers that the parts decide (a seed, a purpose, a step ...), independent of those of other parts."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16], "big"))


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
    groups: Mapping[tuple[int, Size], np.ndarray], batch: int, merge: bool = False
) -> tuple[list[Bucket], list[tuple[Bucket, str]]]:
    """Buckets of at least one batch each, of the rows (ascending) by (frames, size). Also: buckets left out, and why (merge
    only).

    A bucket with fewer clips than a batch would never be drawn: DataError; with `merge`, its clips go to the next
    shorter length at the same size (a longer one they do not fill), or are left out where there is none.
    """
    groups, left_out = dict(groups), []
    for frames, size in sorted(groups, key=lambda key: (-key[0], key[1])):  # long ones first: they move down
        members = groups[frames, size]
        if len(members) >= batch:
            continue
        bucket = Bucket(frames, size, members)
        reason = f"bucket of {bucket} has {len(members)} {_clips(len(members))}, fewer than a batch of {batch}"
        if not merge:
            raise DataError(
                f"{reason}; use a smaller batch, drop that size or length, or set data.small_buckets to merge"
            )
        shorter = [key for key in groups if key[1] == size and key[0] < frames]
        if shorter:
            groups[max(shorter)] = np.sort(np.concatenate([groups[max(shorter)], members]))
        else:
            left_out.append((bucket, reason))
        del groups[frames, size]
    made = [Bucket(*key, groups[key]) for key in sorted(groups)]
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
        self._made: tuple[int, list[np.ndarray], list[np.ndarray]] = (
            -1,
            [],
            [],
        )  # epoch, its orders, its batches: replaced as one, as threads share it

    def at(self, number: int) -> tuple[Bucket, np.ndarray]:
        """(bucket, [batch] rows) of the batch with this number, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        made = self._made
        if epoch != made[0]:
            made = self._made = self._make(epoch)
        _, orders, (whiches, numbers) = made
        which, first = whiches[place], int(numbers[place]) * self.batch
        return self.buckets[which], orders[which][first : first + self.batch]

    def _make(self, epoch: int) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
        """A row takes the four bytes that it has in its bucket: the same draws as of any other type."""
        orders = [
            draws(self.seed, self.name, epoch, str(bucket)).permutation(np.asarray(bucket.rows))
            for bucket in self.buckets
        ]
        counts = [len(order) // self.batch for order in orders]
        which = np.repeat(np.arange(len(orders), dtype=np.int32), counts)
        first = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        turn = draws(self.seed, self.name, epoch).permutation(np.arange(len(which), dtype=np.int32))
        return epoch, orders, [which[turn], first[turn]]


def _clips(count: int) -> str:
    return "clip" if count == 1 else "clips"
