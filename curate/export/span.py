"""What is cut out of a source, what came of it, and the small things that copying and transcoding share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av

from curate.base import orientation
from curate.clip import COUNTED, Clip, Unit
from curate.video.decode import aspect_of, clock_of
from curate.video.frame import displayed
from curate.video.opening import MAX_PIXELS, VideoError, check_file, open_video
from curate.video.reading import Mark, Stretch, decoded_frames, decoding_of, seconds_of
from curate.video.remote import is_remote, reader

CLOSE = 1e-4  # s: presentation times closer than this are the same frame
PAST = 3  # packets after the last one that are read, to know that it was
BACK = (0.0, 5.0, None)  # s: how far before a clip to start decoding, as some containers land late; None: at the start
ASKED_FOR, NO_KEYFRAME = "asked for", "no keyframe near the clip's start"  # why a clip is encoded again
FIRST_MISSING = "the clip's first frame could not be decoded again"


class ExtractError(Exception):
    """A clip whose bytes could not be made. One line: the file and the plain reason."""


@dataclass(frozen=True)
class Origin:
    """Where frames are counted from, in a file whose clock is not sound: the keyframe that a unit begins with.

    packet: packets of the stream before it. pts: its time in ticks; None, at the beginning of the file: whatever it is.
    frame: its index in the file. time: presentation seconds that it was given; None: the file's own.
    """

    packet: int = 0
    pts: int | None = None
    frame: int = 0
    time: float | None = None


@dataclass(frozen=True)
class Span:
    """What is to be cut: a clip's frames [start_frame, end_frame), and its times in presentation seconds.

    origin: where its frames are counted from; None: they are found by the file's own times (see `curate.video.reading`).
    """

    start_frame: int
    end_frame: int
    start_time: float
    end_time: float
    origin: Origin | None = None

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame

    def place(self, index: int, time: float) -> int:
        """-1, 0 or 1: the frame lies before, in or after the span. index: counted from the origin, if there is one."""
        if self.origin is not None:
            return (index >= self.end_frame) - (index < self.start_frame)
        return (time >= self.end_time - CLOSE) - (time < self.start_time - CLOSE)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Span:
        """From what `dataclasses.asdict` made of one."""
        origin = fields.get("origin")
        return cls(**fields | {"origin": Origin(**origin) if origin else None})


def origin_of(clock: str | None, facts: Mapping[str, Any], start: float | None) -> Origin | None:
    """Where a clip's frames are counted from; None where the file's own times find them.

    clock: of the clip. facts: of its unit, first_packet, first_pts and first_frame. start: of its unit, s.
    """
    if clock != COUNTED:
        return None
    return Origin(facts.get("first_packet") or 0, facts.get("first_pts"), facts.get("first_frame") or 0, start)


def span_of(unit: Unit, clip: Clip) -> Span:
    """Where a clip's frames lie, for reading them again."""
    origin = origin_of(clip.clock, unit.facts, unit.start)
    return Span(clip.start_frame, clip.end_frame, clip.start_time, clip.end_time, origin)


@dataclass(frozen=True)
class ClipForm:
    """The form that a clip's bytes are to have.

    snap: packets may be copied from a keyframe near its start; False: its own frames exactly, so encoded again. trim:
    largest share of its frames that a copy may lose. size: shorter side in px, never enlarged, square pixels then; fps:
    frame rate; codec: "h264": any of them asks for encoding again. crf, preset: of libx264. threads: of decoder and
    encoder. max_pixels: largest picture that is opened, px.
    """

    snap: bool = True
    trim: float = 0.1
    size: int | None = None
    fps: float | None = None
    codec: str | None = None
    crf: int = 18
    preset: str = "veryfast"
    threads: int = 1
    max_pixels: int = MAX_PIXELS

    @property
    def may_copy(self) -> bool:
        """Whether packets may be copied, where the source allows it."""
        return self.snap and self.size is None and self.fps is None and self.codec is None

    def most_lost(self, frames: int) -> int:
        """How many of so many frames a copy may lose."""
        return int(self.trim * frames + 1e-9)


