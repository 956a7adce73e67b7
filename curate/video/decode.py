"""Source files: their facts, and a decode of each frame once.

Problems of a file become a `VideoError` with the reason, or, if part of it can be used, a warning of the decode. Times are
the file's presentation seconds (the first need not be 0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av

from curate.base import colour, orientation
from curate.clip import COUNTED, Unit
from curate.video.clock import HOLD_SECONDS, Clock
from curate.video.frame import Frame, displayed
from curate.video.identity import stamp
from curate.video.opening import MAX_PIXELS, VideoError, open_video, printable
from curate.video.reading import Mark, Stretch, average_rate, decoded_frames, decoding_of, demuxed, seconds_of

__all__ = [
    "MAX_PIXELS",
    "Decode",
    "Frame",
    "VideoError",
    "frames",
    "open_video",
    "printable",
    "probe",
]

NOTHING_THERE = "has a video stream, but no frames in it"
NOTHING_DECODED = "has a video stream, but no frame of it can be decoded"
LOOP_FILTERED = {"h264", "hevc"}
DURATION_GUESSED = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "ivf", "avi"}  # from clock or bit rate


def aspect_of(stream: Any) -> float:
    """Width of a stored sample over its height; 1 where the file has none, or an absurd one."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and 0.1 < ratio < 10 else 1.0


