"""Work over all clips, in blocks that fit a processor's cache and on some threads: numpy lets go of the interpreter meanwhile.

A hundred million clips are a hundred blocks: nothing here makes an array as long as the dataset, but for a bit a clip.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

BLOCK = 1 << 20  # clips; a multiple of 8, so that no two blocks share a byte of a mask
PIECE = 16 << 20  # values that are sorted at once
SAMPLE = 100_000

Made = TypeVar("Made")
_pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="clips")


def spans(count: int) -> list[tuple[int, int]]:
    """[start, stop) of each block."""
    return [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def over(count: int, work: Callable[[int, int], Made]) -> list[Made]:
    """work(start, stop) of every block, on some threads; results in order."""
    found = spans(count)
    if len(found) <= 1:
        return [work(*span) for span in found]
    return list(_pool.map(lambda span: work(*span), found))


class Mask:
    """A bit a clip."""

    def __init__(self, count: int, bits: np.ndarray | None = None) -> None:
        """bits: uint8, as of numpy.packbits; those after the last clip are 0. None: all are."""
        self.count = count
        self.bits = np.zeros(-(-count // 8), np.uint8) if bits is None else bits

    @classmethod
    def of(cls, flags: np.ndarray) -> Mask:
        """Of bool [N]."""
        return cls(len(flags), np.packbits(flags))

    @classmethod
    def full(cls, count: int) -> Mask:
        return ~cls(count)

    @classmethod
    def at(cls, count: int, places: np.ndarray) -> Mask:
        """True at these places."""
        flags = np.zeros(count, bool)
        flags[places] = True
        return cls.of(flags)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> bool:
        return bool(self.bits[place >> 3] >> (7 - (place & 7)) & 1)

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.count, self.bits & other.bits)

    def __invert__(self) -> Mask:
        bits = ~self.bits
        if self.count & 7:
            bits[-1] &= 0xFF << (8 - (self.count & 7)) & 0xFF
        return Mask(self.count, bits)

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes

    def put(self, start: int, flags: np.ndarray) -> None:
        """Set the clips from `start` on, which begins a block, or is a multiple of 8."""
        self.bits[start >> 3 : (start + len(flags) + 7) >> 3] = np.packbits(flags)

    def block(self, start: int, stop: int) -> np.ndarray:
        """bool [stop - start]; start: a multiple of 8."""
        return np.unpackbits(self.bits[start >> 3 : (stop + 7) >> 3], count=stop - start).view(bool)

    def take(self, places: np.ndarray) -> np.ndarray:
        """bool, of each place."""
        return (self.bits[places >> 3] >> (7 - (places & 7)).astype(np.uint8) & 1).astype(bool)

    def flags(self) -> np.ndarray:
        """bool [N]: a byte a clip."""
        return self.block(0, self.count)

    def total(self) -> int:
        """How many are true."""
        return sum(over(self.count, lambda start, stop: int(np.count_nonzero(self.block(start, stop)))))

    def places(self) -> Iterator[np.ndarray]:
        """Where it is true, block by block."""
        for start, stop in spans(self.count):
            yield np.flatnonzero(self.block(start, stop)) + start

    def places_backwards(self) -> Iterator[np.ndarray]:
        for start, stop in reversed(spans(self.count)):
            yield np.flatnonzero(self.block(start, stop))[::-1] + start


def sliced(parts: Iterable[np.ndarray], offset: int, limit: int) -> np.ndarray:
    """[offset, offset + limit) of the parts laid end to end, of which no more are asked for than that takes."""
    found: list[np.ndarray] = []
    for part in parts:
        here = part[offset : offset + limit]
        offset, limit = max(0, offset - len(part)), limit - len(here)
        found.append(here)
        if limit <= 0:
            break
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def chosen(order: np.ndarray, mask: Mask, backwards: bool = False) -> Iterator[np.ndarray]:
    """The places in an order that a mask has, a part at a time: the first parts are short, as a page is mostly at the top."""
    at, step = 0, 1 << 12
    while at < len(order):
        stop = min(len(order), at + step)
        part = order[len(order) - stop : len(order) - at][::-1] if backwards else order[at:stop]
        yield part[mask.take(part)]
        at, step = stop, min(2 * step, BLOCK)


def shuffled(count: int, seed: int) -> Iterator[np.ndarray]:
    """All places in an order that only the seed decides, a part at a time: a Feistel network's, which needs no table."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(1, 2**63, 6, np.uint64) | np.uint64(1)
    step = 1 << 12
    at = 0
    while at < 1 << (2 * half):
        stop = min(at + step, 1 << (2 * half))
        numbers = np.arange(at, stop, dtype=np.uint64)
        left, right = numbers >> np.uint64(half), numbers & low
        for key in keys:
            mixed = (right + key) * key
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            left, right = right, left ^ (mixed >> np.uint64(32) & low)
        places = (left << np.uint64(half) | right).astype(np.int64)
        yield places[places < count]
        at, step = stop, min(2 * step, BLOCK)


def bisected(values: np.ndarray, order: np.ndarray, value: float, right: bool = False) -> int:
    """How many in the order lie below `value`, or, to its right, not above it."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        here = float(values[order[middle]])
        if here < value or (right and here == value):
            low = middle + 1
        else:
            high = middle
    return low


def ordered(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """[K] int32: indices of the values that are not NaN, lowest first, ties in order of index.

    out: to be filled, [K]. Many values are sorted in pieces between quantiles of a sample.
    """
    if len(values) <= PIECE:
        found = _ordered(np.asarray(values))
        if out is None:
            return found
        out[:] = found
        return out
    sample = values[:: max(1, len(values) // SAMPLE)]
    sample = np.asarray(sample[~np.isnan(sample)], np.float64)
    share = np.linspace(0, 1, -(-len(values) // PIECE) + 1)[1:-1]
    edges = [-np.inf, *np.unique(np.quantile(sample, share)), np.inf] if len(sample) else [-np.inf, np.inf]
    parts, at = [], 0
    for low, high in itertools.pairwise(edges):

        def inside(start: int, stop: int, low: float = low, high: float = high) -> np.ndarray:
            here = values[start:stop].astype(np.float64)
            keep = (here >= low) & (here < high) if high < np.inf else here >= low
            return (np.flatnonzero(keep) + start).astype(np.int32)

        places = np.concatenate(over(len(values), inside))
        places = places[_ordered(values[places])]
        if out is None:
            parts.append(places)
        else:
            out[at : at + len(places)] = places
            at += len(places)
    return np.concatenate(parts) if out is None else out


def _ordered(values: np.ndarray) -> np.ndarray:
    there = int(np.count_nonzero(~np.isnan(values)))
    if values.dtype != np.float32:
        return np.argsort(values, kind="stable").astype(np.int32)[:there]
    # A float's bits, flipped where it is negative, sort as the float does; with the index below them one fast sort of
    # whole numbers does it, five times faster than a stable sort of floats.
    bits = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0)).view(np.uint32)
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (bits.astype(np.uint64) << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return (keys[:there] & np.uint64(0xFFFFFFFF)).astype(np.int32)
