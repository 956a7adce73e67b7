"""Splitting a long video into units at keyframes, exactly, without decoding it. A short one is one unit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise, takewhile
from typing import Any

import av
import numpy as np

from curate.base.child import LATE
from curate.base.store import StoreError
from curate.clip import COUNTED, FILE, Unit, Video
from curate.video.clock import longest_step
from curate.video.decode import probe
from curate.video.opening import MAX_PIXELS, VideoError, open_video
from curate.video.reading import Mark, average_rate, demuxed
from curate.video.remote import reader, spent

__all__ = ["plan"]

NOT_CODED = 19  # largest size in bytes of an MPEG-4 packet without a picture, as in FFmpeg
INDEXED = ("h264", "hevc")  # in MP4, FFmpeg takes their packets as the index has them
MOST_UNEVEN = (
    1.6  # length of a unit over what is wanted, beyond which keyframes are looked for that the index does not name
)
SEARCHED = 64  # packets after a seek
LARGE = 256_000_000  # bytes of a file whose packets are read even if its header claims a short duration


@dataclass(frozen=True)
class UnitBound:
    """The bound between two units: presentation seconds, frames of the file shown before it, and the keyframe. counted: the
    file's clock is not sound (see `curate.video.reading`)."""

    time: float
    frame: int
    mark: Mark
    counted: bool


def plan(video: Video, *, unit_seconds: float = 300.0, max_pixels: int = MAX_PIXELS) -> list[Unit]:
    """The units of a video: one, or for a file much longer than `unit_seconds` several, bounded at keyframes.

    Only the first frame is decoded. Each unit's `facts` are those of `probe`, `first_frame` (how many frames of the file are
    displayed before it), and the marks that bound it. On a VideoError: one failed unit with the reason; one that is lost
    where a store does not answer.
    """
    try:
        facts = probe(video.path, max_pixels=max_pixels)
        bounds = boundaries(video.path, facts, unit_seconds, max_pixels)
    except VideoError as error:
        return [Unit(video, facts=spent(video.path)).fail(error.reason)]
    except StoreError as error:  # a store that does not answer is not the file's fault
        return [Unit(video, lost=[LATE], facts=spent(video.path)).lose(str(error))]
    units = []
    for index, (first, end) in enumerate(pairwise([None, *bounds, None])):
        place = {"first_frame": first.frame if first else 0, "clock": COUNTED if bounds and bounds[0].counted else FILE}
        for name, bound in (("first", first), ("end", end)):
            place |= {f"{name}_packet": bound and bound.mark.packet, f"{name}_pts": bound and bound.mark.pts}
        span = first and first.time, end and end.time
        units.append(Unit(video, index, len(bounds) + 1, *span, facts=facts | place))
    units[0].facts |= spent(video.path)
    return units


def boundaries(path: str, facts: dict[str, Any], unit_seconds: float, max_pixels: int) -> list[UnitBound]:
    """The keyframes that split the file into about equal units, in order; [] for a file of one.

    By the index of the file where that is whole; else by one pass over the packets' timestamps, without decoding. That is
    exact in every container, also where the index has no presentation times or lists only some keyframes (Matroska).
    """
    duration = facts["duration"]
    if duration is not None and round(duration / unit_seconds) < 2 and facts["bytes"] < LARGE:
        return []
    found = _by_index(path, unit_seconds, max_pixels)
    return _by_packets(path, unit_seconds, max_pixels) if found is None else found


def _by_packets(path: str, unit_seconds: float, max_pixels: int) -> list[UnitBound]:
    container, stream = open_video(path, max_pixels=max_pixels, keep=True)  # the decode will want the same bytes
    with container:
        packets = []
        with suppress(av.FFmpegError):  # the decode reports what is damaged
            for packet in demuxed(container, stream):
                if stream.codec_context.name == "mpeg4" and packet.size <= NOT_CODED:
                    return []  # packed B-frames: a packet holds two pictures, and no unit can begin with the second
                packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        return split(packets, float(stream.time_base), float(average_rate(stream)), unit_seconds)


