"""Strictly increasing presentation times from those of a file, and where its pictures are interrupted.

Frames are never addressed by these times, but by their index, or by the file's own time if the file's clock is sound (see
`curate.video.reading`).
"""

from __future__ import annotations

from statistics import median

import numpy as np

__all__ = ["HOLD_SECONDS", "Clock", "interruptions", "longest_step", "rate"]

FEW = 5  # usual steps: a longer one may be an interruption
REORDERED = 16  # frames that a decoder may reorder: the maximum of H.264 and HEVC
SHORTEST, HOLD_SECONDS = 0.25, 10.0  # s: shorter steps are no interruption; longer ones always are


class Clock:
    """Maps the file's time of each frame in presentation order, s or None, to one that strictly increases.

    A frame without a time, or with one that is not after the last frame's, gets the last time plus the usual step. After
    the file's clock stepped back (joined recordings, a counter that wrapped), the file's steps continue from there. If
    presentation times step back and decoding times do not, the file's presentation times are wrong (packed B-frames in
    AVI, a writer that ignored the reordering), and decoding times are used from there on, as in FFmpeg.
    offset: added to the file's times. sound: every time so far was the file's own. repaired: how many were not. turns:
    times at which the clock stepped back for good, s. breaks: positions of these frames. decoding_from: time from which
    decoding times are used, s.
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
        """time, decoding: the frame's presentation time, and the decoding time of the packet that output it, s."""
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
            ):  # only a guessed time is ahead of it
                shown_at, self.repaired = last + self.usual, self.repaired + 1
            elif shown_at <= last:  # back on the first clock after one frame out of order, or a new clock
                self.repaired += 1
                shown_at = last + self.usual
                self.offset = shown_at - time
                if self._given:  # else the first frames had no time, and the clock begins here
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
        """The one of the file's two times that is used."""
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
        """Update the usual step, the median of the first 25; headers are unreliable."""
        if len(self._steps) < 25:
            self._steps.append(step)
            self.usual = median(self._steps)


def longest_step(usual: float) -> float:
    """Longest step between two frames, s, beyond which pictures may be missing. usual: step of the footage, s."""
    return max(SHORTEST, FEW * usual)


def interruptions(times: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Positions [K] of the frames before which pictures are missing: the clock jumped, the recording was paused.

    times [N]: presentation seconds, increasing. shown [N]: duration of each frame by the file, 0 if unknown. A step is an
    interruption if it is longer than a quarter of a second, than five usual steps and than is common in this footage (screen
    recorders store a frame only when something changes), and the duration of the frame before it does not cover it; or if it
    is longer than `HOLD_SECONDS` and not usual.
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
    """Frames a second by the times of the frames, without interruptions; None for one frame."""
    steps = np.diff(times)
    kept = np.ones(len(steps), bool)
    kept[breaks - 1] = False
    return float(kept.sum() / steps[kept].sum()) if kept.any() else None
