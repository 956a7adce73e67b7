"""Presentation times that only go forward, from those that a file gives; and where its pictures are interrupted.

Times are for people and observers. They never address a frame: that is done by its index, or by the file's own
time where the file's clock is sound (see `curate.video.reading`).
"""

from __future__ import annotations

from statistics import median

import numpy as np

__all__ = ["HOLD_SECONDS", "Clock", "interruptions", "longest_step", "rate"]

FEW = 5  # usual steps: a longer one may be an interruption
REORDERED = 16  # frames that a decoder may hold back: the most that H.264 and HEVC allow
SHORTEST, HOLD_SECONDS = 0.25, 10.0  # s: no shorter step is one; no picture is held longer within a shot


class Clock:
    """Frame by frame, in presentation order: the file's time in seconds, or None, to one that strictly increases.

    A frame without a time, with that of the last frame, or with one that is not after the last, gets the last time and
    the usual step. Where the file's clock stepped back (two recordings joined, a counter that wrapped), what follows
    keeps its own steps from there on. Where only the presentation times step back and the decoding times do not, the file
    has the former wrong (packed B-frames in AVI, a writer that ignored the reordering), and the latter are taken from
    there on, as FFmpeg does.
    offset: added to the file's times. sound: every time so far was the file's own. repaired: how many were not. turns:
    where the clock stepped back for good, s. breaks: positions of the frames where it did. decoding_from: where decoding
    times were taken first, s.
    """

    def __init__(self, usual: float, offset: float = 0.0) -> None:
        self.usual, self.offset, self.base = usual, offset, offset
        self.last: float | None = None
        self.repaired = self.count = 0
        self._given = False
        self.turns: list[float] = []
        self.breaks: list[int] = []
        self._steps: list[float] = []
        self._shown: float | None = None  # the file's last time
        self._decoding: float | None = None
        self._forward = REORDERED  # frames since decoding times were missing or stepped back
        self.decoding_from: float | None = None

    @property
    def sound(self) -> bool:
        return not self.repaired and self.decoding_from is None and self.offset == self.base

    def __call__(self, time: float | None, decoding: float | None = None) -> float:
        """time, decoding: when the file says that the frame is shown, and when the packet was due that brought it out of
        the decoder, s."""
        time, last = self._own(time, decoding), self.last
        if last is None:
            shown_at = self.offset if time is None else time + self.offset
            self.repaired += time is None
        elif time is None:
            shown_at, self.repaired = last + self.usual, self.repaired + 1
        else:
            shown_at = time + self.offset
            if (
                shown_at <= last and self._shown is not None and time >= self._shown
            ):  # only what was guessed is ahead of it
                shown_at, self.repaired = last + self.usual, self.repaired + 1
            elif (
                shown_at <= last
            ):  # back on the first clock, after a single frame that was out of order; or a clock anew
                self.repaired += 1
                shown_at = last + self.usual
                self.offset = shown_at - time
                if self._given:  # else the first frames had no time, and this is where the clock begins
                    self.turns.append(shown_at)
                    self.breaks.append(self.count)
            elif self.offset != self.base:
                first = time + self.base
                if last < first <= last + FEW * self.usual:
                    self.offset, shown_at = self.base, first
                    del self.turns[-1:], self.breaks[-1:]
                else:
                    self.repaired += 1
        if last is not None:
            self._learn(shown_at - last)
        self.last, self._given = shown_at, self._given or time is not None
        self._shown = self._shown if time is None else time
        self.count += 1
        return shown_at

    def _own(self, time: float | None, decoding: float | None) -> float | None:
        """Which of the file's two times holds."""
        back = decoding is None or (self._decoding is not None and decoding < self._decoding)
        self._forward, self._decoding = 0 if back else self._forward + 1, decoding
        if self.decoding_from is not None:
            return decoding
        step_back = 0.0 if time is None or self._shown is None else self._shown - time
        if not 0 < step_back <= REORDERED * self.usual or self._forward < REORDERED:
            return time
        self.decoding_from = self.last + self.usual
        self.offset = self.base = self.decoding_from - decoding
        return decoding

    def _learn(self, step: float) -> None:
        """The usual step is the median of the first few: a header may be far off."""
        if len(self._steps) < 25:
            self._steps.append(step)
            self.usual = median(self._steps)


def longest_step(usual: float) -> float:
    """Seconds between two frames from which pictures may be missing between them. usual: step of the footage, s."""
    return max(SHORTEST, FEW * usual)


def interruptions(times: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Positions [K] of the frames before which pictures are missing: the clock jumped, the recording was paused.

    times [N]: presentation seconds, increasing. shown [N]: how long the file says that each frame is shown, 0 where it
    does not say. A step is an interruption if it is longer than a quarter of a second, than five usual steps and than what is
    common in this footage (screen recorders store a frame only when something changes), and the frame before it is not
    said to be shown until then; and any step of more than `HOLD_SECONDS` that is not usual.
    """
    steps = np.diff(times)
    if not len(steps):
        return np.zeros(0, int)
    usual = float(np.median(steps))
    common = 2.5 * float(np.quantile(steps, 0.95)) if len(steps) >= 20 else 0.0
    long = steps > longest_step(usual)
    held = (shown[:-1] > 0.5 * steps) | (steps <= common)
    return np.flatnonzero(long & (~held | (steps > HOLD_SECONDS))) + 1


def rate(times: np.ndarray, breaks: np.ndarray) -> float | None:
    """Frames a second by the times of the frames, what lies across an interruption left out; None for one frame."""
    steps = np.diff(times)
    kept = np.ones(len(steps), bool)
    kept[breaks - 1] = False
    return float(kept.sum() / steps[kept].sum()) if kept.any() else None
