"""What a source list says now of a video that is recorded, whose spans are the same ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from curate.clip import Listed, Unit, Video

__all__ = ["apply_list", "bounds"]


def bounds(span: Listed) -> tuple[Any, ...]:
    """The identity of a span: its bounds, without captions and columns."""
    return span.start, span.end, span.start_frame, span.end_frame, span.problem


def apply_list(unit: Unit, now: Video) -> None:
    """Update a recorded unit and its clips from the current list, whose spans are the recorded ones in any order."""
    recorded = {bounds(span): span for span in unit.video.spans}
    spans = [replace(span, frames=recorded[bounds(span)].frames) for span in now.spans] or unit.video.spans
    unit.video = replace(now, video_id=unit.video.video_id, spans=spans)
    if not now.spans or any(span.frames is None for span in spans):
        return
    clips = {(clip.start_frame, clip.end_frame): clip for clip in unit.clips if clip.bounds == "list"}
    for clip in clips.values():
        clip.captions, clip.columns = [], {}
    for span in spans:
        for place in pairwise(span.frames):
            clip = clips[place]
            clip.captions = [*clip.captions, *span.captions]
            clip.columns = {**span.columns, **clip.columns}
