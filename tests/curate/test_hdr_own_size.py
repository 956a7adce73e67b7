"""HDR in colour is the same picture at its own size as at any other: swscale's packed 16-bit RGB was not."""

import av
import numpy as np
import pytest

from curate.base import colour, pixels


def frame_of(form: str, transfer: int, luma: int, blue: int, red: int) -> av.VideoFrame:
    """A flat picture of 64 x 48, BT.2020, 10 bits."""
    frame = av.VideoFrame(64, 48, form)
    for plane, level in zip(frame.planes, (luma, blue, red), strict=True):
        values = np.full(plane.height * plane.line_size // 2, level, np.uint16)
        plane.update(values.tobytes())
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, transfer, 1
    return frame


@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
@pytest.mark.parametrize("form", ["yuv420p10le", "yuv422p10le", "yuv444p10le"])
@pytest.mark.parametrize(("luma", "blue", "red"), [(500, 400, 640), (450, 640, 460), (600, 512, 512)])
def test_a_colour_does_not_depend_on_the_size(form, transfer, luma, blue, red):
    frame = frame_of(form, transfer, luma, blue, red)
    own = pixels.rgb(frame, 64, 48)
    assert own.shape == (48, 64, 3) and own.dtype == np.uint8
    for size in ((62, 46), (32, 24), (96, 72)):
        assert np.abs(pixels.rgb(frame, *size).mean((0, 1)) - own.mean((0, 1))).max() < 1.5
    spread = own.mean((0, 1))
    assert (spread.max() - spread.min() < 2) == (blue == red == 512)
