"""Source files: say what they are, cut long ones into units, and decode each frame once.

Everything that can be wrong with a file ends here as a `VideoError` with a plain reason, or, where part of it can be
used, as a warning on the decode. Times are presentation seconds as the file has them (the first need not be 0).
"""

from __future__ import annotations

import bisect
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from curate.base import orientation
from curate.clip import Unit, Video
from curate.frame import Frame, displayed
from curate.opening import MAX_PIXELS, VideoError, open_video, printable

__all__ = [
    "MAX_PIXELS",
    "Decode",
    "Frame",
    "VideoError",
    "fingerprint",
    "frames",
    "open_video",
    "plan",
    "printable",
    "probe",
]

NOTHING_THERE = "has a video stream, but no frames in it"
NOTHING_DECODED = "has a video stream, but no frame of it can be decoded"
LOOP_FILTERED = {"h264", "hevc"}


def aspect_of(stream: Any) -> float:
    """Width of a stored sample over its height; 1 where the file does not say, or says nonsense."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and 0.1 < ratio < 10 else 1.0


def probe(path: str, *, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Facts of a file, without reading it through: see `curate.watch.VIDEO_COLUMNS`. Raises VideoError.

    The first packets are decoded, only to learn the rotation and that a picture comes at all.
    """
    container, stream = open_video(path, max_pixels=max_pixels)
    with container:
        return facts_of(path, container, stream)


def facts_of(path: str, container: Any, stream: Any) -> dict[str, Any]:
    facts = header(path, container, stream)
    return facts | shape_of(stream, first_frame(path, container, stream))


def header(path: str, container: Any, stream: Any) -> dict[str, Any]:
    """What is known without decoding."""
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return {
        "fps": float(rate) if rate else None,
        "codec": context.name,
        "pixel_format": context.pix_fmt,
        "container": container.format.name,
        "duration": duration_of(container, stream),
        "has_audio": bool(container.streams.audio),
        "frames_in_file": stream.frames or None,
        "bytes": os.path.getsize(path),
    }


def shape_of(stream: Any, frame: av.VideoFrame) -> dict[str, Any]:
    aspect, oriented = aspect_of(stream), orientation.of(frame)
    width, height = displayed(frame.width, frame.height, aspect, oriented.sideways)
    return {
        "width": width,
        "height": height,
        "rotation": oriented.turns * 90,
        "sample_aspect_ratio": aspect,
        "interlaced": bool(frame.interlaced_frame),
    }


