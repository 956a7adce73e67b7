"""Motion, measured during the decode: dense optical flow between frames half a second apart.

The score is that of Stable Video Diffusion (Blattmann et al. 2023, appendix C): Farneback flow between frames sampled
at 2 fps, the flow map reduced to 16 px on its shorter side, the mean magnitude over time and space. Its unit,
percent of the picture's shorter side per second, is independent of resolution and frame rate. It differs from the paper
in three points: the contrast of faint pictures is raised first, a pan too fast for Farneback is initialised by phase
correlation, and the mean over time is weighted by seconds, not by pairs.

Where frames come unevenly (screen recordings, phones in the dark) the picture at an instant is the frame shown then:
a frame that stays for seconds counts as stillness for that time, and two frames a few milliseconds apart do not count for
half a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curate.base.section import Section
from curate.clip import TOO_SHORT, Clip, Column, Unit
from curate.observers.observer import Observer
from curate.video.timeline import Timeline

__all__ = ["FlowMotion", "MotionOptions", "Sample", "camera_motion", "flow"]

FARNEBACK = "OpenCV Farneback flow at 2 fps; Blattmann et al. 2023, appendix C"
MAP = 16  # shorter side of the reduced flow map, px


@dataclass(frozen=True)
class Sample:
    """Motion between two frames. first, last: their indices in the file; start, end: their presentation seconds.

    instants: steps of the grid of times from one to the other. seconds: the divisor of the rates: end - start, or, if that
    is less than half a step of the grid, `instants` steps. All rates are in percent of the shorter side per second.
    magnitude: mean over the picture. pan: of the camera, (right, down). zoom: growth of the picture. residual: mean
    magnitude without the camera's motion.
    """

    first: int
    last: int
    start: float
    end: float
    instants: int
    seconds: float
    magnitude: float
    pan: tuple[float, float]
    zoom: float
    residual: float


class MotionOptions(Section):
    fps: float = Field(2.0, gt=0, description="flow is computed between frames sampled at this rate")
    size: int = Field(96, ge=32, description="shorter side in px that flow is computed at")


class FlowMotion(Observer):
    """Optical flow between the frames shown at a fixed grid of times, `fps` a second.

    size: shorter side, px, that flow is computed at (Frame.grey). Pairs of different shapes are skipped.
    """

    name = "motion"
    needs = ("shots",)
    Options = MotionOptions
    columns = (
        Column(
            "motion_score",
            pa.float64(),
            "mean over time and over the picture of |flow| / shorter side, between frames half a second apart; a frame that "
            "is shown for longer is stillness",
            "percent of the shorter side per second",
            "0.. (static 0)",
            FARNEBACK,
        ),
        Column(
            "motion_residual",
            pa.float64(),
            "the same after the camera's pan, zoom and roll are taken out of the flow: motion of objects",
            "percent of the shorter side per second",
            "0..",
            FARNEBACK,
        ),
        Column(
            "camera_pan_x",
            pa.float64(),
            "pan of the camera to the right (the picture moves left): similarity transform fitted robustly to the flow",
            "percent of the shorter side per second",
            "any; right is positive",
            FARNEBACK,
        ),
        Column(
            "camera_pan_y",
            pa.float64(),
            "tilt of the camera downwards (the picture moves up), as camera_pan_x",
            "percent of the shorter side per second",
            "any; down is positive",
            FARNEBACK,
        ),
        Column(
            "camera_zoom",
            pa.float64(),
            "growth of the picture, from the same fit: positive when the camera zooms in",
            "percent per second",
            "any",
            FARNEBACK,
        ),
        Column(
            "motion_pairs",
            pa.int32(),
            "pairs of frames that the motion columns are the mean of: those that lie within the clip; 0 where one frame is "
            "shown all the time",
            "pairs",
            "0..",
        ),
    )

    facts = (
        Column("motion_times", pa.list_(pa.float64()), "presentation times that the flow samples end at", "s"),
        Column(
            "motion_samples",
            pa.list_(pa.float64()),
            "mean |flow| of each pair, as motion_score, before clips are known",
            "percent of the shorter side per second",
        ),
    )

    @classmethod
    def views(cls, options: MotionOptions) -> dict[str, int]:
        return {"grey": options.size}

    def __init__(self, *, fps: float = 2.0, size: int = 96) -> None:
        self.gap, self.size = 1.0 / fps, size
        self.samples: list[Sample] = []
        self.holds: dict[int, tuple[float, float]] = {}  # index of a frame shown for longer than a step: (from, until)
        self._last: tuple[int, float, np.ndarray, int] | None = None  # index, time, grey, its instant
        self._before: Any = None  # the frame before the current one
        self._place: int | None = None  # the next instant, at _place * gap

    def see(self, frame: Any) -> None:
        before, self._before = self._before, frame
        if self._place is None:
            # On the grid of presentation time, not of this unit: other unit bounds change no sample.
            self._place = int(np.ceil(frame.time / self.gap - 1e-6))
        if before is not None:
            self._sample_until(before, frame.time)
            if frame.time - before.time > self.gap:
                self.holds[before.index] = before.time, frame.time
        if abs(frame.time - self._place * self.gap) < 1e-6:
            self._sample(frame, self._place)
            self._place += 1

    def _sample_until(self, frame: Any, time: float) -> None:
        """`frame` is shown until `time`: sample it for the instants before that."""
        last = int(np.ceil(time / self.gap - 1e-6)) - 1
        if last >= self._place:
            self._sample(frame, last)
            self._place = last + 1

    def _sample(self, frame: Any, place: int) -> None:
        """place: the last instant known so far at which it is shown."""
        last = self._last
        if last is not None and last[0] == frame.index:
            self._last = (*last[:3], place)
            return
        self._last = frame.index, frame.time, frame.grey, place
        if last is None or last[2].shape != frame.grey.shape:
            return
        field, seconds, steps = flow(last[2], frame.grey), frame.time - last[1], place - last[3]
        if seconds < self.gap / 2:
            seconds = steps * self.gap
        field *= 100.0 / min(frame.grey.shape) / seconds
        pan, zoom, residual = camera_motion(field)
        magnitude = float(np.hypot(field[..., 0], field[..., 1]).mean())
        self.samples.append(
            Sample(last[0], frame.index, last[1], frame.time, steps, seconds, magnitude, pan, zoom, residual)
        )

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        self.fill(unit.clips, timeline.end_time)
        unit.facts["motion_times"] = [sample.end for sample in self.samples]
        unit.facts["motion_samples"] = [sample.magnitude for sample in self.samples]

    def fill(self, clips: Sequence[Clip], end: float | None = None) -> None:
        """Write the columns of each clip: the mean over its time, or null and the reason.

        end: presentation seconds of the end of the last frame, if known.
        """
        if end is not None and self._before is not None and end > self._before.time:
            self._sample_until(self._before, end)
            if end - self._before.time > self.gap:
                self.holds[self._before.index] = self._before.time, end
        for clip in clips:
            inside = [s for s in self.samples if clip.start_frame <= s.first and s.last < clip.end_frame]
            clip.values["motion_pairs"] = len(inside)
            seconds = self._seconds(clip, inside)
            if seconds > 0:
                moved = np.zeros(5)
                for s in inside:
                    moved += s.seconds * np.array((s.magnitude, s.residual, *s.pan, s.zoom))
                table = moved / seconds
            else:
                table = [None] * 5
                clip.errors["motion"] = (
                    f"{TOO_SHORT}: no two frames {self.gap:g} s apart lie within its {clip.end_time - clip.start_time:.2f} s"
                )
            names = ("motion_score", "motion_residual", "camera_pan_x", "camera_pan_y", "camera_zoom")
            for name, value in zip(names, table, strict=True):
                clip.values[name] = None if value is None else float(value)

    def _seconds(self, clip: Clip, inside: list[Sample]) -> float:
        """Duration that the clip's samples cover, s; 0 where there are none.

        Includes the rest of the clip where its last frame is held longer than usual.
        """
        if not inside:
            own = (hold for index, hold in self.holds.items() if clip.start_frame <= index < clip.end_frame)
            held = max((min(until, clip.end_time) - start for start, until in own), default=0.0)
            return held if held > 2 * self.gap else 0.0
        start, until = self.holds.get(inside[-1].last, (0.0, 0.0))
        held = min(until, clip.end_time) - start
        usual = float(np.median([s.end - s.start for s in inside]))
        between = sum(s.end - s.start for s in inside)
        if between < self.gap / 2:
            between = sum(s.instants for s in inside) * self.gap
        return between + (held - usual if held > 1.5 * usual else 0.0)


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[h, w] uint8 twice to the reduced flow map [16, 16 * w / h, 2] (or transposed in shape), px of the input."""
    height, width = before.shape
    scale = MAP / min(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # If no cell of the map changed by half a level, nothing moved: flow would measure the codec's noise.
    if cv2.resize(cv2.absdiff(before, after).astype(np.float32), size, interpolation=cv2.INTER_AREA).max() < 0.5:
        return np.zeros((size[1], size[0], 2), np.float32)
    # Farneback underestimates motion at low contrast (its solver adds a constant to it): raise the contrast.
    mean, spread = (float(value[0, 0]) for value in cv2.meanStdDev(before))
    gain = min(4.0, 48.0 / max(spread, 1.0))
    if gain > 1:
        before, after = (cv2.addWeighted(grey, gain, grey, 0, 128 - gain * mean) for grey in (before, after))
    levels = int(np.clip(np.log2(min(height, width) / 12) + 1, 1, 3))
    field = np.zeros((height, width, 2), np.float32)
    field[:] = global_shift(before, after)
    field = cv2.calcOpticalFlowFarneback(before, after, field, 0.5, levels, 15, 2, 5, 1.1, cv2.OPTFLOW_USE_INITIAL_FLOW)
    return cv2.resize(field, size, interpolation=cv2.INTER_AREA)


def global_shift(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(x, y) px of a translation of the whole picture that is too large for Farneback; else (0, 0).

    By phase correlation. Farneback alone fails beyond about an eighth of the shorter side between two frames.
    """
    width, height = before.shape[1] // 2, before.shape[0] // 2  # half size is accurate enough, at a tenth of the cost
    halves = [
        cv2.resize(grey[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        for grey in (before, after)
    ]
    # On copies: OpenCV multiplies its window into the input in place for some sizes.
    (x, y), response = cv2.phaseCorrelate(*(half.copy() for half in halves), window(width, height))
    if response < 0.1 or np.hypot(x, y) < min(height, width) / 25 or abs(x) > 0.6 * width or abs(y) > 0.6 * height:
        return 0.0, 0.0
    # Repeating patterns and flashes correlate too: accept only if the shifted pictures agree far better.
    i, j = round(x), round(y)
    old = [slice(max(0, -j), height - max(0, j)), slice(max(0, -i), width - max(0, i))]
    new = [slice(max(0, j), height - max(0, -j)), slice(max(0, i), width - max(0, -i))]
    moved = cv2.norm(halves[0][old[0], old[1]], halves[1][new[0], new[1]], cv2.NORM_L1)
    stayed = cv2.norm(halves[0][new[0], new[1]], halves[1][new[0], new[1]], cv2.NORM_L1)
    return (2 * x, 2 * y) if moved < 0.6 * stayed else (0.0, 0.0)


@lru_cache(maxsize=8)
def window(width: int, height: int) -> np.ndarray:
    return cv2.createHanningWindow((width, height), cv2.CV_32F)


def camera_motion(field: np.ndarray) -> tuple[tuple[float, float], float, float]:
    """((pan right, pan down), zoom, residual) of a flow map [h, w, 2], in the units of the flow.

    Least squares of flow = t + z * p + r * rot90(p) over the places p (in shorter sides, from the centre), repeated
    with weights 1 / (1 + (error / scale)^2), so that moving objects count little. zoom: z, the growth in percent
    a second if the flow is in percent of the shorter side a second.
    """
    x, y, sums = grid_coordinates(*field.shape[:2])
    u, v = (field[..., i].ravel().astype(np.float64) for i in (0, 1))
    targets = np.stack([u, v, x * u + y * v, x * v - y * u])
    weight = np.ones(len(x))
    for _ in range(4):
        n, sx, sy, sr = sums @ weight
        normal = np.array([[n, 0, sx, -sy], [0, n, sy, sx], [sx, sy, sr, 0], [-sy, sx, 0, sr]])
        tx, ty, zoom, roll = np.linalg.solve(normal + 1e-9 * np.eye(4), targets @ weight)
        distance = np.hypot(u - (tx + zoom * x - roll * y), v - (ty + zoom * y + roll * x))
        scale = max(1.5 * float(np.partition(distance, len(distance) // 2)[len(distance) // 2]), 1e-3)
        weight = 1 / (1 + (distance / scale) ** 2)
    return (-float(tx), -float(ty)), float(zoom), float(distance.mean())


@lru_cache(maxsize=8)
def grid_coordinates(h: int, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y of the points of a [h, w] map, in shorter sides from its centre, and the rows 1, x, y, x^2 + y^2."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    x, y = ((x - (w - 1) / 2) / min(h, w)).ravel(), ((y - (h - 1) / 2) / min(h, w)).ravel()
    return x, y, np.stack([np.ones_like(x), x, y, x * x + y * y])
