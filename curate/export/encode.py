"""Frames to H.264 in an mp4 in memory: deinterlaced, turned, scaled and cropped by FFmpeg's filters, at their own times
or a fixed rate.

Colours are read by `curate.base.colour`, written with that matrix in limited range, and all four tags are set, so that
no reader guesses, whatever the size: of a picture reduced to 256 px none could know that it was HD. HDR becomes plain RGB
first (curate.base.pixels); H.264 of 8 bits could not hold it.
"""

from __future__ import annotations

import io
import itertools
import math
from collections import deque
from fractions import Fraction

import av
import av.filter
import cv2
import numpy as np

from curate.base import colour as colours
from curate.base import orientation, pixels
from curate.export.span import ClipForm, Extracted, Span, as_displayed, rate_of
from curate.video.decode import aspect_of
from curate.video.frame import displayed, fitted
from curate.video.reading import average_rate

# libx264's AVX-512 code reads memory that it never wrote (with macroblock trees, and pictures of any size): its bytes
# differ from run to run. Without it they are those of every other processor, at the same speed. x264 does not check that
# the processor has what it is set to use, so it is set only where there is AVX-512, which implies AVX2.
AVX512F = 13  # OpenCV's CV_CPU_AVX_512F
STEADY = {"x264-params": "asm=avx2"} if cv2.checkHardwareSupport(AVX512F) else {}

FINE = Fraction(1, 1000)  # s: no coarser are the steps of the times in a transcode, for guessed times lie on no grid

ROUNDED = 1e-3  # s: Matroska and FLV round times by so much; no frame is repeated for that

# One frame out for each in, at the first field's time; frames that are not marked as interlaced pass unchanged.
DEINTERLACE = "bwdif=mode=send_frame:parity=auto:deint=interlaced"


