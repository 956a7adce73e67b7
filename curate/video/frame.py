"""A decoded frame and the small views of it that observers need, computed at most once, from the decoder's planes.

Converting a 1080p frame to RGB costs as much as decoding it. Here the planes are sampled or averaged down first, and only
the remaining pixels are converted. For the views that are needed many times a second (`thumb`, `grey`) planar YUV of any
depth and subsampling is read in place; other formats (palettes, packed RGB, semi-planar, alpha), and all pictures, go
through swscale at the small size (curate.base.pixels).
"""

from __future__ import annotations

import re
from functools import lru_cache

import av
import cv2
import numpy as np

from curate.base import colour as colours
from curate.base import orientation, pixels, tone
from curate.base.colour import Colour
from curate.base.orientation import Orientation

THUMB = (27, 48)  # rows, columns: the input size of TransNetV2
PLANAR = re.compile(r"^(?:yuvj?4\d\dp|gray)(9|10|12|14|16)?(?:le)?$")


@lru_cache(maxsize=64)
def planar(name: str) -> int | None:
    """Bits of a sample, if the pixel format is planar YUV (or grey) without alpha that numpy can view; else None."""
    found = PLANAR.match(name)
    return int(found[1] or 8) if found else None


@lru_cache(maxsize=16)
def yuv_to_rgb(colour: Colour) -> np.ndarray:
    """[3, 4] affine map from 8-bit (Y, U, V) to 8-bit RGB."""
    kr, kg, kb = colours.weights(colour.matrix)
    y_scale, c_scale = (1.0, 1.0) if colour.full else (255 / 219, 255 / 224)
    rows = np.array(
        [
            [y_scale, 0, 2 * (1 - kr) * c_scale],
            [y_scale, -2 * (1 - kb) * kb / kg * c_scale, -2 * (1 - kr) * kr / kg * c_scale],
            [y_scale, 2 * (1 - kb) * c_scale, 0],
        ]
    )
    offset = rows @ np.array([0 if colour.full else 16, 128, 128])
    return np.hstack([rows, -offset[:, None]]).astype(np.float32)


