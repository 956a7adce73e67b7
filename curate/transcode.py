"""A clip's frames, decoded and encoded again as H.264 in mp4: where packets cannot be copied, or another form is
wanted.

Frame for frame: exactly the span's frames, at their own times (a variable frame rate stays one), unless `fps` is
asked for. 8-bit 4:2:0, so that every player and trainer takes it; rotation is baked in; an odd width or height loses
its last column or row (4:2:0 has none for it, and padding would invent pixels).
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import av.error

from curate.encode import Encoder, average
from curate.opening import MAX_PIXELS, printable
from curate.span import CLOSE, Extracted, ExtractError, Span, opened, plain

BACK = (0.0, 5.0, 1e6)  # s: how far before the clip to start decoding


def transcode(
    path: str,
    span: Span,
    *,
    size: int | None = None,
    fps: float | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    why: str = "",
) -> Extracted:
    """Encode the frames of `span`. size: shorter side in px, never enlarged, square pixels then. Raises ExtractError.

    fps: at each output time k / fps the frame shown at that time, so frames are repeated or left out, and num_frames is
    not end_frame - start_frame.
    """
    problem = "no frames"
    for back in BACK:
        with opened(path, threads=threads, max_pixels=max_pixels) as (source, stream):
            try:
                frames = _Frames(source, stream, span, back)
                encoder = Encoder(stream, size, fps, crf, preset, threads)
                for frame, time, ends in frames:
                    encoder.add(frame, time, ends)
                if frames.count == span.num_frames:
                    return encoder.finish(span, frames.first, frames.last, why)
                problem = f"{frames.count} of {span.num_frames} frames could be decoded again"
            except (av.error.FFmpegError, ValueError) as error:
                problem = plain(error)
    raise ExtractError(f"{printable(path)}: frames {span.start_frame} to {span.end_frame} cannot be cut: {problem}")


class _Frames:
    """Iterates over (frame, time, end) of a span's frames, decoding from a keyframe before it. count: how many came."""

    def __init__(self, source, stream, span: Span, back: float) -> None:
        self.source, self.stream, self.span, self.back = source, stream, span, back
        self.count = 0
        self.first = self.last = 0.0

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, float, float]]:
        """Raises ValueError where decoding began after the span's first frame."""
        start = self.stream.start_time or 0
        goal = max(start, int((self.span.start_time - self.back) / self.stream.time_base))
        if goal > start:  # from the start no seek is needed, and some containers cannot
            self.source.seek(goal, stream=self.stream, backward=True)
        held: tuple[av.VideoFrame, float] | None = None
        for frame, time in self._timed():
            if held:
                yield self._next(*held, time)
                held = None
                if self.count == self.span.num_frames:
                    return
            if time >= self.span.start_time - CLOSE:
                if not self.count and time > self.span.start_time + CLOSE:
                    raise ValueError("the clip's first frame could not be decoded again")
                held = frame, time
        if held:
            yield self._next(*held, max(self.span.end_time, held[1]))

    def _next(self, frame, time: float, ends: float):
        if not self.count:
            self.first = time
        self.count, self.last = self.count + 1, ends
        return frame, time, ends

    def _timed(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Frames with their times, repaired as the annotating pass repairs them (curate.video.Decode)."""
        usual, last = float(1 / average(self.stream)), None
        base = float(self.stream.time_base)
        for frame in self._decoded():
            pts = frame.pts if frame.pts is not None else frame.dts
            time = None if pts is None else pts * base
            if time is None or (last is not None and time <= last):
                time = 0.0 if last is None else last + usual
            last = time
            yield frame, time

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Frames, past packets that cannot be decoded; to the first place where reading fails."""
        packets = self.source.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                packet = None
            try:
                yield from self.stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                pass
            if packet is None or (packet.size == 0 and packet.pts is None):
                return
