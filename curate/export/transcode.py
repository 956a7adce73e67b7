"""Clips decoded and encoded again as H.264 in mp4: where packets cannot be copied, or another form is wanted.

Frame for frame: exactly the span's frames, at their own times (a variable frame rate stays one), unless `fps` is
asked for. 8-bit 4:2:0, so that every player and trainer takes it; rotation is baked in; an odd width or height loses
its last column or row (4:2:0 has none for it, and padding would invent pixels).

Several clips of one source are cut in one pass over it, as they cost the decoding from the keyframe before each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av
import av.error

from curate.export.encode import ClipEncoder
from curate.export.span import BACK, CLOSE, FIRST_MISSING, ClipForm, Extracted, Span, frames_from, opened, plain
from curate.video.opening import printable


def transcode(path: str, spans: Sequence[Span], form: ClipForm, *, why: str = "") -> Iterator[Extracted | str]:
    """Encode the frames of each span, in their order; or the reason why it cannot be done.

    spans: of one file, all with the same origin; by their start, so that what is ready need not wait. With `form.fps`,
    at each output time k / fps the frame shown at that time, so frames are repeated or left out, and num_frames is not
    end_frame - start_frame. Raises ExtractError where the file cannot be opened.
    """
    ready: dict[int, Extracted] = {}
    problems: dict[int, str] = dict.fromkeys(range(len(spans)), "no frames")
    given = 0
    for back in BACK:
        left = {i: span for i, span in enumerate(spans) if i in problems}
        for i, made in _one_pass(path, left, back, form, why):
            if isinstance(made, str):
                problems[i] = made
            else:
                ready[i] = made
                problems.pop(i)
            while given in ready:
                yield ready.pop(given)
                given += 1
        if not problems or spans[0].origin is not None:
            break
    for i in range(given, len(spans)):
        span = spans[i]
        at = f"{printable(path)}: frames {span.start_frame} to {span.end_frame} cannot be cut"
        yield ready.pop(i) if i in ready else f"{at}: {problems[i]}"


def _one_pass(
    path: str, spans: dict[int, Span], back: float | None, form: ClipForm, why: str
) -> Iterator[tuple[int, Extracted | str]]:
    """(key, result) of each span, as soon as it is there."""
    cuts = {i: _Cut(span, form) for i, span in spans.items()}
    around = min(span.start_time for span in spans.values()), max(span.end_time for span in spans.values())
    with opened(path, threads=form.threads, max_pixels=form.max_pixels, around=around) as (source, stream):
        try:
            for index, frame, time, ends in frames_from(source, stream, list(spans.values()), back):
                for i, cut in list(cuts.items()):
                    if cut.wants(index, time):
                        cut.add(stream, frame, time, ends)
                    if cut.done:
                        yield i, cuts.pop(i).finish(why)
                if not cuts:
                    return
        except (av.error.FFmpegError, ValueError) as error:
            for i in list(cuts):
                yield i, plain(error)
            return
        for i, cut in cuts.items():
            yield i, cut.finish(why)


class _Cut:
    """One clip in the making."""

    def __init__(self, span: Span, form: ClipForm) -> None:
        self.span, self.form = span, form
        self.encoder: ClipEncoder | None = None
        self.count = 0
        self.first = self.last = 0.0
        self.done = False
        self.problem: str | None = None

    def wants(self, index: int, time: float) -> bool:
        """Whether the frame is one of the clip's; and `done` once none can follow."""
        place = self.span.place(index, time)
        self.done = place > 0
        if place == 0 and not self.count and self.span.origin is None and time > self.span.start_time + CLOSE:
            self.problem, self.done = FIRST_MISSING, True
            return False
        return place == 0

    def add(self, stream: Any, frame: av.VideoFrame, time: float, ends: float) -> None:
        if self.encoder is None:
            self.encoder, self.first = ClipEncoder(stream, self.form), time
        self.count += 1
        self.done = self.count == self.span.num_frames
        self.last = self.first + self.span.end_time - self.span.start_time if self.done else ends
        self.encoder.add(frame, time, max(self.last, time))

    def finish(self, why: str) -> Extracted | str:
        if self.problem:
            return self.problem
        if self.count != self.span.num_frames:
            return f"{self.count} of {self.span.num_frames} frames could be decoded again"
        return self.encoder.finish(self.span, self.first, self.last, why)
