"""Changes of a source list since a video was recorded: other spans mean other clips, other captions the same clips."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from curate.clip import Listed, Unit, Video

__all__ = ["apply_list", "bounds", "list_changed", "spans_changed"]


def bounds(span: Listed) -> tuple[Any, ...]:
    """The identity of a span: its bounds, without captions and columns."""
    return span.start, span.end, span.start_frame, span.end_frame, span.problem


def spans_changed(now: Video, recorded: Video) -> bool:
    """Whether the list names other spans than recorded, so that the clips have to be found again."""
    if not now.spans:
        return False
    was, are = {bounds(span) for span in recorded.spans}, {bounds(span) for span in now.spans}
    # Without recorded clips of a span, its captions cannot be updated.
    unplaced = any(span.frames is None for span in recorded.spans)
    return was != are or (unplaced and _texts(now) != _texts(recorded))


def list_changed(now: Video, recorded: Video) -> bool:
    """Whether the list has other captions or columns of the video, or of its spans, than recorded."""
    spans = bool(now.spans) and _texts(now) != _texts(recorded)
    return spans or (now.captions, now.columns) != (recorded.captions, recorded.columns)


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


def _texts(video: Video) -> list[tuple[Any, ...]]:
    return [(bounds(span), span.captions, span.columns) for span in video.spans]
