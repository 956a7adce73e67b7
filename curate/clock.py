"""Presentation times that only go forward, from those that a file gives; and where its pictures are interrupted.

Times are told to people and to observers. They never address a frame: that is done by its index, or by the file's own
time where the file's clock is sound (see `curate.reading`).
"""

from __future__ import annotations

from statistics import median

import numpy as np

__all__ = ["HOLD_SECONDS", "Clock", "interruptions", "rate"]

FEW = 5  # usual steps: a longer one may be an interruption
SHORTEST, HOLD_SECONDS = 0.5, 10.0  # s: no shorter step is one; no picture is held longer within a shot


class Clock:
    """Frame by frame, in presentation order: the file's time in seconds, or None, to one that strictly increases.

    A frame without a time, or one that is not after the last, gets the last time and the usual step. Where the file's
    clock stepped back (two recordings joined, a counter that wrapped), what follows keeps its own steps from there on.
    offset: added to the file's times. sound: every time so far was the file's own. repaired: how many were not. turns:
    where the clock stepped back for good, s. breaks: positions of the frames where it did.
    """

    def __init__(self, usual: float, offset: float = 0.0) -> None:
        self.usual, self.offset, self.base = usual, offset, offset
        self.last: float | None = None
        self.repaired = self.count = 0
        self._file: float | None = None  # the last time that the file gave
        self.turns: list[float] = []
        self.breaks: list[int] = []
        self._steps: list[float] = []

    @property
    def sound(self) -> bool:
        return not self.repaired and self.offset == self.base

    def __call__(self, time: float | None) -> float:
        last = self.last
        if last is None:
            told = self.offset if time is None else time + self.offset
            self.repaired += time is None
        elif time is None:
            told, self.repaired = last + self.usual, self.repaired + 1
        else:
            told = time + self.offset
            if told <= last:  # back on the first clock, after a single frame that was out of order; or a clock anew
                self.repaired += 1
                told = last + self.usual
                self.offset = told - time
                if self._file is not None and time < self._file:  # not where a time is repeated, or is the first
                    self.turns.append(told)
                    self.breaks.append(self.count)
            elif self.offset != self.base:
                first = time + self.base
                if last < first <= last + FEW * self.usual:
                    self.offset, told = self.base, first
                    del self.turns[-1:], self.breaks[-1:]
                else:
                    self.repaired += 1
        if last is not None:
            self._learn(told - last)
        self.last, self._file = told, self._file if time is None else time
        self.count += 1
        return told

    def _learn(self, step: float) -> None:
        """The usual step is the median of the first few: what a header says of it may be far off."""
        if len(self._steps) < 25:
            self._steps.append(step)
            self.usual = median(self._steps)


def interruptions(times: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Positions [K] of the frames before which pictures are missing: the clock jumped, the recording was paused.

    times [N]: presentation seconds, increasing. shown [N]: how long the file says that each frame is shown, 0 where it
    does not say. A step is an interruption if it is longer than half a second, than five usual steps and than what is
    common in this footage (screen recorders store a frame only when something changes), and the frame before it is not
    said to be shown until then; and any step of more than `HOLD_SECONDS` that is not usual.
    """
    steps = np.diff(times)
    if not len(steps):
        return np.zeros(0, int)
    usual = float(np.median(steps))
    common = 2.5 * float(np.quantile(steps, 0.95)) if len(steps) >= 20 else 0.0
    long = steps > max(SHORTEST, FEW * usual)
    held = (shown[:-1] > 0.5 * steps) | (steps <= common)
    return np.flatnonzero(long & (~held | (steps > HOLD_SECONDS))) + 1


def rate(times: np.ndarray, breaks: np.ndarray) -> float | None:
    """Frames a second by the times of the frames, what lies across an interruption left out; None for one frame."""
    steps = np.diff(times)
    kept = np.ones(len(steps), bool)
    kept[breaks - 1] = False
    return float(kept.sum() / steps[kept].sum()) if kept.any() else None
