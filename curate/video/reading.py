"""Frames of a file from an exact position: used to read units, clips and pictures.

A frame's address is its index in presentation order. If the file's clock is sound (every frame has a time, and they
increase) the index is found by the frame's own time, in ticks of the stream, after a seek. If not, seeking by time is not
reliable: packets are counted from the beginning of the file to the first keyframe of the unit, and frames from there, as in
the annotating pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

__all__ = ["Mark", "Stretch", "average_rate", "decoded_frames", "decoding_of", "demuxed", "seconds_of"]


@dataclass(frozen=True)
class Mark:
    """A keyframe that bounds a stretch. packet: packets of the stream before it in the file, None if not counted. pts: its
    presentation time in ticks of the stream."""

    packet: int | None
    pts: int


@dataclass
class Stretch:
    """The packets of a stream between two marks (None: from the file's beginning, to its end), read once.

    counted: the clock is not sound: marks are found by counting packets, not by time. seek: seek to the first mark; False:
    read from the beginning of the file.
    packets: how many were read that are shown in the stretch. keyframes: their times, in ticks. hidden: packets that an
    edit list hides. decoded: frames that the decoder returned, others' too. incomplete: packets that the container marks as
    incomplete, decoded all the same. stopped: why reading stopped before the end of the file. missed: the first mark was
    not found.
    """

    container: Any
    stream: Any
    first: Mark | None = None
    end: Mark | None = None
    counted: bool = False
    seek: bool = True

    def __post_init__(self) -> None:
        self.seek = self.seek and not self.counted
        self.packets = self.hidden = self.decoded = self.incomplete = 0
        self._ordinal = -1
        self.keyframes: list[int] = []
        self.begun: list[int] = []  # times of the packets before the first decoded frame
        self.first_pts: int | None = None
        self.stopped: str | None = None
        self.missed = False

    def __iter__(self) -> Iterator[Any]:
        """Packets in decode order, and None last, to flush the decoder.

        Includes the keyframe of the next stretch if pictures after it are shown before it (an open GOP).
        """
        held, ending, leading = None, False, self.first is not None
        for packet in self._from_first():
            pts = packet.pts
            if not ending and self._is_end(packet):
                held, ending = packet, True
                continue
            if ending:
                if pts is None or pts >= self.end.pts:
                    break
                if held is not None:
                    yield held
                    held = None
            before = leading and pts is not None and pts < self.first.pts
            leading = leading and (before or packet.is_keyframe)
            if packet.is_discard:
                self.hidden += 1
            elif not before:
                self._count(packet)
            yield packet
        yield None

    def _count(self, packet: av.Packet) -> None:
        self.packets += 1
        if packet.pts is not None:
            self.first_pts = packet.pts if self.first_pts is None else min(self.first_pts, packet.pts)
            if not self.decoded:
                self.begun.append(packet.pts)
            if packet.is_keyframe:
                self.keyframes.append(packet.pts)

    def _is_end(self, packet: av.Packet) -> bool:
        return self.end is not None and packet.is_keyframe and self._is(packet, self.end)

    def _from_first(self) -> Iterator[av.Packet]:
        """Packets from the first mark's keyframe on; earlier ones are skipped without decoding."""
        started = self.first is None
        if not started and self.seek:
            goal = self.first.pts - int(1.0 / self.stream.time_base)  # seeks in transport streams are inexact
            self.container.seek(goal, stream=self.stream, backward=True)
        for packet in self._demuxed():
            self._ordinal += 1
            if not started and packet.is_keyframe:
                started = self._is(packet, self.first)
                if not started and self.seek and packet.pts is not None and packet.pts > self.first.pts:
                    break  # the seek went too far
            if started:
                yield packet
        self.missed = not started

    def _is(self, packet: av.Packet, mark: Mark) -> bool:
        return self._ordinal == mark.packet if self.counted else packet.pts == mark.pts

    def _demuxed(self) -> Iterator[av.Packet]:
        try:
            yield from demuxed(self.container, self.stream)
        except av.FFmpegError as error:
            self.stopped = error.strerror or "unreadable data"


def demuxed(container: Any, stream: Any) -> Iterator[av.Packet]:
    """The packets of a stream, without the empty ones at the end. Raises av.FFmpegError."""
    for packet in container.demux(stream):
        if packet.size == 0 and packet.pts is None:
            return
        yield packet


def decoded_frames(stretch: Stretch) -> Iterator[av.VideoFrame | None]:
    """The frames that are shown in the stretch, in order; None for each packet that the decoder refused."""
    decode = stretch.stream.codec_context.decode
    begun = stretch.first is None
    for packet in stretch:
        try:
            found = decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            yield None
            continue
        stretch.incomplete += packet is not None and packet.is_corrupt
        for frame in found:
            stretch.decoded += 1
            begun = begun or _begins(stretch, frame)
            if begun and _ends(stretch, frame):
                return
            if begun:
                yield frame


def _begins(stretch: Stretch, frame: av.VideoFrame) -> bool:
    """False for the leading pictures of an open GOP, which belong to the previous stretch."""
    first = stretch.first.pts
    return frame.pts == first or (not stretch.counted and frame.pts is not None and frame.pts > first)


def _ends(stretch: Stretch, frame: av.VideoFrame) -> bool:
    """Whether the frame belongs to the next stretch."""
    if stretch.end is None or frame.pts is None:
        return False
    if stretch.counted:
        return stretch._ordinal >= stretch.end.packet and frame.pts == stretch.end.pts
    return frame.pts >= stretch.end.pts


def seconds_of(frame: av.VideoFrame, base: float) -> float | None:
    """A frame's presentation time in seconds; its decoding time if it has none; or None."""
    pts = frame.pts if frame.pts is not None else frame.dts
    return None if pts is None else pts * base


def decoding_of(frame: av.VideoFrame, base: float) -> float | None:
    """The decoding time of the packet that output the frame, in seconds; or None."""
    return None if frame.dts is None else frame.dts * base


def average_rate(stream: Any) -> Fraction:
    """Frames a second by the header; 25 if it has none."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)
