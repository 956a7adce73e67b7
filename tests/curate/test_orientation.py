"""All eight orientations of a display matrix, in everything that shows a picture: which corner is which is known."""

import io

import av
import cv2
import numpy as np
import pytest

from curate.base import orientation
from curate.clip import Unit, Video
from curate.export.extract import Span, extract
from curate.observers.motion import FlowMotion
from curate.video.decode import frames, probe
from video_model.data.decoding import Job, decode

W, H, COUNT = 96, 64, 24
CORNERS = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [220, 220, 220]]], np.uint8)  # [2, 2, 3]
ALL = [(degrees, mirror) for degrees in (0, 90, 180, 270) for mirror in (False, True)]


def stored() -> np.ndarray:
    """[H, W, 3]: four corners of four colours."""
    return np.kron(CORNERS, np.ones((H // 2, W // 2, 1), np.uint8))


def displayed(image: np.ndarray, degrees: int, mirror: bool) -> np.ndarray:
    """What `set_display_rotation(degrees, hflip=mirror)` asks for: mirrored, then turned clockwise by -degrees."""
    turned = np.rot90(image[:, ::-1] if mirror else image, -degrees // 90 if mirror else degrees // 90)
    return np.ascontiguousarray(turned)


def film(path, degrees: int, mirror: bool, pictures) -> str:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"crf": "8", "g": "12", "bf": "0", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.set_display_rotation(degrees, hflip=mirror)
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return str(path)


def agree(picture: np.ndarray, wanted: np.ndarray, most: float = 4.0) -> None:
    assert picture.shape == wanted.shape
    assert np.abs(picture.astype(float) - wanted).mean() < most


@pytest.mark.parametrize(("degrees", "mirror"), ALL)
def test_every_reader_shows_it_alike(tmp_path, degrees, mirror):
    path = film(tmp_path / "a.mp4", degrees, mirror, [stored()] * COUNT)
    wanted = displayed(stored(), degrees, mirror)
    frame = next(iter(frames(Unit(Video(path)))))
    assert (frame.width, frame.height) == wanted.shape[1::-1]
    agree(frame.picture(), wanted)
    agree(frame.reduced().rgb(), wanted)
    agree(frame.thumb, cv2.resize(wanted, (48, 27), interpolation=cv2.INTER_AREA), most=8)
    agree(frame.grey, cv2.cvtColor(wanted, cv2.COLOR_RGB2GRAY), most=20)  # luma of limited range
    facts = probe(path)
    assert (facts["width"], facts["height"]) == wanted.shape[1::-1]

    span = Span(12, 24, 1.0, 2.0)
    copied, coded, small = extract(path, span), extract(path, span, snap=False), extract(path, span, size=32)
    assert copied.how == "copy" and coded.how == small.how == "transcode"
    for cut in (copied, coded, small):
        with av.open(io.BytesIO(cut.bytes)) as made:
            first = next(made.decode(video=0))
            how = orientation.of(first)
            picture = how.apply(first.to_ndarray(format="rgb24"))
        assert how == (orientation.of(frame._av) if cut is copied else orientation.UPRIGHT)
        size = (cut.width, cut.height)
        agree(picture, cv2.resize(wanted, size, interpolation=cv2.INTER_AREA))
        (trained,) = decode(Job("video", (3,), size[::-1], cut.bytes))
        agree(trained, cv2.resize(wanted, size, interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(("degrees", "mirror"), ALL)
def test_a_pan_goes_the_way_that_is_displayed(tmp_path, degrees, mirror):
    rng = np.random.default_rng(3)
    scene = cv2.resize(rng.integers(0, 256, (16, 40, 3), np.uint8), (400, H), interpolation=cv2.INTER_CUBIC)
    path = film(tmp_path / "pan.mp4", degrees, mirror, [scene[:, 2 * i : 2 * i + W].copy() for i in range(COUNT)])
    motion = FlowMotion()
    for frame in frames(Unit(Video(path)), grey=64):
        motion.see(frame)
    right, down = np.mean([sample.pan for sample in motion.samples], 0)
    # As stored the camera pans to the right: a step of (1, 0), carried through the same turn as the picture.
    mark = np.zeros((3, 3))
    mark[1, 2] = 1
    y, x = np.argwhere(displayed(mark, degrees, mirror))[0] - 1
    assert right * x + down * y > 20 and abs(right * y) + abs(down * x) < 8


def test_a_matrix_that_is_no_quarter_turn_is_the_nearest_one():
    turned = [round(65536 * value) for value in (0.94, 0.34, 0, -0.34, 0.94, 0, 0, 0, 16384)]
    assert orientation.of_matrix(tuple(turned)) == orientation.UPRIGHT
