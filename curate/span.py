"""What is cut out of a source, what came of it, and the small things that copying and transcoding share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av

from curate.base import orientation
from curate.frame import displayed
from curate.opening import MAX_PIXELS, VideoError, open_video
from curate.video import aspect_of

CLOSE = 1e-4  # s: presentation times closer than this are the same frame


class ExtractError(Exception):
    """A clip whose bytes could not be made. One line: the file and the plain reason."""


@dataclass(frozen=True)
class Span:
    """What is to be cut: a clip's frames [start_frame, end_frame), its times and its shot's, in presentation
    seconds."""

    start_frame: int
    end_frame: int
    start_time: float
    end_time: float
    shot_start_time: float
    shot_end_time: float

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame


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
def opened(path: str, *, threads: int = 1, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a source. Raises ExtractError."""
    try:
        container, stream = open_video(path, threads=threads, max_pixels=max_pixels)
    except VideoError as error:
        raise ExtractError(str(error)) from error
    with container:
        yield container, stream


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
