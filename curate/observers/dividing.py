"""From shots to clips: shots are split at interruptions of the recording, and long ones into equal parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from curate.clip import Clip, Unit
from curate.observers.detectors import Shot
from curate.observers.observer import Observer
from curate.video.frame import Frame
from curate.video.timeline import Timeline

__all__ = ["KnownClips", "clips_of", "split_at", "transitions_of"]


def split_at(shots: Sequence[Shot], breaks: Sequence[int]) -> list[Shot]:
    """The shots, split at the positions in `breaks`, which increase."""
    found = []
    for shot in shots:
        edges = [shot.start, *(at for at in breaks if shot.start < at < shot.end), shot.end]
        found += [Shot(a, b) for a, b in pairwise(edges)]
    return found


def clips_of(
    shots: Sequence[Shot], times: Sequence[float], ends: Sequence[float], *, min_seconds: float, max_seconds: float
) -> list[Clip]:
    """Clips of at least min_seconds; shots longer than max_seconds are split into the fewest equal parts.

    times, ends: presentation seconds when each frame appears and disappears. Frames are positions in `times`: the caller
    adds the offset of its unit.
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


def transitions_of(found: Sequence[Any], timeline: Timeline) -> list[dict[str, Any]]:
    """Rows of the column `transitions`: those found between shots, and the breaks of the timeline."""
    edges = [*timeline.times, timeline.ends[-1]]
    spans = [(gap.start, gap.end, getattr(gap, "kind", None)) for gap in found]
    covered = [(start, end) for start, end, _ in spans]
    spans += [(at, at, kind) for at, kind in timeline.breaks.items() if not any(a <= at <= b for a, b in covered)]
    return [
        {"start": float(edges[a]), "end": float(edges[b]), "kind": kind}
        for a, b, kind in sorted(spans, key=lambda s: s[:2])
    ]


class KnownClips(Observer):
    """Replaces `Shots` for a unit whose clips an earlier run found: the clips stay the same.

    Frames at the bounds of clips get `jumped`, so that stills of exactly the first and last frames are kept.
    """

    name = "shots"

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.known = clips
        self.edges = {edge for clip in clips for edge in (clip.start_frame, clip.end_frame)}

    def see(self, frame: Frame) -> None:
        frame.jumped |= frame.index in self.edges

    def clips(self, timeline: Timeline) -> list[Clip]:
        """The same clips. Raises ValueError where the file has fewer frames now."""
        found = []
        for old in self.known:
            start, end = old.start_frame - timeline.first, old.end_frame - timeline.first
            if not 0 <= start < end <= len(timeline.times):
                raise ValueError(
                    f"frames {old.start_frame} to {old.end_frame}, a recorded clip, are not in the file any more: "
                    "annotate it into a new dataset"
                )
            times = float(timeline.times[start]), float(timeline.ends[end - 1])
            clip = Clip(start, end, *times, old.shot_start_time, old.shot_end_time, bounds=old.bounds)
            clip.captions, clip.columns = old.captions, old.columns
            found.append(clip)
        return found

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        """Nothing to do: the transitions are recorded already."""