@dataclass(frozen=True)
class Extracted:
    """A clip's bytes, and what they are.

    bytes: an mp4 with one video stream that starts at time 0. start_frame, end_frame, start_time, end_time: the span
    of the source that they show. num_frames: frames that they decode to (equal to the span's, unless a frame rate was
    asked for). width, height: as displayed, px. how: "copy" or "transcode". why: for a transcode, the reason.
    """

    bytes: bytes
    start_frame: int
    end_frame: int
    start_time: float
    end_time: float
    num_frames: int
    fps: float
    width: int
    height: int
    how: str
    codec: str
    why: str = ""


class CannotCopy(Exception):
    """Why the packets of a clip cannot be copied; never leaves this package."""


@contextmanager
def opened(
    path: str,
    *,
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    around: tuple[float, float] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a source. around: presentation times that will be read. Raises ExtractError, and
    StoreError."""
    try:
        check_file(path)
        source = reader(path) if is_remote(path) else None
        container, stream = open_video(path, threads=threads, max_pixels=max_pixels, source=source)
    except VideoError as error:
        raise ExtractError(str(error)) from error
    with container:
        if source is not None and around is not None:
            source.expected = place_of(stream, *around)
        yield container, stream


def place_of(stream: Any, start: float, end: float) -> tuple[int, int] | None:
    """Bytes of the file that hold the packets between two times, from a keyframe on; None where its header does not say."""
    index = list(stream.index_entries)
    if not stream.frames or len(index) != stream.frames:
        return None
    base = float(stream.time_base)
    first = max(
        (at for at, entry in enumerate(index) if entry.is_keyframe and entry.timestamp * base <= start), default=0
    )
    last = next((at for at, entry in enumerate(index) if entry.timestamp * base > end + CLOSE), len(index)) + PAST
    inside = index[first:last]
    return (min(entry.pos for entry in inside), max(entry.pos + entry.size for entry in inside)) if inside else None


def plain(error: Exception) -> str:
    """An error's reason without FFmpeg's number and the file's name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def rate_of(stream, frames: int, seconds: float) -> float:
    """Frames per second of a clip: the source's average, unless the clip's own differs by more than 2%."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    measured = frames / seconds if seconds > 0 else rate
    return rate if rate and abs(measured / rate - 1) < 0.02 else measured


def as_displayed(frame: av.VideoFrame, stream) -> tuple[int, int]:
    """(width, height) with sample aspect ratio and orientation applied."""
    return displayed(frame.width, frame.height, aspect_of(stream), orientation.of(frame).sideways)


def frames_from(
    source: Any, stream: Any, spans: list[Span], back: float | None
) -> Iterator[tuple[int, av.VideoFrame, float, float]]:
    """(index, frame, time, when the next one is shown) from before the first span on, past what cannot be decoded.

    spans: of one file, with the same origin. back: how far before the first to start, s; None: at the file's start. Where
    there is no origin the index says nothing. Raises ValueError where it should have one.
    """
    base, origin = float(stream.time_base), spans[0].origin
    first = None
    if origin is None:
        goal = int((min(span.start_time for span in spans) - (back or 0.0)) / base)
        if back is not None and goal > (stream.start_time or 0):  # some containers cannot seek to their start
            source.seek(goal, stream=stream, backward=True)
    elif origin.pts is not None:
        first = Mark(origin.packet, origin.pts)
    stretch = Stretch(source, stream, first, counted=origin is not None)
    clock, index, held = clock_of(stream), origin.frame if origin else 0, None
    for frame in decoded_frames(stretch):
        if frame is None:
            continue
        time = seconds_of(frame, base)
        if origin is not None:
            if held is None and origin.time is not None and time is not None:
                clock = clock_of(stream, origin.time - time)
            time = clock(time, decoding_of(frame, base))
        elif time is None or (held is not None and time <= held[-1]):
            raise ValueError("the file's clock is not sound, which its row does not know: annotate it again")
        if held is not None:
            yield *held, time
        held = index, frame, time
        index += 1
    if held is not None:
        yield *held, held[-1] + clock.usual
