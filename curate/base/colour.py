"""The colour space of a decoded picture: one rule for everything that reads or writes pictures.

Tags first. Where a tag is missing:
- RGB formats (and palettes) have no matrix and are full range.
- Grey formats are full range whatever their tag says, as everything that is built on FFmpeg reads them.
- YUV is BT.709 if the source has 720 lines or more (whatever size it is reduced to), else BT.601; BT.2020 where its
  transfer is HDR.
- YUV is limited range; FFmpeg's yuvj formats are full.

HDR is a transfer of PQ or HLG (ITU-R BT.2100); see `curate.base.tone`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["BT601", "BT709", "Colour", "describe", "of", "weights"]

# Numbers of ISO/IEC 23091-2, which are FFmpeg's too: (name, weight of red, weight of blue in luma).
MATRICES = {
    1: ("bt709", 0.2126, 0.0722),
    4: ("fcc", 0.30, 0.11),
    5: ("bt470bg", 0.299, 0.114),
    6: ("smpte170m", 0.299, 0.114),
    7: ("smpte240m", 0.212, 0.087),
    9: ("bt2020nc", 0.2627, 0.0593),
    10: ("bt2020c", 0.2627, 0.0593),
}
BT709, BT601, BT2020 = 1, 6, 9
LIMITED, FULL = 1, 2
UNTAGGED = 2  # of matrices, primaries and transfers
PQ, HLG = 16, 18
HD_LINES = 720

OTHER_MATRICES = {0: "gbr", 8: "ycgco", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp"}
PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
TRANSFERS = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip


@dataclass(frozen=True)
class Colour:
    """How the samples of a picture are interpreted.

    matrix: a key of MATRICES, also for RGB, where it is the one to convert to. rgb: the samples are RGB already. full:
    their range. transfer: PQ, HLG, or UNTAGGED for all others, which are shown unchanged.
    """

    matrix: int
    full: bool
    rgb: bool = False
    transfer: int = UNTAGGED

    @property
    def hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def range(self) -> int:
        """FFmpeg's number: 1 limited, 2 full."""
        return FULL if self.full else LIMITED


def of(frame: Any) -> Colour:
    """The colour of an av.VideoFrame as it was decoded (its height decides where a tag is missing)."""
    tags = frame.colorspace, frame.color_range, frame.color_trc
    return resolved(frame.format.name, *tags, frame.height >= HD_LINES)


@lru_cache(maxsize=256)
def resolved(form: str, matrix: int, span: int, transfer: int, hd: bool) -> Colour:
    from av import VideoFormat  # here: some importers need the tables only, without PyAV

    hdr = transfer in (PQ, HLG)
    rgb = VideoFormat(form).is_rgb or form.startswith(("pal", "mono", "xyz"))
    if rgb or matrix not in MATRICES:
        matrix = BT2020 if hdr else BT709 if hd else BT601
    full = rgb or span == FULL or form.startswith(("yuvj", "gray", "ya8", "ya16"))
    return Colour(matrix, full, rgb, transfer if hdr else UNTAGGED)


def weights(matrix: int) -> tuple[float, float, float]:
    """(red, green, blue) in luma."""
    _, red, blue = MATRICES[matrix]
    return red, 1 - red - blue, blue


def name(matrix: int) -> str:
    """What FFmpeg's scale filter calls it."""
    return {5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}.get(matrix, MATRICES[matrix][0])


def swscale(colour: Colour) -> int:
    """The matrix in swscale's numbers: for it, 5 is BT.601 and 9 is BT.2020."""
    return {6: 5, 10: 9}.get(colour.matrix, colour.matrix)


def describe(frame: Any) -> dict[str, Any]:
    """A frame's colour tags in FFmpeg's names (None where untagged), its bits a sample, and whether it is HDR."""
    matrix = frame.colorspace
    return {
        "transfer": TRANSFERS.get(frame.color_trc),
        "primaries": PRIMARIES.get(frame.color_primaries),
        "matrix": MATRICES[matrix][0] if matrix in MATRICES else OTHER_MATRICES.get(matrix),
        "range": {LIMITED: "tv", FULL: "pc"}.get(frame.color_range),
        "bit_depth": max((part.bits for part in frame.format.components), default=8),
        "hdr": of(frame).hdr,
    }
