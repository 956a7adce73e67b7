"""Rotation and mirroring from stored to displayed picture: all eight orientations of a display matrix.

PyAV's `frame.rotation` gives the rotation only: a mirrored (selfie) matrix reads as 180 or 0 degrees.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

__all__ = ["UPRIGHT", "Orientation", "of"]


@dataclass(frozen=True)
class Orientation:
    """From stored to displayed: mirrored left to right first if `mirror`, then `turns` quarter turns counter-clockwise."""

    turns: int = 0
    mirror: bool = False

    @property
    def sideways(self) -> bool:
        """Width and height are swapped."""
        return self.turns % 2 == 1

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The stored picture [h, w, ...] as displayed, contiguous; the same array if it is upright."""
        if self == UPRIGHT:
            return image
        return np.ascontiguousarray(np.rot90(image[:, ::-1] if self.mirror else image, self.turns))

    def filters(self) -> tuple[str, ...]:
        """FFmpeg filters that do the same, in order."""
        turn = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}.get(self.turns, ())
        if not self.mirror:
            return turn
        return ("vflip",) if self.turns == 2 else ("hflip", *turn)


UPRIGHT = Orientation()


def of(frame: Any) -> Orientation:
    """The orientation of an av.VideoFrame, from its display matrix; UPRIGHT where it has none.

    Other angles are rounded to a quarter turn.
    """
    try:
        # Not frame.side_data: it makes a reference cycle with the frame, whose buffer of megabytes would stay until the
        # garbage collector runs.
        data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]
    except ValueError:  # PyAV raises for kinds of side data that it does not know; the rotation can still be read
        return Orientation(round(frame.rotation / 90) % 4)
    return UPRIGHT if data is None else of_matrix(struct.unpack("=9i", bytes(data)))


def of_matrix(matrix: tuple[int, ...]) -> Orientation:
    """matrix: FFmpeg's nine integers a b u, c d v, x y w: a stored point (p, q) is displayed at (a p + c q, b p + d q),
    q downwards."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirror = a * d - b * c < 0
    if mirror:
        a, b = -a, -b  # without the mirroring, a pure rotation
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(0 if a + d >= 0 else 2, mirror)
    return Orientation(3 if b - c > 0 else 1, mirror)
