"""Cut clips' bytes out of their source, in memory, as mp4: packets copied where keyframes allow, else transcoded.

What was scored is what is exported. A copy starts at the clip's first keyframe and ends at the last frame where what was
decoded so far is exactly what is shown so far, so that no frame misses a reference and no extra frame shows: it may only
lose frames of the clip, at most the share `trim`, and never shows one from outside of it. Only what a decoder can start
at counts as a keyframe: an IDR picture in H.264, an IRAP picture in HEVC, with no picture after it in the file that is
shown before it (an open GOP's leading pictures).

Where a copy would lose more, where mp4 cannot hold the codec, where the file's clock is not sound, or where the packets
do not agree with what annotation decoded (damage, edit lists, fields), the clip is transcoded, frame for frame.

Sound is left out. Times are presentation seconds of the source, frames are counted as annotation counted them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error

from curate.export.span import (
    ASKED_FOR,
    CLOSE,
    NO_KEYFRAME,
    CannotCopy,
    ClipForm,
    Extracted,
    ExtractError,
    Span,
    as_displayed,
    opened,
    plain,
    rate_of,
)
from curate.export.transcode import transcode

__all__ = ["ClipForm", "ExtractError", "Extracted", "Span", "extract"]

COPYABLE = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4"})  # what mp4 holds and browsers or FFmpeg play
BACK = (0.0, 5.0, 30.0, None)  # s: how far before its goal to seek, as some containers land late; None: from the start
LOOKAHEAD = 64  # packets read past a clip's end, to know that none of them is shown before it
DECODED_AFTER = 2  # as many, where they say when they are decoded


def extract(path: str, span: Span, keyframes: list[float] | None = None, **options: Any) -> Extracted:
    """Cut `span` out of the file at `path`.

    keyframes: presentation times of the source's keyframes, if known: saves looking where none is near. options: of
    `ClipForm`. Raises ExtractError.
    """
    form, why = ClipForm(**options), ASKED_FOR
    if form.may_copy:
        try:
            return _copy(path, span, keyframes, form)
        except CannotCopy as reason:
            why = str(reason)
        except (av.error.FFmpegError, ValueError) as error:
            why = f"packets cannot be copied ({plain(error)})"
    (made,) = transcode(path, [span], form, why=why)
    if isinstance(made, str):
        raise ExtractError(made)
    return made


def _copy(path: str, span: Span, keyframes: list[float] | None, form: ClipForm) -> Extracted:
    if span.origin is not None:
        raise CannotCopy("the file's clock is not sound, so its packets cannot be told apart")
    late = span.start_time + form.trim * (span.end_time - span.start_time) + CLOSE
    if keyframes is not None and not any(span.start_time - CLOSE <= time <= late for time in keyframes):
        raise CannotCopy(NO_KEYFRAME)
    for back in BACK:
        with opened(path, max_pixels=form.max_pixels, around=(span.start_time, span.end_time)) as (source, stream):
            found = _packets(source, stream, span, back)
            if found:
                return _copied(stream, found, span, form.most_lost(span.num_frames))
    raise CannotCopy("no packets at the clip's place")


def _copied(stream, packets: list[av.Packet], span: Span, most: int) -> Extracted:
    """most: frames that may be lost."""
    name = stream.codec_context.name
    name = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9"}.get(name, name)
    if name not in COPYABLE:
        raise CannotCopy(f"mp4 does not hold {name}")
    tick = stream.time_base
    shown = sorted(range(len(packets)), key=lambda i: packets[i].pts)
    times = [float(packets[i].pts * tick) for i in shown]
    rank = {i: place for place, i in enumerate(shown)}  # decode order -> presentation order

    first = _nearest(times, span.start_time)
    after = first + span.num_frames  # presentation place of the frame after the clip
    inside = sum(times[first] - CLOSE < time < span.end_time - CLOSE for time in times)
    if abs(times[first] - span.start_time) > CLOSE or inside != span.num_frames:
        raise CannotCopy("packets and decoded frames disagree")

    begin = _start(packets, rank, first, most, _starts(name, stream))
    stop = _stop(rank, begin, after)
    chosen = packets[begin:stop]
    start, end = rank[begin], rank[begin] + len(chosen)
    if span.num_frames - len(chosen) > most:
        raise CannotCopy("a copy would lose too many frames")
    if any(packet.is_discard or packet.is_corrupt for packet in chosen):
        raise CannotCopy("damaged or hidden packets")
    end_time = span.end_time if end == after else times[end]
    seconds = end_time - times[start]
    data = _mux(stream, chosen, round(seconds / tick))
    width, height = _check(data, len(chosen))
    return Extracted(
        bytes=data,
        start_frame=span.start_frame + start - first,
        end_frame=span.start_frame + end - first,
        start_time=times[start],
        end_time=end_time,
        num_frames=len(chosen),
        fps=rate_of(stream, len(chosen), seconds),
        width=width,
        height=height,
        how="copy",
        codec=name,
    )


def _packets(source, stream, span: Span, back: float | None) -> list[av.Packet]:
    """Packets in decode order, from a keyframe at or before the span to as far past it as matters.

    back: how many seconds before it to seek, None: read from the start of the file. [] where that landed too late.
    """
    if back is None:
        return _read_past(source, stream, span.end_time)
    try:
        source.seek(int((span.start_time - back) / stream.time_base), stream=stream, backward=True)
    except av.error.FFmpegError:
        return []
    packets = _read_past(source, stream, span.end_time)
    first = min((packet.pts for packet in packets[:LOOKAHEAD]), default=None)
    late = first is None or float(first * stream.time_base) > span.start_time + CLOSE
    return [] if late else packets


def _read_past(source, stream, end: float) -> list[av.Packet]:
    """Packets until none that follows can be shown before `end`, s: a few that are decoded after it, for nothing is shown
    before it is decoded; or a keyframe well after it, or many packets. A file that breaks the rule is noticed by its count."""
    packets, past = [], 0
    for packet in _in_order(source.demux(stream)):
        packets.append(packet)
        due = (packet.pts if packet.dts is None else packet.dts) * stream.time_base
        past += due > end + CLOSE
        restarts = packet.is_keyframe and packet.dts is not None and due > end + 1
        if past > (LOOKAHEAD if packet.dts is None else DECODED_AFTER) or (restarts and len(packets) > 1):
            break
    return packets


def _in_order(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Those that hold data. Raises CannotCopy where their times do not say how to show them."""
    last = None
    for packet in packets:
        if packet.size == 0:
            continue
        if packet.pts is None:
            raise CannotCopy("packets carry no presentation times")
        if packet.dts is not None and last is not None and packet.dts <= last:
            raise CannotCopy("packets are not in order of time")
        last = last if packet.dts is None else packet.dts
        yield packet


