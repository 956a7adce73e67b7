"""Which frames of a clip are taken: those nearest in time to what is asked for.

A clip is thinned first: kept are the frames nearest to 0, 1/r, 2/r ... s after its first one, for each rate r that is
wanted of it; all, for a rate of its own or above. A window at rate r is some of those in a row that are nearest to the same
times. So of 30 frames/s, 8 frames/s are the frames 0, 4, 8, 11, 15, 19 ...: of two frames as near the later one is taken,
and no frame twice. Times are those at which the decoder shows the frames. What is drawn, a rate and a place, depends on the
index alone (number of frames, mean rate), so that it is known before anything is decoded; a clip of uneven frames whose
window would go past its end gives its last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from video_model.errors import DataError

Rates = Sequence[float] | Mapping[str, float]  # a list to choose from, or {"min": 4, "max": 24}
Frame = TypeVar("Frame")
Numbers = Any  # [N], to be looked up

SLACK = 1e-6  # s: times that differ by less are the same
SAME = 1 - 1e-6  # a rate of at least this share of the clip's is the clip's


@dataclass(frozen=True)
class Window:
    """`length` of the frames that are kept of a clip: from the one with number `first` on of those nearest to 0, 1/rate,
    2/rate ... s after the first one. rate: None: of all that are kept."""

    first: int
    length: int
    rate: float | None = None

    def unfilled(self, count: int) -> str:
        """Why there is nothing where there are only `count` such frames."""
        at = f" at {self.rate:g} frames/s" if self.rate else ""
        return f"is too short for {self.length} frames{at} by the times of its frames, which are uneven: has {count}"


@dataclass(frozen=True)
class Stretch:
    """The frames of a clip from `start` to before `end`, thinned to `rates` (None: all), and a window of these if one is
    wanted. fps: mean of the clip; 0 where unknown."""

    start: int
    end: int
    fps: float = 0.0
    rates: tuple[float, ...] | None = None
    window: Window | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Stretch:
        """The inverse of dataclasses.asdict."""
        rates, window = values["rates"], values["window"]
        return cls(**{**values, "rates": rates and tuple(rates), "window": window and Window(**window)})


def places(times: np.ndarray, fps: float, rates: Sequence[float] | None) -> np.ndarray:
    """Which of the frames at `times` (s, ascending from 0; of a clip of `fps` frames/s) are nearest to some asked time."""
    if _all(fps, rates) or not len(times):
        return np.arange(len(times))
    middles = np.empty(len(times))
    middles[:-1] = (times[1:] + times[:-1]) / 2
    middles[-1] = times[-1] + 0.5 / fps
    taken = np.zeros(len(times), bool)
    for rate in rates:
        asked = _asked_before(middles, rate)
        taken[0] |= asked[0] > 0
        taken[1:] |= asked[1:] > asked[:-1]
    return np.flatnonzero(taken)


def thinned(
    frames: Iterable[tuple[float, Frame]], fps: float, rates: Sequence[float] | None
) -> Iterator[tuple[float, Frame]]:
    """The same of (time, frame) as they come; one is held back until the next is there."""
    if _all(fps, rates):
        yield from frames
        return
    every, done, before = np.asarray(rates), np.zeros(len(rates)), None
    for frame in frames:
        if before is not None:
            asked = _asked_before((frame[0] + before[0]) / 2, every)
            if (asked > done).any():
                yield before
            done = asked
        before = frame
    if before is not None and (_asked_before(before[0] + 0.5 / fps, every) > done).any():
        yield before


def chosen(times: np.ndarray, fps: float, window: Window) -> tuple[int, np.ndarray]:
    """(where a window begins in truth, [length] places of its frames among the kept ones at `times`); (-1, all that there
    are) where they are too few."""
    grid = places(times, fps, window.rate and (window.rate,))
    first = min(window.first, len(grid) - window.length)
    return (-1, grid) if first < 0 else (first, grid[first : first + window.length])


def rate_of(times: np.ndarray) -> float:
    """Frames a second of the frames at these times: the mean over the window. 0 for a single frame."""
    return (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 0.0


class Thinned:
    """The clips of an index, thinned: what is kept of each, told by its number of frames and mean rate alone.

    num_frames, fps: [N] arrays, or columns of an index, which are looked up row by row; fps nan where unknown: then all
    frames are kept. rates: frames/s; None: all frames. limit: most
    frames of a clip, of its middle.
    """

    def __init__(
        self, num_frames: Numbers, fps: Numbers, rates: Sequence[float] | None = None, limit: int | None = None
    ) -> None:
        self.num_frames, self.fps, self.rates, self.limit = num_frames, fps, rates and tuple(rates), limit

    def rate(self, row: int) -> float:
        """Mean frames a second; 0 where unknown."""
        fps = float(self.fps[row])
        return fps if np.isfinite(fps) and fps > 0 else 0.0

    def stretch(self, row: int) -> Stretch:
        return self._kept(row)[0]

    def count(self, row: int) -> int:
        """How many frames are kept."""
        return len(self._kept(row)[1])

    def longest(self, row: int, rates: Rates, lengths: Sequence[int]) -> int:
        """The longest of the lengths that the clip holds at one of the rates; 0 for none."""
        most = _count(*self._key(row), highest(rates))
        return max((length for length in lengths if length <= most), default=0)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """[R] int: `count` of each row."""
        return self._of_each(rows, lambda row: self.count(row))

    def longests(self, rows: np.ndarray, rates: Rates, lengths: Sequence[int]) -> np.ndarray:
        """[R] int: `longest` of each row."""
        return self._of_each(rows, lambda row: self.longest(row, rates, lengths))

    def _of_each(self, rows: np.ndarray, of: Callable[[int], int]) -> np.ndarray:
        """What depends on number of frames and mean rate alone, computed once for each pair of these."""
        if not len(rows):
            return np.zeros(0, np.int64)
        _, which = np.unique(np.asarray(self.fps[rows]), return_inverse=True)
        frames = np.asarray(self.num_frames[rows]).astype(np.int64)
        _, first, pair = np.unique(which * (frames.max() + 1) + frames, return_index=True, return_inverse=True)
        return np.array([of(int(rows[one])) for one in first], np.int64)[pair]

    def draw(self, row: int, length: int, rates: Rates, rng: np.random.Generator) -> Window:
        """A rate among those at which the clip holds so many frames (each of a list as probable as another, uniform in a
        range); then a place among all, uniform."""
        key = self._key(row)
        if isinstance(rates, Mapping):
            top = float(rates["max"])
            _, times = self._kept(row)
            least = (length - 1) / (times[-1] + 0.5 / self.rate(row))
            rate = float(rng.uniform(min(top, max(float(rates["min"]), least)), top))
            rate = rate if _count(*key, rate) >= length else top
        else:
            fitting = [float(rate) for rate in rates if _count(*key, float(rate)) >= length]
            rate = fitting[int(rng.integers(len(fitting)))]
        return Window(int(rng.integers(_count(*key, rate) - length + 1)), length, rate)

    def _key(self, row: int) -> tuple[int, float, tuple[float, ...] | None, int | None]:
        return int(self.num_frames[row]), self.rate(row), self.rates, self.limit

    def _kept(self, row: int) -> tuple[Stretch, np.ndarray]:
        return _kept(*self._key(row))


@lru_cache(maxsize=8192)
def _kept(
    num_frames: int, fps: float, rates: tuple[float, ...] | None, limit: int | None
) -> tuple[Stretch, np.ndarray]:
    """What is kept of a clip, and its times if its frames are evenly spaced."""
    times = np.arange(num_frames) / (fps or 1.0)
    rates = rates if fps else None
    found = places(times, fps, rates)
    start, end = 0, num_frames
    if limit is not None and len(found) > limit:
        found = found[:limit]
        start = (num_frames - 1 - int(found[-1])) // 2
        end = start + int(found[-1]) + 1
    return Stretch(start, end, fps, rates), times[found]


@lru_cache(maxsize=65_536)
def _count(num_frames: int, fps: float, rates: tuple[float, ...] | None, limit: int | None, rate: float) -> int:
    """How many frames a window at this rate may have at most."""
    _, times = _kept(num_frames, fps, rates, limit)
    return len(places(times, fps, (rate,))) if fps else 0


def highest(rates: Rates) -> float:
    return float(rates["max"] if isinstance(rates, Mapping) else max(rates))


def kept_for(every: Iterable[Rates]) -> tuple[float, ...] | None:
    """What clips are thinned to for all of these: each rate of a list, the highest of a range. None for none."""
    rates = {float(rate) for rates in every for rate in ([rates["max"]] if isinstance(rates, Mapping) else rates)}
    return tuple(sorted(rates)) or None


def check_rates(rates: Rates) -> None:
    """Raises DataError for what is no list of rates and no range."""
    if isinstance(rates, Mapping):
        good = set(rates) == {"min", "max"} and 0 < rates["min"] <= rates["max"]
    else:
        good = len(rates) > 0 and min(rates) > 0
    if not good:
        raise DataError(f"rates: {rates}: give frame rates > 0, as a list or as min and max")


def check_kept(rates: Rates, kept: Sequence[float] | None) -> None:
    """Raises DataError where clips are thinned to other rates than the wanted ones (a range: to lower ones)."""
    if kept is None:
        return
    wanted = [highest(rates)] if isinstance(rates, Mapping) else [float(rate) for rate in rates]
    short = [rate for rate in wanted if rate > max(kept) / SAME]
    absent = [] if isinstance(rates, Mapping) else [rate for rate in wanted if rate not in kept]
    if short or absent:
        raise DataError(
            f"rates: {', '.join(f'{rate:g}' for rate in short or absent)} frames/s are wanted, and clips are thinned to "
            f"{', '.join(f'{rate:g}' for rate in kept)}; give the cache that rate too"
        )


def shown(rates: Rates) -> str:
    """In words."""
    if isinstance(rates, Mapping):
        return f"{rates['min']:g} to {rates['max']:g}"
    return ", ".join(f"{rate:g}" for rate in rates)


def _all(fps: float, rates: Sequence[float] | None) -> bool:
    return rates is None or not fps or max(rates) >= fps * SAME


def _asked_before(middle: Any, rate: Any) -> np.ndarray:
    """How many of the times 0, 1/rate, 2/rate ... lie before `middle`; one of both may be an array."""
    return np.ceil((middle - SLACK) * rate)