class ClipEncoder:
    """H.264 into an mp4 in memory: size, rate, quality and threads of `form`; without a rate the frames' own times."""

    def __init__(self, stream, form: ClipForm) -> None:
        self.source, self.size = stream, form.size
        self.fps = Fraction(form.fps).limit_denominator(100_000) if form.fps else None
        self.tick = stream.time_base / max(1, math.ceil(stream.time_base / FINE))
        self.options = {"crf": str(form.crf), "preset": form.preset} | STEADY
        self.threads = form.threads
        self.buffer = io.BytesIO()
        self.target = self.out = self.graph = self.seen = self.origin = self.held = self.tags = None
        self.interlaced = self.sideways = False
        self.due: deque[tuple[float, float]] = deque()  # (time, end) of the frames that the filters still hold
        self.encoded, self.latest = 0, -1  # latest: presentation time of the packets written, ticks
        self.durations: dict[int, int] = {}  # of the frames that the encoder holds, by their times: it forgets them

    def add(self, frame: av.VideoFrame, time: float, ends: float) -> None:
        """A frame shown from `time` until `ends`, presentation seconds."""
        if self.origin is None:
            self.origin = time
        self.tags = self.tags or tags_of(frame)
        self.sideways = orientation.of(frame).sideways if self.out is None else self.sideways
        size = self._size(frame)
        frame, how = self._plain(frame, size)
        frame.pts = None
        self.interlaced |= frame.interlaced_frame
        shape = frame.width, frame.height, frame.format.name, size, how, colours.of(frame), self.interlaced
        if shape != self.seen:
            self._flush()
            self.graph, self.seen = self._build(frame, size, how), shape
        self.due.append((time, ends))
        self.graph.push(frame)
        self._drain()

    def _flush(self) -> None:
        if self.graph is not None:
            self.graph.push(None)
            self._drain()

    def _drain(self) -> None:
        """Encode what the filters have ready; a deinterlacer is a frame behind."""
        while self.due:
            try:
                frame = self.graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            self._show(frame, *self.due.popleft())

    def _show(self, frame: av.VideoFrame, time: float, ends: float) -> None:
        if self.fps is None:
            due = round((time - self.origin) / self.tick)
            self._encode(frame, due, round((ends - self.origin) / self.tick) - due, self.tick)
            return
        while self.encoded / self.fps < ends - self.origin - ROUNDED:
            self._encode(frame, self.encoded, 1, 1 / self.fps)

    def _plain(
        self, frame: av.VideoFrame, size: tuple[int, int] | None
    ) -> tuple[av.VideoFrame, orientation.Orientation]:
        """The frame, and what is left to turn: HDR as RGB at the final size, turned."""
        how, colour = orientation.of(frame), colours.of(frame)
        if not colour.hdr:
            return frame, how
        width, height = (frame.width, frame.height) if size is None else size[::-1] if how.sideways else size
        shown = how.apply(pixels.rgb(frame, width, height, colour))
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24"), orientation.UPRIGHT

    def _size(self, frame: av.VideoFrame) -> tuple[int, int] | None:
        """(width, height) to scale to, as displayed; None: as it is."""
        if self.size is None:
            width, height = frame.width // 2 * 2, frame.height // 2 * 2
            own = (height, width) if orientation.of(frame).sideways else (width, height)
            size = own if self.out is None else (self.out.width, self.out.height)
            return None if size == own else size  # a source that changes its size midway: all frames as the first
        shape = fitted(*as_displayed(frame, self.source), self.size)
        size = tuple(max(2, 2 * round(side / 2)) for side in shape)
        return size if self.out is None else (self.out.width, self.out.height)

    def _build(
        self, frame: av.VideoFrame, size: tuple[int, int] | None, how: orientation.Orientation
    ) -> av.filter.Graph:
        graph = av.filter.Graph()
        steps = [graph.add_buffer(None, frame.width, frame.height, frame.format, time_base=self.source.time_base)]
        texts = [DEINTERLACE] if self.interlaced else []
        texts += how.filters()
        width, height = (frame.height, frame.width) if how.sideways else (frame.width, frame.height)
        if size is None:
            width, height = size = width // 2 * 2, height // 2 * 2
            texts.append(f"crop={width}:{height}:0:0")
        read = colours.of(frame)
        texts += [
            f"scale={size[0]}:{size[1]}:flags={pixels.flags(width, height, *size)}:in_range={read.range}"
            + ("" if read.rgb else f":in_color_matrix={colours.name(read.matrix)}")
            + f":out_color_matrix={colours.name(self.tags[0])}:out_range={colours.LIMITED}",
            "format=yuv420p",
        ]
        texts += ["setsar=1"] if self.size is not None else []
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
            self.out = self.target.add_stream(
                "libx264", rate=self.fps or average_rate(self.source), options=self.options
            )
            self.out.width, self.out.height, self.out.pix_fmt = frame.width, frame.height, "yuv420p"
            context = self.out.codec_context
            context.thread_count, context.time_base = self.threads, tick
            if self.size is None and aspect_of(self.source) != 1:
                aspect = Fraction(aspect_of(self.source)).limit_denominator(1000)
                context.sample_aspect_ratio = 1 / aspect if self.sideways else aspect
            context.colorspace, context.color_primaries, context.color_trc = self.tags
            context.color_range = colours.LIMITED
        frame.pts, frame.time_base, frame.duration = pts, tick, duration
        frame.pict_type = 0
        self.durations[pts] = duration
        self._mux(self.out.encode(frame))
        self.encoded += 1

    def _mux(self, packets: list[av.Packet]) -> None:
        """Write all but the last packet, whose duration is known only when no other follows."""
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts)
            if self.held:
                self.latest = max(self.latest, self.held.pts)
                self.target.mux_one(self.held)
            else:
                self.first_due = packet.dts
            self.held = packet

    def finish(self, span: Span, first: float, last: float, why: str) -> Extracted:
        self._flush()
        self._mux(self.out.encode(None))
        seconds = last - first
        length = self.encoded / self.fps if self.fps else seconds
        due = round(length / self.held.time_base)
        shown_last = self.held.pts > self.latest  # else one that was decoded before it
        self.held.duration = max(1, due - (self.held.pts if shown_last else self.held.dts - self.first_due))
        self.target.mux_one(self.held)
        self.target.close()
        width, height = displayed(self.out.width, self.out.height, float(self.out.sample_aspect_ratio or 1), False)
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


def tags_of(frame: av.VideoFrame) -> tuple[int, int, int]:
    """(matrix, primaries, transfer) to write for a transcode of the frame, in FFmpeg's numbers.

    Where the source says nothing, primaries and transfer are those that its pixels are shown with: BT.709's.
    """
    colour = colours.of(frame)
    if colour.hdr:
        return (colours.BT709,) * 3
    primaries, transfer = frame.color_primaries, frame.color_trc
    return (
        colour.matrix,
        primaries if primaries in colours.PRIMARIES else 1,
        transfer if transfer in colours.TRANSFERS else 1,
    )
