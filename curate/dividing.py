"""From shots to clips: shots end where the recording was interrupted, and long ones are divided."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from curate.clip import Clip
from curate.shots import Shot

__all__ = ["clips_of", "frame_ends", "parted"]


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
