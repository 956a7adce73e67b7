"""Frames to H.264 in an mp4 in memory: turned, scaled and cropped by FFmpeg's filters, at their own times or a fixed rate."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction

import av
import av.filter

from curate.frame import displayed, fitted
from curate.reading import average
from curate.span import CLOSE, Extracted, Span, as_displayed, rate_of
from curate.video import aspect_of

TURNS = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}


class Encoder:
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

    def finish(self, span: Span, first: float, last: float, why: str) -> Extracted:
        self._mux(self.out.encode(None))
        seconds = last - first
        length = self.encoded / self.fps if self.fps else seconds
        self.held.duration = max(1, round(length / self.held.time_base) - (self.held.dts - self.first_due))
        self.target.mux_one(self.held)
        self.target.close()
        width, height = displayed(self.out.width, self.out.height, float(self.out.sample_aspect_ratio or 1), 0)
        return Extracted(
            bytes=self.buffer.getvalue(),
            start_frame=span.start_frame,
            end_frame=span.end_frame,
            start_time=first,
            end_time=last,
            num_frames=self.encoded,
            fps=float(self.fps) if self.fps else rate_of(self.source, self.encoded, seconds),
            width=width,
            height=height,
            how="transcode",
            codec="h264",
            why=why,
        )
