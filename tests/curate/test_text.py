import cv2
import numpy as np
import pytest

from curate.models.textboxes import Craft, RapidOcr
from curate.stages.text import Text, covered_share
from tests.curate.pictures import HEIGHT, WIDTH, clip, plain, sample, unit


def quad(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


class FixedDetector:
    """A detector with fixed results, by the picture's first pixel; raises for pixel value 255."""

    name = "fixed"

    def __init__(self, **by_pixel):
        self.by_pixel = {int(key[1:]): value for key, value in by_pixel.items()}

    def quads(self, images):
        if any(int(image[0, 0, 0]) == 255 for image in images):
            raise RuntimeError("too bright to read")
        return [self.by_pixel.get(int(image[0, 0, 0]), []) for image in images]


def test_overlaps_count_once_and_what_leaves_the_picture_does_not():
    assert covered_share([], 100, 50) == 0.0
    assert covered_share([quad(0, 0, 50, 50)], 100, 50) == 0.5
    # 40x20 and 40x20 that share 20x10: 800 + 800 - 200 of 5000.
    assert covered_share([quad(0, 0, 40, 20), quad(20, 10, 60, 30)], 100, 50) == pytest.approx(1400 / 5000, abs=1e-12)
    assert covered_share([quad(10, 10, 30, 30)] * 3, 100, 50) == pytest.approx(400 / 5000, abs=1e-12)
    assert covered_share([quad(-50, -50, 10, 10)], 100, 50) == pytest.approx(100 / 5000, abs=1e-12)
    assert covered_share([quad(-9, -9, 200, 200)], 100, 50) == 1.0


def test_turned_quads_and_any_order_of_corners():
    diamond = np.array([[50, 10], [70, 30], [50, 50], [30, 30]], np.float32)  # 20 px half diagonals: 800 px
    assert covered_share([diamond], 100, 80) == pytest.approx(0.1, abs=1e-12)
    assert covered_share([diamond[[0, 2, 1, 3]]], 100, 80) == pytest.approx(0.1, abs=1e-12)


def test_the_fullest_still_counts():
    detector = FixedDetector(p1=[], p2=[quad(0, 0, WIDTH, HEIGHT / 2)], p3=[quad(0, 0, 64, 36), quad(100, 0, 164, 36)])
    stills = [plain((value, 0, 0)) for value in (1, 2, 3)]
    first, second = clip(*stills), clip(stills[0], start=20)
    Text(detector)([unit(first, second)])
    assert first.values["text_area"] == 0.5 and first.values["text_boxes"] == 2
    assert second.values["text_area"] == 0.0 and second.values["text_boxes"] == 0


def test_a_clip_that_fails_costs_only_itself():
    good, bad, unreadable, without = (
        clip(plain((1, 0, 0))),
        clip(plain((255, 0, 0)), start=20),
        clip(start=40, still_first=b"no picture"),
        clip(start=60),
    )
    Text(lambda: FixedDetector(p1=[quad(0, 0, WIDTH, HEIGHT)]))([unit(good, bad, unreadable, without)])
    assert good.values["text_area"] == 1.0 and not good.errors
    for clip_, reason in ((bad, "too bright to read"), (unreadable, "not a picture"), (without, "no stills")):
        assert clip_.values["text_area"] is None and clip_.values["text_boxes"] is None
        assert reason in clip_.errors["text"]


@pytest.fixture(scope="module")
def craft():
    return Craft(size=384)


@pytest.fixture(scope="module")
def rapid():
    return RapidOcr(size=480)


def written(scale=1.0):
    """A picture with three drawn lines, and the share of it that their boxes cover."""
    picture = cv2.GaussianBlur(sample("bigbuckbunny.mp4", 60), (0, 0), 8)
    picture = cv2.resize(picture, (WIDTH, HEIGHT))
    covered = 0
    for row, line in enumerate(("WINNOW CURATES", "forty two clips", "EVERY REASON KEPT")):
        (width, height), base = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1.2, 3)
        cv2.putText(picture, line, (60, 90 + 100 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
        covered += width * (height + base)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), covered / (WIDTH * HEIGHT)


@pytest.mark.parametrize("detector", ["craft", "rapid"])
def test_area_of_drawn_lines(detector, request):
    model = request.getfixturevalue(detector)
    picture, covered = written()
    empty = plain()
    lines, nothing = clip(picture), clip(empty, start=20)
    Text(model)([unit(lines, nothing)])
    assert 0.75 * covered < lines.values["text_area"] < 1.25 * covered
    assert nothing.values["text_area"] == 0.0


def test_quads_are_in_the_pixels_of_the_picture_given(rapid):
    small, large = (rapid.quads([written(scale)[0]])[0] for scale in (1.0, 2.0))
    assert len(small) and large.max() > 1.5 * small.max()
    area = [covered_share(found, WIDTH * scale, HEIGHT * scale) for found, scale in ((small, 1), (large, 2))]
    assert area[1] == pytest.approx(area[0], rel=0.15)


def test_craft_finds_what_easyocr_finds(craft):
    """Same boxes as EasyOCR's own detection of the same picture, whatever was done to the network for speed."""
    import torch
    from easyocr.craft import CRAFT
    from easyocr.detection import copyStateDict, get_textbox

    reference = CRAFT()
    file = Craft.weights()[0].path
    reference.load_state_dict(copyStateDict(torch.load(file, map_location="cpu", weights_only=True)))
    picture = cv2.resize(written()[0], (384, 216))
    [expected] = get_textbox(reference.eval(), picture, 384, 1.0, 0.7, 0.4, 0.4, False, "cpu")
    [found] = craft.quads([picture])
    assert len(expected) >= 3
    assert np.array_equal(found.reshape(len(found), 8).astype(np.int32), np.array(expected))


def test_weights_are_named_without_loading():
    for model in (Craft, RapidOcr):
        [weights] = model.weights(size=480)
        assert weights.path.is_file() and weights.role == "text_area" and "package" in weights.source


def test_winograd_gives_what_the_direct_convolution_gives():
    import torch

    from curate.models.winograd import WinogradConv2d, accelerated, is_eligible

    torch.manual_seed(0)
    for height, width in ((24, 40), (7, 13), (1, 1)):
        direct = torch.nn.Conv2d(128, 24, 3, padding=1)
        x = torch.randn(2, 128, height, width)
        with torch.inference_mode():
            expected, found = direct(x), WinogradConv2d(direct)(x)
        assert found.shape == expected.shape and (found - expected).abs().max() < 2e-5
    layers = [torch.nn.Conv2d(128, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    layers[1].running_mean.uniform_(-1, 1), layers[1].running_var.uniform_(0.5, 2)
    block = torch.nn.Sequential(*layers).eval()
    with torch.inference_mode():
        expected = block(x)
        assert (accelerated(block)(x) - expected).abs().max() < 2e-5
    assert isinstance(block[0], WinogradConv2d)
    for other in ({"dilation": 6, "padding": 6}, {"stride": 2}, {"padding": 0}, {"groups": 2}):
        assert not is_eligible(torch.nn.Conv2d(128, 8, 3, **{"padding": 1, **other}))
