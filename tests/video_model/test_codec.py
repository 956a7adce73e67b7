"""Facts about the small codec and its temporal decoder."""

from __future__ import annotations

import json

import pytest
import torch

from tests.video_model.moving import moving_shapes, to_uint8
from video_model.codec import CodecConfig, CodecError, SmallCodec, load_codec, principal_components, to_float
from video_model.codec_training import measured_psnr, train_codec

torch.set_num_threads(1)


def patches_of_known_spectrum(variances: list[float], count: int = 4000) -> torch.Tensor:
    """uint8 [count, 3, 2, 2]: patches whose 12 numbers are independent with the variances given (pixels in [-1, 1])."""
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(count, 12, generator=draw) * torch.tensor(variances).sqrt()
    return to_uint8(torch.nn.functional.pixel_shuffle(rows[:, :, None, None], 2))


def test_pca_error_is_the_sum_of_the_dropped_eigenvalues() -> None:
    frames = patches_of_known_spectrum([0.02 / 2**k for k in range(12)])
    _, values, _ = principal_components(frames, 2)
    assert values[0] == pytest.approx(0.02, rel=0.1) and values[3] == pytest.approx(0.0025, rel=0.1)
    for channels in (1, 4, 11):
        codec = SmallCodec(CodecConfig(factor=2, channels=channels, widths=(8,))).fit(frames)
        pixels = to_float(frames)[:, None]
        error = (codec.decode(codec.encode(pixels)) - pixels).square().sum(dim=(1, 2, 3, 4)).mean()
        assert error == pytest.approx(values[channels:].sum().item(), rel=1e-3)


def test_a_full_pca_is_lossless_and_latents_are_white() -> None:
    frames = patches_of_known_spectrum([0.01] * 12, 500)
    codec = SmallCodec(CodecConfig(factor=2, channels=12, widths=(8,))).fit(frames)
    pixels = to_float(frames)[:, None]
    latents = codec.encode(pixels)
    assert (codec.decode(latents) - pixels).abs().max() < 1e-5
    rows = latents.flatten(1)
    assert rows.mean(0).abs().max() < 1e-4
    assert (rows.T @ rows / len(rows) - torch.eye(12)).abs().max() < 1e-3


def test_constant_pictures_come_back_and_their_latents_are_constant() -> None:
    colours = torch.randint(0, 256, (64, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = colours.expand(-1, -1, 16, 16).contiguous()
    codec = SmallCodec(CodecConfig(factor=8, channels=3, widths=(8, 8))).fit(frames)
    pixels = to_float(frames[:4])[None]
    latents = codec.encode(pixels)
    assert (latents - latents[..., :1, :1]).abs().max() < 1e-5
    assert (codec.decode(latents) - pixels).abs().max() < 1e-4


def test_shapes_and_independence_of_frames() -> None:
    video = moving_shapes(3, 5, side=32)
    codec = SmallCodec(CodecConfig(factor=8, channels=6, widths=(8, 16))).fit(video.flatten(0, 1))
    pixels = to_float(video)
    latents = codec.encode(pixels)
    assert latents.shape == (3, 5, 6, 4, 4) and latents.dtype == torch.float32
    assert codec.decode(latents).shape == pixels.shape
    other = pixels.clone()
    other[:, 1:] = torch.rand(other[:, 1:].shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(codec.encode(other)[:, 0], latents[:, 0])
    assert torch.allclose(codec.encode(pixels[1:2, 2:3])[0, 0], latents[1, 2], atol=1e-5)


@pytest.mark.parametrize(("factor", "channels", "widths"), [(8, 16, (8, 16)), (4, 8, (16,)), (2, 3, (8,))])
def test_training_beats_its_start_and_leaves_unit_latents(factor: int, channels: int, widths: tuple[int, ...]) -> None:
    frames = moving_shapes(24, 4, side=32).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=factor, channels=channels, widths=widths))
    seen: list[int] = []
    report = train_codec(
        codec, frames, 60, seed=1, held_out=frames[:16], progress=lambda step, steps, loss: seen.append(step)
    )
    assert seen == list(range(1, 61)) and report.steps == 60
    assert report.psnr > report.psnr_start + 0.3
    assert report.psnr == pytest.approx(measured_psnr(codec, frames[:16]))
    latents = codec.encode(to_float(frames)[None])[0]
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01


def test_training_is_the_same_to_the_bit_for_the_same_seed() -> None:
    frames = moving_shapes(6, 2, side=16).flatten(0, 1)

    def trained(seed: int) -> str:
        torch.manual_seed(torch.seed() % 1000)  # the global generator has no say
        codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,)))
        train_codec(codec, frames, 5, seed=seed, batch=4)
        return codec.fingerprint

    assert trained(7) == trained(7)
    assert trained(7) != trained(8)


def test_saved_and_loaded_codec_is_the_same(tmp_path) -> None:
    frames = moving_shapes(4, 2, side=16).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,)))
    train_codec(codec, frames, 3, batch=4)
    codec.save(tmp_path / "codec")
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["codec.json", "codec.safetensors"]
    again = load_codec(tmp_path / "codec")
    assert again.fingerprint == codec.fingerprint and again.encoder_fingerprint == codec.encoder_fingerprint
    pixels = to_float(frames)[None]
    assert torch.equal(again.decode(again.encode(pixels)), codec.decode(codec.encode(pixels)))


def test_fingerprint_sees_every_weight_and_the_config() -> None:
    frames = moving_shapes(2, 2, side=16).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,))).fit(frames)
    before, encoder_before = codec.fingerprint, codec.encoder_fingerprint
    with torch.no_grad():
        codec.decoder.conv_out.bias[0] += 1e-3
    assert codec.fingerprint != before and codec.encoder_fingerprint == encoder_before
    with torch.no_grad():
        codec.encoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    assert codec.encoder_fingerprint != encoder_before


def test_errors_name_the_thing_and_the_mend(tmp_path) -> None:
    frames = moving_shapes(2, 2, side=16).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,)))
    with pytest.raises(CodecError, match="has not seen any frames"):
        codec.encode(torch.zeros(1, 1, 3, 16, 16))
    codec.fit(frames)
    with pytest.raises(CodecError, match="18x16: sides must be multiples of the factor, 4 px"):
        codec.encode(torch.zeros(1, 1, 3, 18, 16))
    with pytest.raises(CodecError, match=r"decode takes \[B, T, 4, h, w\]"):
        codec.decode(torch.zeros(1, 1, 5, 4, 4))
    with pytest.raises(ValueError, match=r"factor must be 2, 4, 8 or 16 \(got 3\)"):
        CodecConfig(factor=3)
    with pytest.raises(CodecError, match="uint8"):
        train_codec(codec, to_float(frames), 1)
    with pytest.raises(CodecError, match="no codec here"):
        SmallCodec.load(tmp_path / "nothing")
    codec.save(tmp_path)
    other = json.loads((tmp_path / "codec.json").read_text()) | {"channels": 5}
    (tmp_path / "codec.json").write_text(json.dumps(other))
    with pytest.raises(CodecError, match="cannot be read"):
        SmallCodec.load(tmp_path)
    codec.save(tmp_path)
    whole = (tmp_path / "codec.safetensors").read_bytes()
    (tmp_path / "codec.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CodecError, match="cannot be read"):
        SmallCodec.load(tmp_path)