def _by_index(path: str, unit_seconds: float, max_pixels: int) -> list[UnitBound] | None:
    """The bounds of an MP4 or MOV whose header lists all packets, without reading these; None where it does not, or where
    the index names too few keyframes, or one that is none."""
    source = reader(path, keep=True)
    container, stream = open_video(path, max_pixels=max_pixels, source=source)
    with container:
        index = list(stream.index_entries)
        whole = "mp4" in container.format.name.split(",") and len(index) == stream.frames > 0
        if not whole or stream.codec_context.name not in INDEXED:
            return None
        source.skim = True
        times = [(packet.pts, packet.dts, packet.is_discard) for packet in demuxed(container, stream)]
        if [dts for _, dts, _ in times] != [entry.timestamp for entry in index]:
            return None
        packets = [
            (pts, dts, entry.is_keyframe, hidden) for (pts, dts, hidden), entry in zip(times, index, strict=True)
        ]
        base = float(stream.time_base)
        bounds = split(packets, base, float(average_rate(stream)), unit_seconds)
        ends = [bound.time for bound in bounds]
        first, last = packets[0][0] * base, packets[-1][0] * base
        if max(np.diff([first, *ends, last])) > MOST_UNEVEN * unit_seconds:
            return None
        source.skim = False
        return bounds if all(_is_keyframe(container, stream, packets[bound.mark.packet]) for bound in bounds) else None


def _is_keyframe(container: Any, stream: Any, wanted: tuple) -> bool:
    """Whether a packet is a keyframe by its own bytes."""
    container.seek(wanted[1], stream=stream, backward=True)
    for packet in islice(demuxed(container, stream), SEARCHED):
        if packet.pts == wanted[0]:
            return packet.is_keyframe
    return False


def split(packets: Sequence[tuple], base: float, rate: float, unit_seconds: float) -> list[UnitBound]:
    """packets: (pts, dts, keyframe, hidden) of each packet in the order of the file. base: seconds of a tick."""
    shown = [pts for pts, _, _, hidden in packets if not hidden]
    decoding = [dts for _, dts, _, _ in packets if dts is not None]
    if not shown:
        return []
    sound = None not in shown and len(set(shown)) == len(shown) and all(a <= b for a, b in pairwise(decoding))
    if sound:
        order = np.sort(np.array(shown, np.int64))
        steps = np.diff(order) * base
        usual = float(np.median(steps)) if len(steps) else 1 / rate
        steps[steps > longest_step(usual)] = usual  # gaps in the clock are not footage
        line = np.r_[0, np.cumsum(steps)]
    else:
        line = np.arange(len(shown)) / rate
    keys = _keys(packets, order if sound else None)
    lost = keys[0][1] if keys else 0  # frames before the first keyframe of a capture cannot be decoded
    count, found = round(line[-1] / unit_seconds), []
    for i in range(1, count):
        best = min(keys, key=lambda key: abs(line[key[1]] - line[-1] * i / count), default=None)
        if best and best[1] - lost > (found[-1].frame if found else 0):
            packet, frame, pts = best
            time = pts * base if sound else (shown[0] or 0) * base + float(line[frame])
            found.append(UnitBound(time, frame - lost, Mark(packet, pts), counted=not sound))
    return found


def _keys(packets: Sequence[tuple], order: np.ndarray | None) -> list[tuple[int, int, int]]:
    """(packets before, frames shown before, pts) of each keyframe. order: all times, sorted, where the clock is sound."""
    keys, before = [], 0
    for place, (pts, _, key, hidden) in enumerate(packets):
        if key and not hidden and pts is not None:
            if order is not None:
                frame = int(np.searchsorted(order, pts))
            else:
                later = (other[0] is not None and other[0] < pts for other in packets[place + 1 :])
                frame = before + sum(1 for _ in takewhile(bool, later))  # with an open GOP's leading pictures
            keys.append((place, frame, pts))
        before += not hidden
    return keys
