"""Motion, measured while the frames go by: dense optical flow between frames half a second apart.

The score is that of Stable Video Diffusion (Blattmann et al. 2023, appendix C): Farneback flow between frames sampled
at 2 fps, the flow map reduced to 16 px on its shorter side, the mean magnitude over time and space. It is expressed as
percent of the picture's shorter side per second, so that it does not depend on resolution or frame rate. Two things
are ours: faint pictures are strengthened first, and a pan too fast for Farneback starts from a phase correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from curate.clip import TOO_SHORT, Clip, Column

__all__ = ["FlowMotion", "Sample", "camera", "flow"]

FARNEBACK = "OpenCV Farneback flow at 2 fps; Blattmann et al. 2023, appendix C"
MAP = 16  # shorter side of the reduced flow map, px


@dataclass(frozen=True)
class Sample:
    """Motion between two frames. first, last: their indices in the file; start, end: their presentation seconds.

    All in percent of the shorter side per second. magnitude: mean over the picture. pan: of the camera, (right, down).
    zoom: growth of the picture. residual: mean magnitude once the camera's part is taken out.
    """

    first: int
    last: int
    start: float
    end: float
    magnitude: float
    pan: tuple[float, float]
    zoom: float
    residual: float


class FlowMotion:
    """Observer: flow between frames sampled at `fps`; the first frame at or after each point of a fixed grid of times.

    size: shorter side, px, that flow is computed at (Frame.grey). A pair with a frame of another shape is left out.
    """

    columns = (
        Column(
            "motion_score",
            pa.float64(),
            "mean over pairs of frames and over the picture of |flow| / shorter side / seconds between the frames",
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
            "pairs of frames that the motion columns are the mean of: those that lie within the clip",
            "pairs",
            "0..",
        ),
    )

    def __init__(self, *, fps: float = 2.0, size: int = 96) -> None:
        self.gap, self.size = 1.0 / fps, size
        self.samples: list[Sample] = []
        self._last: tuple[int, float, np.ndarray] | None = None
        self._next = -np.inf

    def see(self, frame: Any) -> None:
        if frame.time < self._next:
            return
        # The grid is that of presentation time, not of this unit: cutting a long file elsewhere changes no sample.
        self._next = (np.floor(frame.time / self.gap + 1e-6) + 1) * self.gap - 1e-6
        last, self._last = self._last, (frame.index, frame.time, frame.grey)
        if last is None or last[2].shape != frame.grey.shape:
            return
        field = flow(last[2], frame.grey)
        scale = 100.0 / min(frame.grey.shape) / (frame.time - last[1])
        field *= scale
        pan, zoom, residual = camera(field)
        self.samples.append(
            Sample(
                last[0],
                frame.index,
                last[1],
                frame.time,
                float(np.hypot(field[..., 0], field[..., 1]).mean()),
                pan,
                zoom,
                residual,
            )
        )

    def fill(self, clips: Sequence[Clip]) -> None:
        """Write the columns of each clip: the mean of the pairs that lie in it, or null and the reason."""
        for clip in clips:
            inside = [s for s in self.samples if clip.start_frame <= s.first and s.last < clip.end_frame]
            clip.values["motion_pairs"] = len(inside)
            if inside:
                table = np.array([(s.magnitude, s.residual, *s.pan, s.zoom) for s in inside]).mean(0)
            else:
                table = [None] * 5
                clip.errors["motion"] = (
                    f"{TOO_SHORT}: no two frames {self.gap:g} s apart lie within its {clip.end_time - clip.start_time:.2f} s"
                )
            names = ("motion_score", "motion_residual", "camera_pan_x", "camera_pan_y", "camera_zoom")
            for name, value in zip(names, table, strict=True):
                clip.values[name] = None if value is None else float(value)


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[h, w] uint8 twice to the reduced flow map [16, 16 * w / h, 2] (or transposed in shape), px of the input."""
    height, width = before.shape
    scale = MAP / min(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Nothing moved where no cell of the map changed by half a level: what flow finds there is the codec's noise.
    if cv2.resize(cv2.absdiff(before, after).astype(np.float32), size, interpolation=cv2.INTER_AREA).max() < 0.5:
        return np.zeros((size[1], size[0], 2), np.float32)
    # Farneback underrates motion in faint pictures (its solver adds a constant to the contrast): show it a stronger one.
    mean, spread = (float(value[0, 0]) for value in cv2.meanStdDev(before))
    gain = min(4.0, 48.0 / max(spread, 1.0))
    if gain > 1:
        before, after = (cv2.addWeighted(grey, gain, grey, 0, 128 - gain * mean) for grey in (before, after))
    levels = int(np.clip(np.log2(min(height, width) / 12) + 1, 1, 3))
    field = np.zeros((height, width, 2), np.float32)
    field[:] = leap(before, after)
    field = cv2.calcOpticalFlowFarneback(before, after, field, 0.5, levels, 15, 2, 5, 1.1, cv2.OPTFLOW_USE_INITIAL_FLOW)
    return cv2.resize(field, size, interpolation=cv2.INTER_AREA)


def leap(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(x, y) px that the whole picture moved, where it moved as one and too far for Farneback to follow; else (0, 0).

    By phase correlation. Farneback alone loses pans beyond about an eighth of the shorter side between two frames.
    """
    width, height = before.shape[1] // 2, before.shape[0] // 2  # half size says it well enough, at a tenth of the cost
    halves = [
        cv2.resize(grey[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        for grey in (before, after)
    ]
    (x, y), response = cv2.phaseCorrelate(*halves, window(width, height))
    if response < 0.1 or np.hypot(x, y) < min(height, width) / 25 or abs(x) > 0.6 * width or abs(y) > 0.6 * height:
        return 0.0, 0.0
    # Repeating patterns and sudden lights correlate too: believe it only if the pictures agree far better for it.
    i, j = round(x), round(y)
    old = [slice(max(0, -j), height - max(0, j)), slice(max(0, -i), width - max(0, i))]
    new = [slice(max(0, j), height - max(0, -j)), slice(max(0, i), width - max(0, -i))]
    moved = cv2.norm(halves[0][old[0], old[1]], halves[1][new[0], new[1]], cv2.NORM_L1)
    stayed = cv2.norm(halves[0][new[0], new[1]], halves[1][new[0], new[1]], cv2.NORM_L1)
    return (2 * x, 2 * y) if moved < 0.6 * stayed else (0.0, 0.0)


@lru_cache(maxsize=8)
def window(width: int, height: int) -> np.ndarray:
    return cv2.createHanningWindow((width, height), cv2.CV_32F)


def camera(field: np.ndarray) -> tuple[tuple[float, float], float, float]:
    """((pan right, pan down), zoom, residual) of a flow map [h, w, 2], in the units of the flow.

    Least squares of flow = t + z * p + r * rot90(p) over the places p (in shorter sides, from the centre), repeated
    with weights 1 / (1 + (error / scale)^2) so that what moves by itself loses its say. zoom: z, the growth in percent
    a second if the flow is in percent of the shorter side a second.
    """
    x, y, sums = places(*field.shape[:2])
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
def places(h: int, w: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y of the points of a [h, w] map, in shorter sides from its centre, and the rows 1, x, y, x^2 + y^2."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    x, y = ((x - (w - 1) / 2) / min(h, w)).ravel(), ((y - (h - 1) / 2) / min(h, w)).ravel()
    return x, y, np.stack([np.ones_like(x), x, y, x * x + y * y])
