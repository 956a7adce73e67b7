"""A clip's frames, decoded and encoded again as H.264 in mp4: where packets cannot be copied, or another form is
wanted.

Frame for frame: exactly the span's frames, at their own times (a variable frame rate stays one), unless `fps` is
asked for. 8-bit 4:2:0, so that every player and trainer takes it; rotation is baked in; an odd width or height loses
its last column or row (4:2:0 has none for it, and padding would invent pixels).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import av.filter

from curate.extract import CLOSE, Extracted, ExtractError, Span, as_displayed, opened, plain, rate_of
from curate.frame import displayed, fitted
from curate.opening import MAX_PIXELS, printable
from curate.video import aspect_of

TURNS = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}
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
                encoder = _Encoder(stream, size, fps, crf, preset, threads)
                for frame, time, ends in frames:
                    encoder.add(frame, time, ends)
                if frames.count == span.num_frames:
                    return encoder.finish(span, frames, why)
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


def average(stream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


class _Encoder:
    """H.264 into an mp4 in memory, through a filter graph that turns, scales and crops."""

    def __init__(self, stream, size: int | None, fps: float | None, crf: int, preset: str, threads: int) -> None:
        self.source, self.size, self.fps = stream, size, Fraction(fps).limit_denominator(100_000) if fps else None
        self.options = {"crf": str(crf), "preset": preset}
        self.threads = threads
        self.buffer = io.BytesIO()
        self.target = self.out = self.graph = self.seen = self.origin = self.held = None
        self.encoded = 0

    def add(self, frame: av.VideoFrame, time: float, ends: float) -> None:
        if self.origin is None:
            self.origin = time
        frame.pts = None
        if self.fps is None:
            tick = self.source.time_base
            due = round((time - self.origin) / tick)
            self._encode(self._filtered(frame), due, round((ends - self.origin) / tick) - due, tick)
            return
        ready = None
        while self.encoded / self.fps < ends - self.origin - CLOSE:
            ready = ready or self._filtered(frame)
            self._encode(ready, self.encoded, 1, 1 / self.fps)

    def _filtered(self, frame: av.VideoFrame) -> av.VideoFrame:
        shape = frame.width, frame.height, frame.format.name, frame.rotation
        if self.graph is None or shape != self.seen:
            self.graph, self.seen = self._build(frame), shape
        self.graph.push(frame)
        return self.graph.pull()

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        steps = [graph.add_buffer(template=self.source, width=frame.width, height=frame.height, format=frame.format)]
        texts = list(TURNS.get(round(frame.rotation / 90) % 4, ()))
        if self.out is not None:  # a source that changes its size midway: all frames as the first
            texts.append(f"scale={self.out.width}:{self.out.height}:flags=bicubic")
        elif self.size is not None:
            width, height = as_displayed(frame, self.source)
            width, height = (max(2, 2 * round(side / 2)) for side in fitted(width, height, self.size))
            texts += [f"scale={width}:{height}:flags=area", "setsar=1"]
        texts += ["crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0", "format=yuv420p"]
        for text in texts:
            name, _, arguments = text.partition("=")
            steps.append(graph.add(name, arguments or None))
        steps.append(graph.add("buffersink"))
        for one, next_one in itertools.pairwise(steps):
            one.link_to(next_one)
        graph.configure()
        return graph

    def _encode(self, frame: av.VideoFrame, pts: int, duration: int, tick: Fraction) -> None:
        if self.out is None:
            self.target = av.open(self.buffer, "w", format="mp4")
            self.out = self.target.add_stream("libx264", rate=self.fps or average(self.source), options=self.options)
            self.out.width, self.out.height, self.out.pix_fmt = frame.width, frame.height, "yuv420p"
            context = self.out.codec_context
            context.thread_count, context.time_base = self.threads, tick
            if self.size is None and aspect_of(self.source) != 1:
                aspect = Fraction(aspect_of(self.source)).limit_denominator(1000)
                context.sample_aspect_ratio = 1 / aspect if round(self.seen[3] / 90) % 2 else aspect
            for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(context, tag, getattr(frame, tag))  # what the filters made of the source's
        frame.pts, frame.time_base, frame.duration = pts, tick, duration
        frame.pict_type = 0
        self._mux(self.out.encode(frame))
        self.encoded += 1

    def _mux(self, packets: list[av.Packet]) -> None:
        """Write all but the last packet, whose duration is known only when no other follows."""
        for packet in packets:
            if self.held:
                self.target.mux_one(self.held)
            else:
                self.first_due = packet.dts
            self.held = packet

    def finish(self, span: Span, frames: _Frames, why: str) -> Extracted:
        self._mux(self.out.encode(None))
        seconds = frames.last - frames.first
        length = self.encoded / self.fps if self.fps else seconds
        self.held.duration = max(1, round(length / self.held.time_base) - (self.held.dts - self.first_due))
        self.target.mux_one(self.held)
        self.target.close()
        width, height = displayed(self.out.width, self.out.height, float(self.out.sample_aspect_ratio or 1), 0)
        return Extracted(
            bytes=self.buffer.getvalue(),
            start_frame=span.start_frame,
            end_frame=span.end_frame,
            start_time=frames.first,
            end_time=frames.last,
            num_frames=self.encoded,
            fps=float(self.fps) if self.fps else rate_of(self.source, self.encoded, seconds),
            width=width,
            height=height,
            how="transcode",
            codec="h264",
            why=why,
        )
