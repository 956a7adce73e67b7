"""A decoded frame and the few small views of it that observers need, computed at most once, straight from the planes.

Converting a 1080p frame to RGB costs as much as decoding it. Nothing here does that: the planes of the decoder are
sampled or averaged down first, and only the few pixels that are left are converted. Planar YUV of any depth and
subsampling is read in place; other formats (palettes, packed RGB, semi-planar) go through swscale at the small size.
"""

from __future__ import annotations

import re
from functools import lru_cache

import av
import cv2
import numpy as np

THUMB = (27, 48)  # rows, columns: what TransNetV2 looks at
PLANAR = re.compile(r"^(?:yuvj?a?4\d\dp|gray)(9|10|12|14|16)?(?:le)?$")


@lru_cache(maxsize=64)
def planar(name: str) -> int | None:
    """Bits of one sample, if the pixel format is planar YUV (or grey) that numpy can view; else None."""
    found = PLANAR.match(name)
    return int(found[1] or 8) if found else None


@lru_cache(maxsize=16)
def yuv_to_rgb(full: bool, bt709: bool) -> np.ndarray:
    """[3, 4] affine map from 8-bit (Y, U, V) to 8-bit RGB; ITU-R BT.601 or BT.709, full or limited (16..235) range."""
    kr, kb = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    kg = 1 - kr - kb
    y_scale, c_scale = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    rows = np.array(
        [
            [y_scale, 0, 2 * (1 - kr) * c_scale],
            [y_scale, -2 * (1 - kb) * kb / kg * c_scale, -2 * (1 - kr) * kr / kg * c_scale],
            [y_scale, 2 * (1 - kb) * c_scale, 0],
        ]
    )
    offset = rows @ np.array([0 if full else 16, 128, 128])
    return np.hstack([rows, -offset[:, None]]).astype(np.float32)


