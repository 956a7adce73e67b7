"""Decoded frames to RGB pixels of a given size, for stills, training, input images and HDR transcodes.

swscale reduces by area averaging, with full chroma and accurate rounding; without these it is off by a level or more.
Colours as in `curate.base.colour`, HDR as in `curate.base.tone`. Of an interlaced frame one field is used, to avoid
combing. Alpha is ignored, as FFmpeg does.
"""

from __future__ import annotations

import threading

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from curate.base import colour as colours
from curate.base.colour import Colour
from curate.base.tone import sdr

__all__ = ["copy_of", "field_of", "flags", "rgb", "scaled"]

LOCAL = threading.local()
ACCURATE = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND

# Planar: swscale writes packed RGB of 16 bits (rgb48le) in wrong colours from 4:2:0 at its own size, with these flags.
DEEP = "gbrp16le"


def flags(width: int, height: int, to_width: int, to_height: int) -> int:
    """Flags of swscale: area averaging to reduce, bicubic where either side is enlarged."""
    how = Interpolation.AREA if to_width <= width and to_height <= height else Interpolation.BICUBIC
    return int(how | ACCURATE)


def rgb(frame: av.VideoFrame, width: int, height: int, colour: Colour | None = None) -> np.ndarray:
    """[height, width, 3] uint8 RGB of the frame as stored, scaled. colour: if already known."""
    colour = colour or colours.of(frame)
    if colour.hdr:
        return sdr(scaled(frame, width, height, DEEP, colour).to_ndarray(), colour.transfer)
    return scaled(frame, width, height, "rgb24", colour).to_ndarray()


def scaled(frame: av.VideoFrame, width: int, height: int, form: str, colour: Colour) -> av.VideoFrame:
    """The frame in another size and pixel format, with the same matrix; full range if the format is RGB or grey."""
    frame = field_of(frame) if frame.interlaced_frame else frame
    matrix = colours.swscale(colour)
    span = colours.FULL if form.startswith(("rgb", "gbr", "gray")) else colour.range
    return reformatter(frame.format.name, form).reformat(
        frame,
        width,
        height,
        form,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=colour.range,
        dst_color_range=span,
        interpolation=flags(frame.width, frame.height, width, height),
        threads=1,
    )


def reformatter(form: str, to: str) -> VideoReformatter:
    """Cached by pair of formats and thread, so that swscale's tables are reused for the next frame."""
    made = LOCAL.__dict__
    if (form + to) not in made:
        made[form + to] = VideoReformatter()
    return made[form + to]


def field_of(frame: av.VideoFrame) -> av.VideoFrame:
    """The first field (lines 0, 2, 4, ...) of an interlaced frame copied into a frame of half the height."""
    return _lines(frame, 2)


def copy_of(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy that does not hold the decoder's buffer."""
    return _lines(frame, 1)


def _lines(frame: av.VideoFrame, every: int) -> av.VideoFrame:
    made = av.VideoFrame(frame.width, max(1, frame.height // every), frame.format.name)
    for old, new in zip(frame.planes, made.planes, strict=True):
        size = min(old.line_size, new.line_size)
        before = np.frombuffer(memoryview(old), np.uint8).reshape(old.height, old.line_size)
        lines = before[::every, :size][: new.height]
        after = np.frombuffer(memoryview(new), np.uint8).reshape(new.height, new.line_size)
        after[: len(lines), :size] = lines
    for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
        setattr(made, tag, getattr(frame, tag))
    return made
