"""Stills, kept during the decode: first, middle and last of each clip, and the frames that a video captioner needs.

The clips are known only at the end. So reduced pictures are kept on a grid of times, and exactly on both sides of every
suspected hard cut; they are converted only if a clip needs them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curate.base.section import Section
from curate.clip import TOO_SHORT, Clip, Column, Unit
from curate.observers.observer import Observer
from curate.video.frame import Frame, Picture
from curate.video.timeline import Timeline

__all__ = ["StillOptions", "Stills", "encode_jpeg"]

RAW_BYTES = 384 * 1024 * 1024  # limit of the planes kept; further pictures are kept as JPEG, a tenth of the size
MAX_GRID_PICTURES = 4000  # beyond it every second one is dropped and the grid step doubles
EXACT_PER_SECOND = 8  # pictures beside suspected cuts: flashing footage must not fill the memory


class KeptPicture:
    """One kept picture. exact: beside a suspected cut, or an end of the unit."""

    __slots__ = ("exact", "index", "jpeg", "picture", "time")

    def __init__(self, index: int, time: float, picture: Picture, exact: bool) -> None:
        self.index, self.time, self.picture, self.exact = index, time, picture, exact
        self.jpeg: bytes | None = None


class StillOptions(Section):
    size: int = Field(360, ge=64, description="shorter side in px, at most")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality")


class Stills(Observer):
    """JPEGs of frames of each clip.

    size: shorter side at most, px (Frame.picture). quality: of JPEG, 1..100. per_second: of the grid. captioner_frames:
    evenly spaced pictures for `clip.frames`; where the grid is coarser, neighbours repeat.
    The first and last still of a clip are exactly its first and last frame where hard cuts or the file's ends bound it,
    otherwise at most one grid step inside. Stills are never outside of their clip.
    """

    name = "stills"
    needs = ("shots",)
    Options = StillOptions
    columns = (
        Column("still_first", pa.binary(), "JPEG of the clip's first frame, or the first kept frame inside it"),
        Column("still_middle", pa.binary(), "JPEG of the kept frame nearest to the middle of the clip"),
        Column("still_last", pa.binary(), "JPEG of the clip's last frame, or the last kept frame inside it"),
        Column("still_times", pa.list_(pa.float64()), "presentation times of the three stills", "s"),
    )

    def __init__(
        self,
        *,
        size: int = 360,
        quality: int = 90,
        per_second: float = 2.0,
        captioner_frames: int = 0,
    ) -> None:
        self.size, self.quality, self.captioner_frames = size, quality, captioner_frames
        self.gap = 1.0 / (max(per_second, 4.0) if captioner_frames else per_second)
        self.kept: list[KeptPicture] = []
        self._next = -np.inf
        self._before: Any = None  # the frame before this one: the last of its shot, if this one starts a new shot
        self._raw = 0
        self._exact: list[float] = []

    @classmethod
    def views(cls, options: StillOptions) -> dict[str, int]:
        return {"picture": options.size}

    @classmethod
    def create(cls, options: StillOptions, unit: Unit, frames: int) -> Stills:
        return cls(**cls.arguments(options), captioner_frames=frames)

    def see(self, frame: Frame) -> None:
        before, self._before = self._before, frame
        if frame.jumped and before is not None and self._may_keep_exactly(frame.time):
            self._keep(before, exact=True)
            self._keep(frame, exact=True)
        elif before is None:
            self._keep(frame, exact=True)
        if frame.time >= self._next:
            self._keep(frame, exact=False)
            self._next = (np.floor(frame.time / self.gap + 1e-6) + 1) * self.gap - 1e-6
            if len(self.kept) > MAX_GRID_PICTURES:
                self._thin()

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        self.fill(unit.clips)

    def fill(self, clips: Sequence[Clip]) -> None:
        """Write the columns and `frames` of each clip; null and the reason where no picture was kept inside it."""
        if self._before is not None:
            self._keep(self._before, exact=True)
            self._before = None
        places = [kept.index for kept in self.kept]
        for clip in clips:
            inside = self.kept[
                bisect.bisect_left(places, clip.start_frame) : bisect.bisect_left(places, clip.end_frame)
            ]
            names = ("still_first", "still_middle", "still_last")
            if not inside:
                clip.values.update(dict.fromkeys((*names, "still_times")))
                clip.errors["stills"] = f"{TOO_SHORT}: no picture was kept within its {clip.num_frames} frames"
                continue
            chosen = [inside[0], nearest(inside, (clip.start_frame + clip.end_frame - 1) / 2), inside[-1]]
            for name, kept in zip(names, chosen, strict=True):
                clip.values[name] = self._jpeg(kept)
            clip.values["still_times"] = [kept.time for kept in chosen]
            if self.captioner_frames:
                spots = np.linspace(clip.start_frame, clip.end_frame - 1, self.captioner_frames)
                clip.frames = [self._jpeg(nearest(inside, spot)) for spot in spots]

    def _keep(self, frame: Any, exact: bool) -> None:
        for kept in self.kept[-2:]:
            if kept.index == frame.index:
                kept.exact |= exact
                return
        kept = KeptPicture(frame.index, frame.time, frame.reduced(), exact)
        if self._raw > RAW_BYTES:
            self._jpeg(kept)
            kept.picture = None
        else:
            self._raw += kept.picture.nbytes
        at = len(self.kept)
        while at and self.kept[at - 1].index > kept.index:
            at -= 1
        self.kept.insert(at, kept)

    def _may_keep_exactly(self, time: float) -> bool:
        self._exact = [past for past in self._exact if past > time - 1.0]
        if len(self._exact) >= EXACT_PER_SECOND:
            return False
        self._exact += [time, time]
        return True

    def _thin(self) -> None:
        grid = [kept for kept in self.kept if not kept.exact]
        if len(grid) > MAX_GRID_PICTURES // 2:
            drop = {id(kept) for kept in grid[1::2]}
            self.kept = [kept for kept in self.kept if id(kept) not in drop]
            self._raw = sum(kept.picture.nbytes for kept in self.kept if kept.picture)
            self.gap *= 2

    def _jpeg(self, kept: KeptPicture) -> bytes:
        if kept.jpeg is None:
            kept.jpeg = encode_jpeg(kept.picture.rgb(), self.quality)
        return kept.jpeg


def nearest(kept: Sequence[KeptPicture], index: float) -> KeptPicture:
    return min(kept, key=lambda one: abs(one.index - index))


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """JPEG of a picture [h, w, 3] uint8 RGB."""
    done, buffer = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {rgb.shape} could not be encoded as JPEG")
    return buffer.tobytes()
