"""Shot detectors: while frames go by, three PySceneDetect detectors at three frame rates propose; `transitions` decides.

The cascade is that of Stable Video Diffusion (Blattmann et al. 2023, appendix C): a cut shows from one frame to the
next, a dissolve or a fade only between frames that lie further apart. A detector cannot say what a change is, nor where
it begins and ends; that is decided afterwards, on thumbs kept of every frame.
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

__all__ = ["DETECTORS", "CascadeShots", "Change", "Shot", "TransNetShots", "Transition", "WholeShot", "rate_of"]


@dataclass(frozen=True)
class Shot:
    """Positions [start, end) in the sequence of frames seen."""

    start: int
    end: int


class Change(SceneDetector):
    """PySceneDetect's content score on a picture that is in HSV already: mean of the absolute differences of hue,
    saturation and value (0..255). Emits the time of every frame that differs by `threshold` from the one before."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.score = threshold, 0.0
        self.last: np.ndarray | None = None

    def process_frame(self, timecode: FrameTimecode, frame_img: np.ndarray) -> list[FrameTimecode]:
        last, self.last = self.last, frame_img
        self.score = 0.0 if last is None else cv2.norm(frame_img, last, cv2.NORM_L1) / frame_img.size
        return [timecode] if self.score >= self.threshold else []


NO_TIME = FrameTimecode(0, 25.0)  # PySceneDetect wants a time; nothing reads it


class CascadeShots:
    """Observer: shots without the frames of the transitions between them.

    rates: frames a second at which the three detectors look, 0: every frame. thresholds: their content scores, low, since
    what they propose is judged afterwards. jumps: whether cuts within a scene bound shots too.
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
        self.detectors = [Change(threshold) for threshold in thresholds]
        self.looked = [-np.inf] * len(self.gaps)  # time of the last frame each detector was shown
        self.seen_at = [0] * len(self.gaps)  # and its position
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
            if time - self.looked[i] < gap * 0.999:
                continue
            before = detector.score
            if detector.process_frame(NO_TIME, hsv):
                if gap == 0:
                    self.jumped = detector.score > 1.3 * before  # motion is as fast a frame earlier
                self.proposed.append((self.seen_at[i], position))
            self.looked[i], self.seen_at[i] = time, position

    def finish(self) -> list[Shot]:
        n = len(self.thumbs)
        if not n:
            return []
        wanted = np.zeros(n, bool)
        for first, last in self.proposed:
            wanted[first : last + 1] = True
        self.transitions = transitions(np.stack(self.thumbs), rate_of(self.times), wanted, jumps=self.jumps)
        return between(self.transitions, n)


class TransNetShots:
    """Observer: the same with TransNetV2, which marks the frames of transitions. The network is loaded at the end.

    threshold: probability from which a frame belongs to a transition. For `jumped` a cheap difference is taken. jumps:
    only True, as it cannot tell cuts within a scene from others; ValueError otherwise.
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
            # Around a hard cut it marks the last frame of the old shot, at times the first of the new one too.
            near = steps[first : last + 1]
            if last - first <= 3 and near.max() > 0.7 * near.sum():
                first = last = first + int(near.argmax())
            self.transitions.append(Transition(first, last, "cut" if first == last else "gradual"))
        return between(self.transitions, len(thumbs))


class WholeShot:
    """Observer: the file, or the unit of a long one, is one shot: for footage that is cut already. Nothing is looked at,
    whatever `jumps` says."""

    jumped = False

    def __init__(self, *, jumps: bool = True) -> None:
        self.frames = 0
        self.transitions: list[Transition] = []

    def see(self, frame: Any) -> None:
        self.frames += 1

    def finish(self) -> list[Shot]:
        return [Shot(0, self.frames)] if self.frames else []


DETECTORS = {"cascade": CascadeShots, "transnetv2": TransNetShots, "whole": WholeShot}


def rate_of(times: Sequence[float]) -> float:
    """Frames a second that the frames' own times say: one over their median step. What a file claims is not asked."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return 1 / step if step > 0 else 25.0


@lru_cache(maxsize=1)
def _transnet() -> Any:
    from curate.models.transnet import TransNet

    return TransNet()


def between(transitions: Sequence[Transition], frames: int) -> list[Shot]:
    """What lies between the transitions, which are in order; the whole when nothing does."""
    edges = [0] + [x for q in transitions for x in (q.start, q.end)] + [frames]
    shots = [Shot(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
    return shots or [Shot(0, frames)]