@lru_cache(maxsize=64)
def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) of a picture of that shape, its shorter side reduced to at most `size`."""
    scale = min(1.0, size / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """The plane at (width, height): halved by averaging as often as possible, then interpolated. Also enlarges.

    OpenCV halves far faster than it averages by any other factor; a ratio below two needs no averaging.
    """
    while plane.shape[1] >= 2 * width and plane.shape[0] >= 2 * height:
        rows, columns = plane.shape[0] // 2, plane.shape[1] // 2
        plane = cv2.resize(plane[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
    if plane.shape[:2] != (height, width):
        plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane


@lru_cache(maxsize=64)
def lines(height: int, count: int) -> np.ndarray:
    """Indices of `count` rows spread evenly over `height`."""
    return ((np.arange(count) + 0.5) * height / count).astype(np.intp)


def strip(plane: np.ndarray, height: int, halvings: int) -> np.ndarray:
    """[height, width / 2 ** halvings]: 2 ** halvings rows of the plane for each output row, averaged by halving."""
    if plane.shape[0] > height << halvings:
        plane = plane[lines(plane.shape[0], height << halvings)]
    else:
        plane = cv2.resize(plane, (plane.shape[1], height << halvings), interpolation=cv2.INTER_LINEAR)
    for _ in range(halvings):
        rows, columns = plane.shape[0] // 2, max(1, plane.shape[1] // 2)
        plane = cv2.resize(plane[:, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
    return plane


class Picture:
    """A frame reduced for stills, kept as planes until it is needed, since most are never converted.

    source: the reduced frame as stored, with its colour; or pixels [h, w, 3] uint8 RGB, where it is not opaque YUV.
    """

    __slots__ = ("_colour", "_orientation", "_source")

    def __init__(
        self,
        source: av.VideoFrame | np.ndarray,
        colour: Colour | None = None,
        orientation: Orientation = orientation.UPRIGHT,
    ) -> None:
        self._source, self._colour, self._orientation = source, colour, orientation

    @property
    def nbytes(self) -> int:
        if isinstance(self._source, np.ndarray):
            return self._source.nbytes
        return sum(plane.buffer_size for plane in self._source.planes)

    def rgb(self) -> np.ndarray:
        """[h, w, 3] uint8 RGB as displayed."""
        source = self._source
        if not isinstance(source, np.ndarray):
            source = pixels.rgb(source, source.width, source.height, self._colour)
        return self._orientation.apply(source)


class Frame:
    """One decoded frame. Views are computed from the decoder's planes on first use, at most once.

    index: in the file, presentation order. time: presentation seconds. shown: its duration by the file, s, 0 if unknown.
    key: a keyframe. jumped: a clip may begin here: it differs from the frame before as across a hard cut, or the recording
    was interrupted. width, height: as displayed, with orientation and sample aspect ratio applied. colour: how its samples
    are interpreted. orientation: from stored to displayed. Of an interlaced frame all views show one field.
    """

    __slots__ = ("_av", "_bits", "_grey", "_grey_size", "_picture_size", "_planes", "_thumb",
                 "colour", "height", "index", "jumped", "key", "orientation", "shown", "time", "width")  # fmt: skip

    def __init__(
        self,
        source: av.VideoFrame,
        index: int,
        time: float,
        *,
        shown: float = 0.0,
        aspect: float = 1.0,
        grey: int = 96,
        picture: int = 360,
    ) -> None:
        self._av, self.shown = source, shown
        self.index, self.time, self.key, self.jumped = index, time, bool(source.key_frame), False
        self._grey_size, self._picture_size = grey, picture
        self._planes = self._thumb = self._grey = None
        self.orientation, self.colour = orientation.of(source), colours.of(source)
        self.width, self.height = displayed(source.width, source.height, aspect, self.orientation.sideways)
        self._bits = planar(source.format.name)

    def planes(self) -> list[np.ndarray]:
        """Views of the decoder's planes, [h, w] uint8 or uint16, not copied: valid as long as this frame."""
        if self._planes is None:
            kind = np.uint8 if self._bits == 8 else np.uint16
            step = 1 if self._bits == 8 else 2
            every = 2 if self._av.interlaced_frame else 1
            self._planes = [
                np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // step)[::every, : plane.width]
                for plane in self._av.planes[:3]
            ]
        return self._planes

    @property
    def thumb(self) -> np.ndarray:
        """[27, 48, 3] uint8 RGB, the picture squashed to that size; each row is the mean of two or four."""
        if self._thumb is None:
            rows, columns = THUMB[::-1] if self.orientation.sideways else THUMB
            if self._bits:
                # Full rows are read, a few of each plane: as many samples spread over all rows would load the whole picture
                # into the cache. Luma is halved twice, and chroma of half its width once.
                planes = self.planes()
                widest = planes[0].shape[1]
                # From about 900 lines, half as many rows suffice: a pixel is then the mean of 80 luma samples.
                most = 2 if planes[0].shape[0] < 32 * rows else 1
                parts = [strip(plane, rows, most if 3 * plane.shape[1] > 2 * widest else most - 1) for plane in planes]
                width = parts[0].shape[1]
                parts = [part if part.shape[1] == width else shrink(part, width, rows) for part in parts]
                stack = cv2.resize(np.concatenate(parts), (columns, rows * len(parts)), interpolation=cv2.INTER_AREA)
                yuv = [self._eight(stack[i * rows : (i + 1) * rows]) for i in range(len(parts))]
                if len(yuv) == 1:
                    yuv += [np.full((rows, columns), 128, np.uint8)] * 2
                rgb = cv2.transform(cv2.merge(yuv), yuv_to_rgb(self.colour))
                if self.colour.hdr:
                    rgb = tone.sdr(rgb, self.colour.transfer)
            else:
                size = (
                    min(columns * 4, self._av.width),
                    min(rows * 4, self._av.height),
                )  # swscale refuses extreme ratios
                rgb = shrink(pixels.rgb(self._av, *size, self.colour), columns, rows)
            self._thumb = self.orientation.apply(rgb)
        return self._thumb

    @property
    def grey(self) -> np.ndarray:
        """[h, w] uint8 luma as displayed, shorter side about `grey` px (a whole fraction of the picture's)."""
        if self._grey is None:
            width, height = self._as_stored(self.width, self.height)
            factor = max(1, round(min(width, height) / self._grey_size))
            width, height = max(1, width // factor), max(1, height // factor)
            if self._bits:
                luma = self._eight(shrink(self.planes()[0], width, height))
            else:
                luma = cv2.cvtColor(pixels.rgb(self._av, width, height, self.colour), cv2.COLOR_RGB2GRAY)
            self._grey = self.orientation.apply(luma)
        return self._grey

    def reduced(self) -> Picture:
        """The picture at the stills' size, as planes; 4:2:0 where it is not reduced, else 4:4:4."""
        width, height = self._as_stored(*fitted(self.width, self.height, self._picture_size))
        if not self._bits or self.colour.hdr:
            small = pixels.rgb(self._av, width, height, self.colour)
        else:
            whole = width >= self._av.width and height >= self._av.height
            small = pixels.scaled(self._av, width, height, "yuv420p" if whole else "yuv444p", self.colour)
            if small is self._av:  # not scaled: copy it, to not hold the decoder's buffer
                small = pixels.copy_of(small)
        return Picture(small, self.colour, self.orientation)

    def picture(self) -> np.ndarray:
        """[h, w, 3] uint8 RGB as displayed, shorter side at most `picture` px."""
        size = self._as_stored(*fitted(self.width, self.height, self._picture_size))
        return self.orientation.apply(pixels.rgb(self._av, *size, self.colour))

    def _as_stored(self, width: int, height: int) -> tuple[int, int]:
        return (height, width) if self.orientation.sideways else (width, height)

    def _eight(self, plane: np.ndarray) -> np.ndarray:
        return plane if self._bits == 8 else cv2.convertScaleAbs(plane, alpha=1 / (1 << (self._bits - 8)))


@lru_cache(maxsize=16)
def displayed(width: int, height: int, aspect: float, sideways: bool) -> tuple[int, int]:
    """(width, height) after sample aspect ratio (the shorter-changed side is enlarged, none reduced) and orientation."""
    if aspect > 1:
        width = round(width * aspect)
    elif 0 < aspect < 1:
        height = round(height / aspect)
    return (height, width) if sideways else (width, height)
