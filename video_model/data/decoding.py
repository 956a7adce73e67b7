"""Bytes of a clip or a picture to frames of a given size: resized to cover it, cropped around the centre.

Colours, orientation and resizing are those of the stills (curate.base.pixels), for pictures too. Imports nothing heavy:
it runs in child processes that start often.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from curate.base import orientation, pixels
from video_model.data.windows import Stretch, thinned
from video_model.errors import first_line

MAX_PIXELS = 8192 * 4320
PNG_DEPTH = 24  # place of the byte that says how many bits a sample has
NO_PICTURE = "is not a picture that Pillow knows"
REASON = 4000  # characters of a reason, at most


class DecodeError(Exception):
    """Bytes that cannot be used; the message is the plain reason."""


class Frames(NamedTuple):
    """pixels: [N, H, W, 3] uint8 RGB as displayed. times: [N] s, from the first frame that could have been taken. first: of
    the window, where it begins in truth."""

    pixels: np.ndarray
    times: np.ndarray
    first: int = 0


@dataclass(frozen=True)
class Job:
    """Frames wanted of a file. kind: "video" or "image". wanted: their numbers, ascending, counted in presentation order;
    or those of a stretch. size: (height, width) px."""

    kind: str
    wanted: tuple[int, ...] | Stretch
    size: tuple[int, int]
    data: bytes = field(repr=False, default=b"")

    @property
    def most(self) -> int:
        """How many frames there can be at most."""
        if not isinstance(self.wanted, Stretch):
            return len(self.wanted)
        return self.wanted.window.length if self.wanted.window else self.wanted.end - self.wanted.start

    def request(self) -> dict[str, Any]:
        """All but the bytes, as plain JSON values."""
        wanted = asdict(self.wanted) if isinstance(self.wanted, Stretch) else self.wanted
        return {"kind": self.kind, "wanted": wanted, "size": self.size}

    @classmethod
    def of(cls, request: dict[str, Any], data: bytes) -> Job:
        """The inverse of `request`."""
        wanted = request["wanted"]
        wanted = Stretch.of(wanted) if isinstance(wanted, dict) else tuple(wanted)
        return cls(request["kind"], wanted, tuple(request["size"]), data)


def decode(job: Job) -> np.ndarray:
    """The pixels of `frames_of`. Raises DecodeError."""
    return frames_of(job).pixels


def frames_of(job: Job) -> Frames:
    """The frames (orientation and sample aspect ratio applied). Raises DecodeError."""
    if not job.data:
        raise DecodeError("has no bytes")
    if job.kind == "image":
        count = 1 if isinstance(job.wanted, Stretch) else len(job.wanted)
        return Frames(np.stack([_picture(job.data, job.size)] * count), np.zeros(count))
    try:
        if isinstance(job.wanted, Stretch):
            return _of_stretch(job.data, job.wanted, job.size)
        found = {
            shown.number: (time, _cropped(shown, job.size))
            for time, shown in _decoded(job.data, job.wanted[0], job.wanted[-1] + 1)
            if shown.number in job.wanted
        }
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise DecodeError(f"cannot be decoded ({getattr(error, 'strerror', None) or error})") from None
    return _together(found[number] for number in job.wanted)  # which may be named twice


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Decoders` does with a Job's `request()` and its `data`: `pixels` and `times`, or a `reason`."""
    try:
        frames = frames_of(Job.of(request, request["data"]))
    except DecodeError as error:
        return {"reason": str(error)[:REASON]}
    return {
        "pixels": np.ascontiguousarray(frames.pixels).data.cast("B"),
        "times": frames.times.tolist(),
        "first": frames.first,
    }


def cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture scaled, its proportions kept, until it just covers `size`."""
    scale = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * scale)), max(size[1], round(width * scale))


def _of_stretch(data: bytes, wanted: Stretch, size: tuple[int, int]) -> Frames:
    window, total = wanted.window, 0
    kept = thinned(_decoded(data, wanted.start, wanted.end, wanted.fps), wanted.fps, wanted.rates)
    if window is None:
        return _together((time, _cropped(shown, size)) for time, shown in kept)
    found = []
    for time, shown in thinned(kept, wanted.fps, window.rate and (window.rate,)):
        total += 1
        if total > window.first:
            found.append((time, _cropped(shown, size)))
        if len(found) == window.length:
            return _together(found)._replace(first=window.first)
    if total < window.length:
        raise DecodeError(window.unfilled(total))
    return _of_stretch(
        data, replace(wanted, window=replace(window, first=total - window.length)), size
    )  # its last ones


def _together(frames: Iterable[tuple[float, np.ndarray]]) -> Frames:
    times, shown = zip(*frames, strict=True)
    return Frames(np.stack(shown), np.array(times))


class _Shown(NamedTuple):
    """A decoded frame. number: in presentation order. aspect: of its pixels."""

    number: int
    frame: av.VideoFrame
    aspect: float


def _decoded(data: bytes, start: int, end: int, fps: float = 0.0) -> Iterator[tuple[float, _Shown]]:
    """(time, frame) of the frames from `start` to before `end`; s from the first of them. A frame without a time, or one
    that is not after the frame before, is 1/fps later. Raises DecodeError, FFmpegError, ValueError."""
    # The empty whitelist: a playlist that poses as a clip cannot name other files.
    options = {"protocol_whitelist": "none"}
    with av.open(io.BytesIO(data), container_options=options, metadata_errors="replace") as container:
        stream, aspect = _opened(container)
        number, origin, before = -1, None, 0.0
        for number, frame in enumerate(container.decode(stream)):
            if number < start:
                continue
            if number == start:
                origin = frame.time
            elif frame.time is None or origin is None or frame.time - origin <= before:
                before += 1 / (fps or 1.0)
            else:
                before = frame.time - origin
            yield before, _Shown(number, frame, aspect)
            if number + 1 >= end:
                return
        raise DecodeError(f"is cut short: has {number + 1} frames, and number {end - 1} is wanted")


def _opened(container: Any) -> tuple[Any, float]:
    """(the stream of pictures, with its limits set; the aspect ratio of its pixels). Raises DecodeError."""
    if not container.streams.video:
        raise DecodeError("has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise DecodeError("has a codec that FFmpeg cannot decode")
    if context.width * context.height > MAX_PIXELS:
        raise DecodeError(f"has pictures of {context.width} x {context.height}, more than {MAX_PIXELS} px")
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    ratio = stream.sample_aspect_ratio or context.sample_aspect_ratio
    return stream, float(ratio) if ratio and 0.1 < ratio < 10 else 1.0


def _cropped(shown: _Shown, size: tuple[int, int]) -> np.ndarray:
    frame = shown.frame
    if frame.is_corrupt:
        raise DecodeError(f"frame {shown.number} is damaged")
    how = orientation.of(frame)
    target = size[::-1] if how.sideways else size
    height, width = cover(frame.height, max(1, round(frame.width * shown.aspect)), target)
    if height * width > MAX_PIXELS:
        raise DecodeError(f"has a shape of {frame.width} x {frame.height} that cannot be resized to {size}")
    picture = pixels.rgb(frame, width, height)
    top, left = (height - target[0]) // 2, (width - target[1]) // 2
    return how.apply(picture[top : top + target[0], left : left + target[1]])


def _picture(data: bytes, size: tuple[int, int]) -> np.ndarray:
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as source:
            warnings.simplefilter("ignore")
            if source.width * source.height > MAX_PIXELS:
                raise DecodeError(f"has {source.width} x {source.height} px, more than {MAX_PIXELS}")
            if source.mode in ("I", "F"):
                raise DecodeError("has samples of 32 bits, whose range nothing tells; save it with 8 or 16")
            source.load()  # here, as FFmpeg shows a part of what is cut short
            frame = _deep(data) if source.format == "PNG" and data[PNG_DEPTH] == 16 else _shallow(source)
            return np.ascontiguousarray(_cropped(_Shown(0, frame, 1.0), size))
    except UnidentifiedImageError:
        raise DecodeError(f"{NO_PICTURE}, or its header is damaged") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot be decoded ({first_line(error)})") from None


def _shallow(source: Image.Image) -> av.VideoFrame:
    """A picture as Pillow reads it, upright."""
    picture = ImageOps.exif_transpose(source)
    if picture.mode.startswith("I;16"):
        return _of_16_bits(np.asarray(picture).astype(np.uint16))
    clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    colours = np.asarray(picture.convert("RGBA" if clear else "RGB"))
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(colours), format="rgba" if clear else "rgb24")


def _deep(data: bytes) -> av.VideoFrame:
    """A PNG of 16 bits, upright: Pillow would keep the upper 8, and of grey show white."""
    with av.open(io.BytesIO(data), container_options={"protocol_whitelist": "none"}) as container:
        frame = next(container.decode(_opened(container)[0]))
    form = "gray16le" if frame.format.name.startswith(("gray", "ya")) else "rgb48le"
    return _of_16_bits(orientation.of(frame).apply(frame.reformat(format=form).to_ndarray()))


def _of_16_bits(samples: np.ndarray) -> av.VideoFrame:
    """Of [h, w] or [h, w, 3]; rounded here, as swscale divides by 256 where it should be 257."""
    eight = ((samples.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)
    colours = eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, 2)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(colours), format="rgb24")
