"""Bytes of a clip or a picture to frames of a given size: resized to cover it, cropped around the centre.

Colours, orientation and resizing are those of the stills (curate.base.pixels), for pictures too. Imports nothing heavy:
it runs in child processes that start often.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from curate.base import orientation, pixels
from video_model.errors import DataError, first_line

MAX_PIXELS = 8192 * 4320
REASON = 4000  # characters of a reason, at most


class DecodeError(Exception):
    """Bytes that cannot be used; the message is the plain reason."""


@dataclass(frozen=True)
class Job:
    """Frames wanted of a file. kind: "video" or "image". indices: ascending, counted in presentation order.
    size: (height, width) px."""

    kind: str
    indices: tuple[int, ...]
    size: tuple[int, int]
    data: bytes = field(repr=False, default=b"")

    def request(self) -> dict[str, Any]:
        """All but the bytes, as plain JSON values."""
        return {"kind": self.kind, "indices": self.indices, "size": self.size}

    @classmethod
    def of(cls, request: dict[str, Any], data: bytes) -> Job:
        """The inverse of `request`."""
        return cls(request["kind"], tuple(request["indices"]), tuple(request["size"]), data)


def decode(job: Job) -> np.ndarray:
    """The frames, [N, H, W, 3] uint8 RGB as displayed (orientation and sample aspect ratio applied). Raises DecodeError."""
    if not job.data:
        raise DecodeError("has no bytes")
    if job.kind == "image":
        return np.stack([_picture(job.data, job.size)] * len(job.indices))
    return _frames(job.data, job.indices, job.size)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Decoders` does with a Job's `request()` and its `data`: `pixels`, or a `reason`."""
    try:
        frames = decode(Job.of(request, request["data"]))
    except DecodeError as error:
        return {"reason": str(error)[:REASON]}
    return {"pixels": np.ascontiguousarray(frames).data.cast("B")}


def cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture scaled, its proportions kept, until it just covers `size`."""
    scale = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * scale)), max(size[1], round(width * scale))


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a picture file, as training sees it. Raises DataError."""
    try:
        return decode(Job("image", (0,), size, path.read_bytes()))[0]
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: is not a picture that can be read ({error}): give a PNG or JPEG") from None


def _frames(data: bytes, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    wanted, found = set(indices), {}
    try:
        # The empty whitelist: a playlist that poses as a clip cannot name other files.
        options = {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), container_options=options, metadata_errors="replace") as container:
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
            aspect = float(ratio) if ratio and 0.1 < ratio < 10 else 1.0
            number = -1
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    if frame.is_corrupt:
                        raise DecodeError(f"frame {number} is damaged")
                    found[number] = _cropped(frame, aspect, size)
                if number >= indices[-1]:
                    break
            else:
                raise DecodeError(f"is cut short: has {number + 1} frames, and number {indices[-1]} is wanted")
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise DecodeError(f"cannot be decoded ({getattr(error, 'strerror', None) or error})") from None
    return np.stack([found[number] for number in indices])


def _cropped(frame: av.VideoFrame, aspect: float, size: tuple[int, int]) -> np.ndarray:
    how = orientation.of(frame)
    target = size[::-1] if how.sideways else size
    height, width = cover(frame.height, max(1, round(frame.width * aspect)), target)
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
            picture = ImageOps.exif_transpose(source)
            clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
            picture = np.asarray(picture.convert("RGBA" if clear else "RGB"))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgba" if clear else "rgb24")
            return np.ascontiguousarray(_cropped(frame, 1.0, size))
    except UnidentifiedImageError:
        raise DecodeError("is not a picture that Pillow knows, or its header is damaged") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"cannot be decoded ({first_line(error)})") from None
