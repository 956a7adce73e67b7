"""Shot detectors: three PySceneDetect detectors at three frame rates propose cuts; `transitions` classifies them.

The cascade is that of Stable Video Diffusion (Blattmann et al. 2023, appendix C): a cut is visible
between adjacent frames, a dissolve or a fade only between frames further apart. The kind of a change and its bounds are
determined afterwards, on a thumb of every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from scenedetect import FrameTimecode, SceneDetector

from curate.observers.transitions import Transition, transitions

__all__ = [
    "DETECTORS",
    "CascadeShots",
    "ContentChange",
    "Shot",
    "SingleShot",
    "TransNetShots",
    "Transition",
    "frame_rate",
]


@dataclass(frozen=True)
class Shot:
    """Positions [start, end) in the unit's sequence of frames."""

    start: int
    end: int


class ContentChange(SceneDetector):
    """PySceneDetect's content score on HSV pictures: mean absolute difference of hue, saturation and value, 0..255.

    Emits each frame whose score against the last one is at least `threshold`."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.score = threshold, 0.0
        self.last: np.ndarray | None = None

    def process_frame(self, timecode: FrameTimecode, frame_img: np.ndarray) -> list[FrameTimecode]:
        last, self.last = self.last, frame_img
        self.score = 0.0 if last is None else cv2.norm(frame_img, last, cv2.NORM_L1) / frame_img.size
        return [timecode] if self.score >= self.threshold else []


NO_TIME = FrameTimecode(0, 25.0)  # required by PySceneDetect, not used


class CascadeShots:
    """Observer: shots without the frames of the transitions between them.

    rates: frames a second of each detector, 0: every frame. thresholds: content scores, low because proposals are
    classified afterwards. jumps: whether cuts within a scene bound shots too.
    """

    def __init__(
        self,
        *,
        rates: Sequence[float] = (0, 5, 1.5),
        thresholds: Sequence[float] = (6, 6, 8),
        jumps: bool = True,
    ) -> None:
        self.jumps = jumps
        self.gaps = [1 / rate if rate > 0 else 0.0 for rate in rates]
        self.detectors = [ContentChange(threshold) for threshold in thresholds]
        self.last_times = [-np.inf] * len(self.gaps)  # of the last frame that each detector processed
        self.last_positions = [0] * len(self.gaps)
        self.proposed: list[tuple[int, int]] = []  # (last frame before, frame after) a change
        self.jumped = False
        self.thumbs: list[np.ndarray] = []
        self.times: list[float] = []
        self.transitions: list[Transition] = []

    def see(self, frame: Any) -> None:
        position, time = len(self.thumbs), frame.time
        self.thumbs.append(frame.thumb)
        self.times.append(time)
        hsv = cv2.cvtColor(frame.thumb, cv2.COLOR_RGB2HSV)
        self.jumped = False
        for i, (gap, detector) in enumerate(zip(self.gaps, self.detectors, strict=True)):
            if time - self.last_times[i] < gap * 0.999:
                continue
            before = detector.score
            if detector.process_frame(NO_TIME, hsv):
                if gap == 0:
                    self.jumped = detector.score > 1.3 * before  # fast motion scores as high one frame earlier
                self.proposed.append((self.last_positions[i], position))
            self.last_times[i], self.last_positions[i] = time, position

    def finish(self) -> list[Shot]:
        n = len(self.thumbs)
        if not n:
            return []
        wanted = np.zeros(n, bool)
        for first, last in self.proposed:
            wanted[first : last + 1] = True
        self.transitions = transitions(np.stack(self.thumbs), frame_rate(self.times), wanted, jumps=self.jumps)
        return shots_between(self.transitions, n)


class TransNetShots:
    """Observer: shots by TransNetV2, which marks the frames of transitions. The network is loaded in `finish`.

    threshold: least probability of a frame in a transition. jump: least difference of thumbs, 0..255, that sets `jumped`.
    jumps: ValueError for False, since it does not distinguish cuts within a scene.
    """

    def __init__(self, *, threshold: float = 0.5, jump: float = 15.0, jumps: bool = True) -> None:
        if not jumps:
            raise ValueError("shots.jumps: false needs shots.detector: cascade; transnetv2 cannot tell jumps from cuts")
        self.threshold, self.jump = threshold, jump
        self.jumped = False
        self.thumbs: list[np.ndarray] = []
        self.transitions: list[Transition] = []

    def see(self, frame: Any) -> None:
        thumb = frame.thumb
        last = self.thumbs[-1] if self.thumbs else thumb
        self.jumped = cv2.norm(thumb, last, cv2.NORM_L1) / thumb.size >= self.jump
        self.thumbs.append(thumb)

    def finish(self) -> list[Shot]:
        if not self.thumbs:
            return []
        thumbs = np.stack(self.thumbs)
        middle, every = _transnet().probabilities(thumbs).T
        steps = np.r_[0, np.abs(np.diff(thumbs.astype(np.float32), axis=0)).mean((1, 2, 3))]
        marked = np.flatnonzero((middle > self.threshold) | (every > self.threshold))
        for run in np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1):
            if not len(run):
                continue
            first, last = int(run[0]), int(run[-1]) + 1
            # At a hard cut it marks the last frame of the old shot, sometimes also the first of the new one.
            near = steps[first : last + 1]
            if last - first <= 3 and near.max() > 0.7 * near.sum():
                first = last = first + int(near.argmax())
            self.transitions.append(Transition(first, last, "cut" if first == last else "gradual"))
        return shots_between(self.transitions, len(thumbs))


class SingleShot:
    """Observer: the file, or the unit of a long one, is one shot: for footage that is cut already. `jumps` has no effect."""

    jumped = False

    def __init__(self, *, jumps: bool = True) -> None:
        self.frames = 0
        self.transitions: list[Transition] = []

    def see(self, frame: Any) -> None:
        self.frames += 1

    def finish(self) -> list[Shot]:
        return [Shot(0, self.frames)] if self.frames else []


DETECTORS = {"cascade": CascadeShots, "transnetv2": TransNetShots, "whole": SingleShot}


def frame_rate(times: Sequence[float]) -> float:
    """Frames a second: the inverse of the median step between the frames' times; the header is not used."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return 1 / step if step > 0 else 25.0


@lru_cache(maxsize=1)
def _transnet() -> Any:
    from curate.models.transnet import TransNet

    return TransNet()


def shots_between(transitions: Sequence[Transition], frames: int) -> list[Shot]:
    """The shots between the transitions, which are in order; one shot of all frames where there are none."""
    edges = [0] + [x for q in transitions for x in (q.start, q.end)] + [frames]
    shots = [Shot(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
    return shots or [Shot(0, frames)]
