"""From shots to clips: shots end where the recording was interrupted, and long ones are divided."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from curate.clip import Clip
from curate.observers.shots import Shot

__all__ = ["KnownClips", "clips_of", "frame_ends", "parted"]


def frame_ends(times: np.ndarray, gaps: np.ndarray, end_time: float) -> np.ndarray:
    """When each frame is no longer shown, s [N]: when the next one is, or after the usual step where pictures are missing.

    times [N]: presentation seconds. gaps: positions of the frames after an interruption. end_time: of the last frame.
    """
    ends = np.r_[times[1:], end_time]
    if len(gaps):
        ends[gaps - 1] = times[gaps - 1] + float(np.median(np.delete(np.diff(times), gaps - 1)))
    return ends


def parted(shots: Sequence[Shot], breaks: Sequence[int]) -> list[Shot]:
    """The shots, each divided at the positions in `breaks` (increasing) that lie within it."""
    found = []
    for shot in shots:
        edges = [shot.start, *(at for at in breaks if shot.start < at < shot.end), shot.end]
        found += [Shot(a, b) for a, b in pairwise(edges)]
    return found


def clips_of(
    shots: Sequence[Shot], times: Sequence[float], ends: Sequence[float], *, min_seconds: float, max_seconds: float
) -> list[Clip]:
    """Clips of at least min_seconds; shots longer than max_seconds are divided evenly in time, into as few parts as will do.

    times, ends: presentation seconds from and until which every frame seen is shown. Frames are counted as in `times`:
    the caller adds the offset of its unit.
    """
    clips = []
    for shot in shots:
        began, ended = float(times[shot.start]), float(ends[shot.end - 1])
        seconds = ended - began
        if seconds < min_seconds - 1e-6:
            continue
        parts = max(1, int(np.ceil(seconds / max_seconds - 1e-6)))
        edges = [*times[shot.start : shot.end], ended]
        places = np.interp([began + seconds * i / parts for i in range(parts + 1)], edges, range(len(edges)))
        bounds = [shot.start + round(place) for place in np.round(places, 6)]
        for a, b in pairwise(bounds):
            if b > a:
                clips.append(Clip(a, b, float(times[a]), float(ends[b - 1]), began, ended))
    return clips


class KnownClips:
    """Observer in the place of a shot detector, for a unit whose clips were found in an earlier run: they stay what they are.

    clips: as they were stored. first: frames of the file before the unit. jumped: a clip begins or ends with this frame,
    so that stills are kept of exactly the first and the last frames.
    """

    def __init__(self, clips: Sequence[Clip], first: int) -> None:
        self.clips, self.first, self.seen, self.jumped = clips, first, 0, False
        self.edges = {edge - first for clip in clips for edge in (clip.start_frame, clip.end_frame)}
        self.transitions: list[Any] = []

    def see(self, frame: Any) -> None:
        self.jumped = self.seen in self.edges
        self.seen += 1

    def found(self, times: Sequence[float], ends: Sequence[float]) -> list[Clip]:
        """The clips, with frames counted as in `times`. Raises ValueError where the file has fewer frames now."""
        found = []
        for old in self.clips:
            start, end = old.start_frame - self.first, old.end_frame - self.first
            if not 0 <= start < end <= len(times):
                raise ValueError(
                    f"frames {old.start_frame} to {old.end_frame}, a recorded clip, are not in the file any more: "
                    "annotate it into a new dataset"
                )
            shot = old.shot_start_time, old.shot_end_time
            clip = Clip(start, end, float(times[start]), float(ends[end - 1]), *shot, bounds=old.bounds)
            clip.captions, clip.columns = old.captions, old.columns
            found.append(clip)
        return found