@lru_cache(maxsize=64)
def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) of a picture of that shape, its shorter side reduced to at most `size`."""
    scale = min(1.0, size / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    """The plane at (width, height): halved by averaging while it can be, then interpolated. Also enlarges.

    OpenCV halves many times faster than it averages by any other factor; a ratio below two needs no averaging.
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
    """[height, width / 2 ** halvings]: 2 ** halvings rows of the plane for each that is wanted, averaged by halving."""
    if plane.shape[0] > height << halvings:
        plane = plane[lines(plane.shape[0], height << halvings)]
    else:
        plane = cv2.resize(plane, (plane.shape[1], height << halvings), interpolation=cv2.INTER_LINEAR)
    for _ in range(halvings):
        rows, columns = plane.shape[0] // 2, max(1, plane.shape[1] // 2)
        plane = cv2.resize(plane[:, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
    return plane


class Picture:
    """A frame reduced for stills, kept as planes until someone wants to see it: converting costs more than keeping."""

    __slots__ = ("_planes", "_to_rgb", "_turn")

    def __init__(self, planes: tuple[np.ndarray, ...], to_rgb: np.ndarray | None, turn: int) -> None:
        self._planes, self._to_rgb, self._turn = planes, to_rgb, turn

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self._planes)

    def rgb(self) -> np.ndarray:
        """[h, w, 3] uint8 RGB as displayed."""
        first = self._planes[0]
        if self._to_rgb is None:
            rgb = first
        elif len(self._planes) == 1:
            rgb = colours((first, np.full_like(first, 128), np.full_like(first, 128)), self._to_rgb)
        else:
            height, width = first.shape
            rgb = colours((first, *(cv2.resize(plane, (width, height)) for plane in self._planes[1:])), self._to_rgb)
        return turned(rgb, self._turn)


def colours(yuv: tuple[np.ndarray, ...], to_rgb: np.ndarray) -> np.ndarray:
    return cv2.transform(cv2.merge(yuv), to_rgb)


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """The picture as displayed. turn: quarter turns counter-clockwise, as FFmpeg's display matrix says."""
    return np.ascontiguousarray(np.rot90(image, turn)) if turn else image


class Frame:
    """One decoded frame (curate.stage.Frame). Views are computed when first asked for.

    index: in the file, presentation order. time: presentation seconds. shown: how long, s, as far as the file says, else 0.
    key: a keyframe. width, height: as displayed,
    with rotation and sample aspect ratio applied. turn: quarter turns counter-clockwise from stored to displayed.
    """

    __slots__ = ("_av", "_bits", "_grey", "_grey_size", "_picture_size", "_planes", "_thumb", "_to_rgb",
                 "height", "index", "key", "shown", "time", "turn", "width")  # fmt: skip

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
        self.index, self.time, self.key = index, time, bool(source.key_frame)
        self._grey_size, self._picture_size = grey, picture
        self._planes = self._thumb = self._grey = self._to_rgb = None
        self.turn = round(source.rotation / 90) % 4
        self.width, self.height = displayed(source.width, source.height, aspect, self.turn)
        self._bits = planar(source.format.name)

    def planes(self) -> list[np.ndarray]:
        """Views of the decoder's planes, [h, w] uint8 or uint16, not copied: valid as long as this frame."""
        if self._planes is None:
            kind = np.uint8 if self._bits == 8 else np.uint16
            step = 1 if self._bits == 8 else 2
            self._planes = [
                np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // step)[:, : plane.width]
                for plane in self._av.planes[:3]
            ]
        return self._planes

    def to_rgb(self) -> np.ndarray:
        """The colour matrix this frame asks for; BT.709 where it does not say and is 720 lines or more."""
        if self._to_rgb is None:
            source, name = self._av, self._av.format.name
            full = source.color_range == 2 or name.startswith("yuvj")
            space = source.colorspace
            self._to_rgb = yuv_to_rgb(full, space == 1 or (space not in (5, 6) and source.height >= 720))
        return self._to_rgb

    @property
    def thumb(self) -> np.ndarray:
        """[27, 48, 3] uint8 RGB, the picture squashed to that size: two or four rows behind each of its own, averaged."""
        if self._thumb is None:
            rows, columns = THUMB if self.turn % 2 == 0 else THUMB[::-1]
            if self._bits:
                # A few rows of each plane are read, whole: as many samples spread over all rows would cost the cache
                # as much as the picture itself. Luma is halved twice and chroma, where half as wide, once.
                planes = self.planes()
                widest = planes[0].shape[1]
                # From about 900 lines on half as many rows do: its pixel is the mean of 80 luma samples then.
                most = 2 if planes[0].shape[0] < 32 * rows else 1
                parts = [strip(plane, rows, most if 3 * plane.shape[1] > 2 * widest else most - 1) for plane in planes]
                width = parts[0].shape[1]
                parts = [part if part.shape[1] == width else shrink(part, width, rows) for part in parts]
                stack = cv2.resize(np.concatenate(parts), (columns, rows * len(parts)), interpolation=cv2.INTER_AREA)
                yuv = [self._eight(stack[i * rows : (i + 1) * rows]) for i in range(len(parts))]
                if len(yuv) == 1:
                    yuv += [np.full((rows, columns), 128, np.uint8)] * 2
                rgb = colours(tuple(yuv), self.to_rgb())
            else:
                size = min(columns * 4, self._av.width), min(rows * 4, self._av.height)
                rgb = shrink(self._swscale(*size, "rgb24", "FAST_BILINEAR"), columns, rows)
            self._thumb = turned(rgb, self.turn)
        return self._thumb

    @property
    def grey(self) -> np.ndarray:
        """[h, w] uint8 luma as displayed, shorter side about `grey` px (a whole fraction of the picture's)."""
        if self._grey is None:
            width, height = (self.width, self.height) if self.turn % 2 == 0 else (self.height, self.width)
            factor = max(1, round(min(width, height) / self._grey_size))
            width, height = max(1, width // factor), max(1, height // factor)
            if self._bits:
                luma = self._eight(shrink(self.planes()[0], width, height))
            else:
                luma = self._swscale(width, height, "gray", "AREA")
            self._grey = turned(luma, self.turn)
        return self._grey

    def reduced(self) -> Picture:
        """The picture at the stills' size, still as planes (a third of RGB's bytes)."""
        width, height = fitted(self.width, self.height, self._picture_size)
        if self.turn % 2:
            width, height = height, width
        if not self._bits:
            return Picture((self._swscale(width, height, "rgb24", "AREA"),), None, self.turn)
        planes, kept = self.planes(), []
        for i, plane in enumerate(planes):
            if i == 0:
                size = (width, height)
            else:
                size = min(plane.shape[1], (width + 1) // 2), min(plane.shape[0], (height + 1) // 2)
            kept.append(self._eight(shrink(plane, *size)))
        # A plane that already has the size is a view of the decoder's buffer: copy it, or the buffer stays alive.
        kept = tuple(plane if plane.base is None else plane.copy() for plane in kept)
        return Picture(kept, self.to_rgb(), self.turn)

    def picture(self) -> np.ndarray:
        """[h, w, 3] uint8 RGB as displayed, shorter side at most `picture` px."""
        return self.reduced().rgb()

    def _eight(self, plane: np.ndarray) -> np.ndarray:
        return plane if self._bits == 8 else cv2.convertScaleAbs(plane, alpha=1 / (1 << (self._bits - 8)))

    def _swscale(self, width: int, height: int, form: str, how: str) -> np.ndarray:
        small = self._av.reformat(width=width, height=height, format=form, interpolation=how, threads=1)
        return small.to_ndarray()


@lru_cache(maxsize=16)
def displayed(width: int, height: int, aspect: float, turn: int) -> tuple[int, int]:
    """(width, height) after sample aspect ratio (the shorter-changed side is enlarged, none reduced) and rotation."""
    if aspect > 1:
        width = round(width * aspect)
    elif 0 < aspect < 1:
        height = round(height / aspect)
    return (height, width) if turn % 2 else (width, height)