def duration_of(container: Any, stream: Any) -> float | None:
    """Seconds of the video stream, as the header says; of the whole file where only that is known."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    if container.duration:
        return container.duration / av.time_base
    return None


def first_frame(path: str, container: Any, stream: Any) -> av.VideoFrame:
    """Raises VideoError where none can be decoded."""
    problems = 0
    try:
        for packet in container.demux(stream):
            try:
                for frame in stream.codec_context.decode(packet):
                    return frame
            except av.FFmpegError:
                problems += 1
                if problems > 500:
                    break
    except av.FFmpegError:
        problems += 1
    raise VideoError(path, NOTHING_DECODED if problems else NOTHING_THERE)


def plan(video: Video, *, unit_seconds: float = 300.0, max_pixels: int = MAX_PIXELS) -> list[Unit]:
    """The units of a video: one, or for a file much longer than `unit_seconds` several, bounded at keyframes.

    Nothing is decoded beyond the first frame. Each unit's `facts` start with those of `probe`, and `first_frame`: how
    many frames of the file are displayed before it. On a VideoError: one unit, failed, with the reason.
    """
    try:
        facts = probe(video.path, max_pixels=max_pixels)
        bounds = boundaries(video.path, facts, unit_seconds, max_pixels)
    except VideoError as error:
        return [Unit(video).fail(error.reason)]
    starts = [(None, 0), *bounds]
    ends = [*(time for time, _ in bounds), None]
    return [
        Unit(video, index, len(starts), start, end, facts={**facts, "first_frame": first})
        for index, ((start, first), end) in enumerate(zip(starts, ends, strict=True))
    ]


def boundaries(path: str, facts: dict[str, Any], unit_seconds: float, max_pixels: int) -> list[tuple[float, int]]:
    """(presentation seconds, frames displayed before) of the keyframes that split the file into about equal units.

    One pass over the packets' timestamps, without decoding. It is exact in every container, also where the index has no
    presentation times (MP4 stores decode times) or lists only some keyframes (Matroska).
    """
    duration = facts["duration"] or 0.0
    count = round(duration / unit_seconds)
    if count < 2:
        return []
    container, stream = open_video(path, max_pixels=max_pixels)
    times, keys = [], []
    with container:
        try:
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except av.FFmpegError:
            pass  # the pass itself reports what is damaged
        base = stream.time_base
    if not keys:
        return []
    times.sort()
    keys.sort()
    found: list[int] = []
    for i in range(1, count):
        goal = times[0] + (times[-1] - times[0]) * i / count
        best = min(keys, key=lambda key: abs(key - goal))
        if best > (found[-1] if found else times[0]):
            found.append(best)
    return [(float(pts * base), bisect.bisect_left(times, pts)) for pts in found]


def fingerprint(path: str) -> str:
    """Identity of the content, 32 hex digits: size and whole content up to 4 MiB, else 16 blocks of 128 KiB.

    For finding the same file under two names; not safe against someone who wants two files to look the same.
    Raises OSError where the file cannot be read.
    """
    block, blocks = 128 * 1024, 16
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "not a regular file", path)  # a named pipe would wait for ever
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        total = hashlib.sha256(str(size).encode())
        if size <= 4 * 1024 * 1024:
            total.update(stream.read())
        else:
            for i in range(blocks):
                stream.seek((size - block) * i // (blocks - 1))
                total.update(stream.read(block))
    return total.hexdigest()[:32]


def frames(unit: Unit, **views: Any) -> Decode:
    """The frames of a unit, decoded once and in presentation order: `for frame in frames(unit)`. See `Decode`."""
    return Decode(unit, **views)


class Decode:
    """One sequential decode of a unit. Iterate once; then its counts and warnings are complete.

    grey, picture: sizes of the views (see Frame). threads: of the decoder. loop_filter: "auto" leaves the deblocking
    filter out on pictures that no other picture refers to, where stills are reduced at least twofold; "all" never does.
    decoded: frames that came out. packets: frames that went in. damaged: packets refused or frames marked corrupt.
    keyframes: presentation seconds of the keyframes in the unit.
    """

    def __init__(
        self,
        unit: Unit,
        *,
        grey: int = 96,
        picture: int = 360,
        threads: int = 1,
        loop_filter: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.unit, self.threads, self.max_pixels, self.loop_filter = unit, threads, max_pixels, loop_filter
        self.grey, self.picture = grey, picture
        self.decoded = self.packets = self.damaged = self.repaired = 0
        self.keyframes: list[float] = []
        self.stopped: str | None = None  # why reading ended before the end of the file
        self.facts: dict[str, Any] = {}
        self.end_time = 0.0

    def __iter__(self) -> Iterator[Frame]:
        container, stream = open_video(self.unit.video.path, threads=self.threads, max_pixels=self.max_pixels)
        with container:
            context = stream.codec_context
            self.facts = header(self.unit.video.path, container, stream)
            if self._may_skip(context):
                context.options = {**context.options, "skip_loop_filter": "noref"}
            yield from self._frames(container, stream)

    def _may_skip(self, context: Any) -> bool:
        shorter = min(context.width, context.height)
        return self.loop_filter == "auto" and context.name in LOOP_FILTERED and shorter >= 2 * self.picture

    def _frames(self, container: Any, stream: Any) -> Iterator[Frame]:
        base = float(stream.time_base)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        usual = float(1 / rate)
        start = -float("inf") if self.unit.start is None else self.unit.start - 1e-6
        end = float("inf") if self.unit.end is None else self.unit.end - 1e-6
        aspect, last = aspect_of(stream), None
        index = self.unit.facts.get("first_frame", 0)
        options = {"aspect": aspect, "grey": self.grey, "picture": self.picture}
        for source in self._decoded(container, stream, start, end):
            self.decoded += 1
            if source.is_corrupt:
                self.damaged += 1
            pts = source.pts if source.pts is not None else source.dts
            time = pts * base if pts is not None else None
            if time is not None and not start <= time < end:
                continue
            if last is None:
                self.facts |= shape_of(stream, source)
            elif source.interlaced_frame:
                self.facts["interlaced"] = True
            if time is None or (last is not None and time <= last):
                time, self.repaired = (0.0 if last is None else last + usual), self.repaired + 1
            last = time
            self.end_time = time + ((source.duration or 0) * base or usual)
            yield Frame(source, index, time, **options)
            index += 1

    def _decoded(self, container: Any, stream: Any, start: float, end: float) -> Iterator[av.VideoFrame]:
        decode = stream.codec_context.decode
        for packet in self._packets(container, stream, start, end):
            try:
                found = decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                self.damaged += 1
                continue
            yield from found

    def _packets(self, container: Any, stream: Any, start: float, end: float) -> Iterator[Any]:
        """The packets whose frames are displayed in [start, end), what they need to be decoded, and the final flush."""
        base = float(stream.time_base)
        started, held, ending, rewound = start == -float("inf"), None, False, False
        if not started:
            container.seek(int((start - 1.0) / base), stream=stream, backward=True)  # transport streams seek roughly
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self.stopped = error.strerror or "unreadable data"
                packet = None
            if packet is None:
                yield None
                return
            pts = packet.pts if packet.pts is not None else packet.dts
            time = None if pts is None else pts * base
            if packet.size == 0 and pts is None:  # the flush
                yield packet
                return
            if ending and time is not None and time >= end:
                yield None
                return
            if not started:
                # From the keyframe of the start on. What follows it but is displayed before belongs to the last unit.
                started = packet.is_keyframe and time is not None and time >= start
                if started and time > start + 1e-3 and not rewound:  # the seek went too far: read from the beginning
                    container.seek(stream.start_time or 0, stream=stream, backward=True)
                    packets, started, rewound = container.demux(stream), False, True
                if not started:
                    continue
            if time is not None and time < start:
                continue
            if time is not None and time >= end:
                if packet.is_keyframe and held is None:
                    held = packet  # the next unit's first; ours only if frames displayed before it need it
                    continue
                if held is not None:
                    yield None
                    return
            elif held is not None:
                yield held
                ending, held = True, None
            if (time is None or time < end) and not packet.is_discard:
                self.packets += 1
                if packet.is_keyframe and time is not None:
                    self.keyframes.append(time)
            yield packet

    def _ends_early(self) -> bool:
        """By the header's duration, where it is that of the pictures and not of the sound."""
        promised = self.facts["duration"] or 0.0
        return not self.facts["has_audio"] and self.end_time < promised - max(1.0, 0.02 * promised)

    def why_nothing(self) -> str:
        return NOTHING_DECODED if self.packets or self.damaged else NOTHING_THERE

    def warnings(self) -> list[str]:
        """What is missing or mended, one plain sentence each."""
        said = []
        claim = self.facts.get("frames_in_file")
        if self.unit.count == 1 and claim and self.packets < claim:
            said.append(f"cut short: {self.packets} of the {claim} frames that the header promises are there")
        elif not claim and self.unit.end is None and self._ends_early():
            said.append(
                f"cut short: the pictures end at {self.end_time:.2f} s, of {self.facts['duration']:.2f} s promised"
            )
        if self.stopped:
            said.append(f"reading stopped at {self.end_time:.2f} s: {self.stopped}")
        if self.damaged:
            said.append(f"{self.damaged} of {self.packets} frames are damaged or could not be decoded")
        if self.repaired:
            said.append(f"{self.repaired} frames had no time, or one before the last frame's; it was guessed")
        return said


def video_frame(path: str, container: Any, stream: Any, time: float, size: int) -> Frame:
    """The frame that is shown at `time`, by seeking. Raises VideoError."""
    base, aspect, best = float(stream.time_base), aspect_of(stream), None
    for margin in (0.0, 1.0, 10.0):
        container.seek(int((time - margin) / base), stream=stream, backward=True)
        try:
            for source in container.decode(stream):
                if source.pts is None:
                    continue
                if source.pts * base > time + 1e-6:
                    break
                best = source
        except av.FFmpegError:
            pass  # damaged here: what came before is what a player would show
        if best is not None:
            return Frame(best, 0, best.pts * base, aspect=aspect, picture=size)
    raise VideoError(path, f"no frame could be read at {time:.3f} s")