def probe(path: str, *, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Facts of a file (see `curate.watching.facts`), without reading all of it. Raises VideoError.

    Decodes the first frame, for its rotation and to check that it can be decoded.
    """
    container, stream = open_video(path, max_pixels=max_pixels, keep=True)
    with container:
        return facts_of(path, container, stream)


def facts_of(path: str, container: Any, stream: Any) -> dict[str, Any]:
    facts = header(path, container, stream)
    return facts | shape_of(stream, first_frame(path, container, stream))


def header(path: str, container: Any, stream: Any) -> dict[str, Any]:
    """The facts that are known without decoding."""
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return {
        "fps": float(rate) if rate else None,
        "codec": context.codec.canonical_name,
        "pixel_format": context.pix_fmt,
        "container": container.format.name,
        "duration": duration_of(container, stream),
        "has_audio": bool(container.streams.audio),
        "frames_in_file": stream.frames or None,
        **stamp(path, fresh=False),
    }


def shape_of(stream: Any, frame: av.VideoFrame) -> dict[str, Any]:
    aspect, oriented = aspect_of(stream), orientation.of(frame)
    width, height = displayed(frame.width, frame.height, aspect, oriented.sideways)
    return {
        "width": width,
        "height": height,
        "rotation": oriented.turns * 90,
        "sample_aspect_ratio": aspect,
        "mirrored": oriented.mirror,
        "interlaced": bool(frame.interlaced_frame),
        **colour.describe(frame),
    }


def duration_of(container: Any, stream: Any) -> float | None:
    """Seconds of the video stream by the header; of the file where only that is known."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    if container.duration:
        return container.duration / av.time_base
    return None


def first_frame(path: str, container: Any, stream: Any) -> av.VideoFrame:
    """The first frame that can be decoded. Raises VideoError where there is none."""
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


def frames(unit: Unit, **views: Any) -> Decode:
    """The frames of a unit, decoded once, in presentation order. See `Decode`."""
    return Decode(unit, **views)


class Decode:
    """One sequential decode of a unit. Iterate once; then its counts and warnings are complete.

    grey, picture: sizes of the views (see Frame). threads: of the decoder. loop_filter: "auto" skips the deblocking filter
    of non-reference pictures if stills are reduced at least twofold; "all" never skips it.
    decoded: frames that the decoder returned, `given` of them in this unit. packets: frames that it was fed. damaged:
    packets refused or frames marked corrupt. incomplete: packets that the container marks so. keyframes: the file's times
    of the keyframes in the unit, s. clock: the source of the frames' times; sound if all are the file's own.
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
        self.decoded = self.given = self.packets = self.hidden = self.refused = self.corrupt = self.incomplete = 0
        self.keyframes: list[float] = []
        self.stopped: str | None = None  # why reading stopped before the end of the file
        self.begins_within = False  # whether the file begins within a group of pictures
        self.facts: dict[str, Any] = {}
        self.clock = Clock(0.04)
        self.first_time = self.end_time = 0.0

    @property
    def damaged(self) -> int:
        return self.refused + self.corrupt

    def __iter__(self) -> Iterator[Frame]:
        counted = self.unit.facts.get("clock") == COUNTED
        for seek in (True, False):
            container, stream = open_video(
                self.unit.video.path, threads=self.threads, max_pixels=self.max_pixels, through=True
            )
            with container:
                context = stream.codec_context
                self.facts = header(self.unit.video.path, container, stream)
                if self._may_skip(context):
                    context.options = {**context.options, "skip_loop_filter": "noref"}
                stretch = Stretch(container, stream, *marks(self.unit, stream), counted=counted, seek=seek)
                yield from self._frames(stretch)
                self._count(stretch)
            if not stretch.missed or not stretch.seek:
                return

    def _may_skip(self, context: Any) -> bool:
        shorter = min(context.width, context.height)
        return self.loop_filter == "auto" and context.name in LOOP_FILTERED and shorter >= 2 * self.picture

    def _frames(self, stretch: Stretch) -> Iterator[Frame]:
        stream, index = stretch.stream, self.unit.facts.get("first_frame", 0)
        base, self.clock = float(stream.time_base), clock_of(stream)
        options = {"aspect": aspect_of(stream), "grey": self.grey, "picture": self.picture}
        for source in decoded_frames(stretch):
            if source is None:
                self.refused += 1
                continue
            self.corrupt += source.is_corrupt
            time = seconds_of(source, base)
            if not self.given:
                self.facts |= shape_of(stream, source)
                self.begins_within = stretch.first is None and (stretch.first_pts or 0) < (source.pts or 0)
                if stretch.first is not None and not stretch.counted:  # pictures that only the unit before can decode
                    index += sum(pts < (source.pts or 0) for pts in stretch.begun)
                if stretch.counted and self.unit.start is not None and time is not None:
                    self.clock = clock_of(stream, self.unit.start - time)
            elif source.interlaced_frame:
                self.facts["interlaced"] = True
            self.given += 1
            time = self.clock(time, decoding_of(source, base))
            if self.given == 1:
                self.first_time = time
            shown = (source.duration or 0) * base
            self.end_time = time + (shown if 0 < shown <= HOLD_SECONDS else self.clock.usual)
            yield Frame(source, index, time, shown=shown, **options)
            index += 1

    def _count(self, stretch: Stretch) -> None:
        base = float(stretch.stream.time_base)
        self.decoded, self.packets, self.hidden = stretch.decoded, stretch.packets, stretch.hidden
        self.incomplete = stretch.incomplete
        self.keyframes, self.stopped = [pts * base for pts in stretch.keyframes], stretch.stopped

    def nothing_decoded_reason(self) -> str:
        return NOTHING_DECODED if self.packets or self.damaged else NOTHING_THERE

    def warnings(self) -> list[str]:
        """One sentence for each defect of the file."""
        found = [self._cut_short()]
        if self.stopped:
            found.append(f"reading stopped at {self.end_time:.2f} s: {self.stopped}")
        if self.damaged:
            found.append(f"{self.damaged} of {self.packets} frames are damaged or could not be decoded")
        if self.incomplete:
            found.append(
                f"the counter of the file's packets jumps {self.incomplete} times: data are missing there, or recordings joined"
            )
        expected = self.packets - self.refused
        if self.facts.get("interlaced") and expected > 1.5 * self.given:  # a packet for each field
            expected = (expected + 1) // 2
        if expected > self.given:
            why = ": the file begins within a group of pictures" if self.begins_within else ""
            found.append(f"{expected - self.given} of {self.packets} frames gave no picture{why}")
        if self.clock.turns:
            places = ", ".join(f"{time:.2f} s" for time in self.clock.turns[:3])
            more = f" and {len(self.clock.turns) - 3} more" if len(self.clock.turns) > 3 else ""
            found.append(
                f"the file's clock steps back at {places}{more}: times continue from there, frames are counted"
            )
        elif self.clock.decoding_from is not None:
            found.append(
                f"presentation times are out of order from {self.clock.decoding_from:.2f} s on: those of decoding are taken, "
                "frames are counted"
            )
        elif self.clock.repaired:
            found.append(f"{self.clock.repaired} frames had no time, or one before the last frame's; it was guessed")
        return [text for text in found if text]

    def _cut_short(self) -> str | None:
        """A warning where frames, or else the duration, fall short of the header's; None otherwise."""
        if self.unit.end is not None:  # only the last unit can tell
            return None
        claim, before = self.facts.get("frames_in_file"), self.unit.facts.get("first_frame") or 0
        if claim:
            there = before + self.packets + self.hidden
            if there >= claim or packets_without_edits(self.unit.video.path) >= claim:
                return None
            return f"cut short: {there} of the {claim} frames that the header promises are there"
        promised, lasts = self.facts["duration"] or 0.0, self.end_time - self.first_time
        lasts = max(lasts, self.end_time)  # Matroska's duration counts from 0, not from the first picture
        guessed = DURATION_GUESSED & set(self.facts["container"].split(","))
        if guessed or self.facts["has_audio"] or lasts >= promised - max(1.0, 0.02 * promised):
            return None
        return f"cut short: the pictures last {lasts:.2f} s, of {promised:.2f} s promised"


def clock_of(stream: Any, offset: float = 0.0) -> Clock:
    return Clock(float(1 / average_rate(stream)), offset)


def marks(unit: Unit, stream: Any) -> tuple[Mark | None, Mark | None]:
    """The keyframes that bound a unit, from its facts; from its times for a unit planned by an older version."""
    found: list[Mark | None] = []
    for name, time in (("first", unit.start), ("end", unit.end)):
        pts = unit.facts.get(f"{name}_pts")
        if pts is None and time is not None:
            pts = round(time / stream.time_base)
        found.append(None if pts is None else Mark(unit.facts.get(f"{name}_packet"), pts))
    return found[0], found[1]


def packets_without_edits(path: str) -> int:
    """Packets of the video stream, including those outside of an MP4's edit list."""
    container, stream = open_video(path, container_options={"ignore_editlist": "1"})
    with container:
        count = 0
        with suppress(av.FFmpegError):
            for _ in demuxed(container, stream):
                count += 1
        return count