def _start(packets, rank, first: int, most: int, clean) -> int:
    """Index in decode order of the packet to start at: the first clean keyframe of the clip.

    first: presentation place of the clip's first frame. most: frames that may be lost.
    """
    smallest_after, smallest = [0] * len(packets), len(packets)
    for i in range(len(packets) - 1, -1, -1):
        smallest = min(smallest, rank[i])
        smallest_after[i] = smallest
    largest_before = -1
    for i, packet in enumerate(packets):
        # Decode order and presentation order agree on what comes before this picture and what after.
        closed = smallest_after[i] == rank[i] and largest_before < rank[i]
        largest_before = max(largest_before, rank[i])
        if first <= rank[i] <= first + most and packet.is_keyframe and closed and clean(packet):
            return i
    raise CannotCopy(NO_KEYFRAME)


def _stop(rank, begin: int, after: int) -> int:
    """End in decode order, exclusive: the last place where what was decoded since `begin` is what is shown since it."""
    stop, largest = None, -1
    for i in range(begin, len(rank)):
        largest = max(largest, rank[i])
        if largest >= after:
            break
        if largest - rank[begin] == i - begin:  # as many frames shown up to here as decoded: a prefix of both orders
            stop = i + 1
    if stop is None:
        raise CannotCopy("no frame to end at")
    return stop


def _starts(name: str, stream):
    """A function that says if a decoder can start at a keyframe's packet."""
    if name not in ("h264", "hevc"):
        return lambda packet: True
    extradata = stream.codec_context.extradata or b""
    boxed = extradata[:1] == b"\x01"  # avcC or hvcC: lengths before the units; else start codes
    at = 4 if name == "h264" else 21
    prefix = (extradata[at] & 3) + 1 if boxed and len(extradata) > at else 0

    def clean(packet) -> bool:
        for unit in _units(bytes(packet), prefix):
            kind = unit & 0x1F if name == "h264" else (unit >> 1) & 0x3F
            if name == "h264" and kind in (1, 2, 5):
                return kind == 5
            if name == "hevc" and kind < 32:
                return 16 <= kind <= 21
        return False

    return clean


def _units(data: bytes, prefix: int):
    """First byte of each NAL unit of a packet. prefix: bytes of a length field, 0 for start codes."""
    at = 0
    while prefix and at + prefix < len(data):
        yield data[at + prefix]
        at += prefix + int.from_bytes(data[at : at + prefix], "big")
    while not prefix and 0 <= (at := data.find(b"\x00\x00\x01", at)) < len(data) - 3:
        at += 3
        yield data[at]


def _mux(stream, packets, length: int) -> bytes:
    """An mp4 of these packets, shown from time 0 to `length` ticks."""
    buffer = io.BytesIO()
    origin = packets[0].pts
    times = [packet.pts - origin for packet in packets]
    # Decode times made anew, as Matroska has none: the k-th picture decoded gets the k-th time shown, less the delay
    # that keeps every picture decoded before it is shown.
    in_order = sorted(times)
    delay = max(due - time for due, time in zip(in_order, times, strict=True))
    with av.open(buffer, "w", format="mp4") as target:
        copy = target.add_stream_from_template(stream, opaque=True)
        copy.time_base = stream.time_base
        for packet, time, due, ends in zip(packets, times, in_order, [*in_order[1:], length], strict=True):
            packet.pts, packet.dts, packet.duration = time, due - delay, max(1, ends - due)
            packet.stream = copy
            target.mux_one(packet)
    return buffer.getvalue()


def _check(data: bytes, frames: int) -> tuple[int, int]:
    """Displayed (width, height) of the bytes, after a look that every packet is there and shown, and the first
    decodes."""
    with av.open(io.BytesIO(data)) as made:
        video = made.streams.video[0]
        packets = [packet for packet in made.demux(video) if packet.size]
        shown = [packet for packet in packets if not packet.is_discard]
        if len(packets) != frames or len(shown) != frames or min(packet.pts for packet in shown) != 0:
            raise CannotCopy(f"mp4 would show {len(shown)} of {frames} frames")
    with av.open(io.BytesIO(data)) as made:
        frame = next(made.decode(video=0))
        return as_displayed(frame, made.streams.video[0])


def _nearest(times: list[float], time: float) -> int:
    return min(range(len(times)), key=lambda i: abs(times[i] - time))
