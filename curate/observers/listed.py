"""Clips that a source list names: a row with a start and an end is a clip, not divided at cuts.

Times of a list count from the first picture of the file, as in a player, even where the file's clock starts later
(transport streams, files trimmed without re-encoding). A frame belongs to a span if it appears in [start, end), compared
to the millisecond, to which lists are rounded. Spans may overlap. `shots.max_seconds` and `shots.min_seconds` do not
apply. Where the file is interrupted (its clock, or the size of its pictures) a span becomes several clips, each with its
captions. Frames outside of all spans are in no clip.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise

from curate.clip import Clip, Listed, Unit
from curate.observers.dividing import transitions_of
from curate.observers.observer import Observer
from curate.video.frame import Frame
from curate.video.timeline import Timeline

__all__ = ["ListedSpans", "clips_of_spans"]

ROUNDED = 5e-4 + 1e-9  # s: rounding of a list's times
BEYOND = 0.1  # s that a span may end after the last picture without a warning
MOST_WARNINGS = 20


class ListedSpans(Observer):
    """Replaces `Shots` where a source list names the clips; looks at no picture.

    Frames at the bounds of spans get `jumped`, so that stills of exactly the first and last frames are kept.
    """

    name = "shots"

    def __init__(self, spans: Sequence[Listed]) -> None:
        self.spans = spans
        self.times = sorted({time for span in spans for time in (span.start, span.end) if time is not None})
        self.frames = {at for span in spans for at in (span.start_frame, span.end_frame) if at is not None}
        self.seen, self.first, self.passed = 0, 0.0, 0
        self.problems: list[str] = []

    def see(self, frame: Frame) -> None:
        if not self.seen:
            self.first = frame.time
        passed = bisect.bisect_right(self.times, frame.time - self.first + ROUNDED)
        frame.jumped |= passed != self.passed or self.seen in self.frames
        self.passed, self.seen = passed, self.seen + 1

    def clips(self, timeline: Timeline) -> list[Clip]:
        clips, self.problems = clips_of_spans(self.spans, timeline.times, timeline.ends, timeline.breaks)
        return clips

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        unit.warnings = list(dict.fromkeys([*unit.warnings, *self.problems]))
        unit.facts["transitions"] = transitions_of([], timeline)


def clips_of_spans(
    spans: Sequence[Listed], times: Sequence[float], ends: Sequence[float], breaks: Mapping[int, str]
) -> tuple[list[Clip], list[str]]:
    """The clips, in order of their frames, and a warning for each span that is not exactly one clip.

    times, ends: presentation seconds from and until which each frame of the file is shown, ascending. breaks: position ->
    why no clip continues there ("gap", "size", "clock"). Spans with the same frames are one clip with the captions of
    all. Sets `frames` of each span.
    """
    times, ends = [float(time) for time in times], [float(time) for time in ends]
    found: dict[tuple[int, int], Clip] = {}
    warnings = []
    for span in spans:
        span.frames = []
        if problem := span.problem or _backwards(span):
            warnings.append(f"{span.where}: {problem}: no clip")
            continue
        first, end = _frames(span, times)
        if problem := _outside(span, times, ends[-1], first, end):
            warnings.append(f"{span.where}: {problem}")
        if first >= end:
            continue
        inside = [at for at in sorted(breaks) if first < at < end]
        if inside:
            warnings.append(f"{span.where}: {_interrupted(span, times, inside, breaks)}")
        span.frames = [first, *inside, end]
        for start, stop in pairwise(span.frames):
            began, ended = times[start], ends[stop - 1]
            clip = found.setdefault((start, stop), Clip(start, stop, began, ended, began, ended, bounds="list"))
            clip.captions += span.captions
            clip.columns = {**span.columns, **clip.columns}
    if len(warnings) > MOST_WARNINGS:
        warnings[MOST_WARNINGS:] = [
            f"and {len(warnings) - MOST_WARNINGS} other spans of the list are not, or not wholly, clips"
        ]
    return [found[bounds] for bounds in sorted(found)], warnings


def _frames(span: Listed, times: Sequence[float]) -> tuple[int, int]:
    """Positions [first, end) in the sequence of frames."""
    if span.start_frame is not None or span.end_frame is not None:
        return max(0, span.start_frame or 0), min(len(times), len(times) if span.end_frame is None else span.end_frame)
    origin = times[0] - ROUNDED
    first = 0 if span.start is None else bisect.bisect_left(times, origin + span.start)
    end = len(times) if span.end is None else bisect.bisect_left(times, origin + span.end)
    return first, end


def _name(span: Listed) -> str:
    if span.start_frame is not None or span.end_frame is not None:
        return f"frames {span.start_frame or 0} to {'the end' if span.end_frame is None else span.end_frame}"
    return f"{span.start or 0:g} to {'the end' if span.end is None else f'{span.end:g} s'}"


def _backwards(span: Listed) -> str | None:
    for start, end in ((span.start, span.end), (span.start_frame, span.end_frame)):
        if end is not None and end <= (start or 0):
            return f"the span {_name(span)} is empty: its end must be after its start"
        if start is not None and start < 0:
            return f"the span {_name(span)} begins before the file does"
    return None


def _outside(span: Listed, times: Sequence[float], end_time: float, first: int, end: int) -> str | None:
    """Warning for a span that lies partly or fully outside of the file; None for others."""
    length = end_time - times[0]
    if first >= end:
        beyond = first >= len(times)
        why = f"the file ends at {length:.2f} s, after {len(times)} frames" if beyond else "no frame begins in it"
        return f"the span {_name(span)} holds no picture ({why}): no clip"
    if (span.end or 0) > length + BEYOND or (span.end_frame or 0) > len(times):
        return f"the span {_name(span)} ends with the file, at {length:.2f} s, after {len(times)} frames"
    return None


def _interrupted(span: Listed, times: Sequence[float], inside: Sequence[int], breaks: Mapping[int, str]) -> str:
    """Warning for a span within which the file is interrupted, so that it becomes several clips."""
    why = {"gap": "pictures are missing", "size": "the size of the pictures changes", "clock": "the clock begins anew"}
    place = f"{why[breaks[inside[0]]]}, at {times[inside[0]] - times[0]:.2f} s"
    return f"within the span {_name(span)} {place}: it becomes {len(inside) + 1} clips with its captions"
