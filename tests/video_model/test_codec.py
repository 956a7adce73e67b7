"""Facts about the small codec and its temporal decoder."""

from __future__ import annotations

import json

import pytest
import torch

from tests.video_model.moving import moving_shapes, to_uint8
from video_model.codecs.protocol import CodecError, to_float
from video_model.codecs.small import CodecConfig, SmallCodec, principal_components
from video_model.codecs.small_training import measured_psnr, train_codec
from video_model.codecs.temporal_decoder import (
    PatchDiscriminator,
    TemporalOptions,
    balanced,
    train_temporal_decoder,
    with_temporal_layers,
)

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
    frames = moving_shapes(48, 4, side=16).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=factor, channels=channels, widths=widths))
    seen: list[int] = []
    report = train_codec(
        codec, frames, 40, seed=1, held_out=frames[:16], progress=lambda step, steps, loss: seen.append(step)
    )
    assert seen == list(range(1, 41)) and report.steps == 40
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


@pytest.mark.parametrize("steps", [0, 1, 2, 19, 20, 21, 40])
def test_any_number_of_steps_works(steps: int) -> None:
    frames = moving_shapes(2, 2, side=8).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,)))
    report = train_codec(codec, frames, steps, batch=1)
    assert report.steps == steps and (report.psnr == pytest.approx(report.psnr_start, abs=1e-3)) == (steps == 0)


def test_saved_and_loaded_codec_is_the_same(tmp_path) -> None:
    frames = moving_shapes(4, 2, side=16).flatten(0, 1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,)))
    train_codec(codec, frames, 3, batch=4)
    codec.save(tmp_path / "codec")
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["codec.json", "codec.safetensors"]
    again = SmallCodec.load(tmp_path / "codec")
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


def test_errors_name_the_thing_and_the_fix(tmp_path) -> None:
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


@pytest.fixture(scope="module")
def image_codec() -> SmallCodec:
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8, 16)))
    train_codec(codec, moving_shapes(50, 4, side=16, seed=1).flatten(0, 1), 20)
    return codec


def shaken(codec: SmallCodec) -> SmallCodec:
    """The codec with temporal layers that are not zero."""
    grown = with_temporal_layers(codec)
    torch.manual_seed(0)
    with torch.no_grad():
        for block in grown.decoder.temporal_blocks:
            torch.nn.init.normal_(block.conv2.weight, std=0.1)
        torch.nn.init.normal_(grown.decoder.temporal_out.weight, std=0.1)
    return grown


def test_fresh_temporal_layers_change_nothing_to_the_bit(image_codec: SmallCodec) -> None:
    latents = image_codec.encode(to_float(moving_shapes(2, 5, seed=2)))
    grown = with_temporal_layers(image_codec)
    assert torch.equal(grown.decode(latents), image_codec.decode(latents))
    assert all(torch.sigmoid(block.mix) == 0.5 for block in grown.decoder.temporal_blocks)
    with pytest.raises(CodecError, match="temporal layers already"):
        with_temporal_layers(grown)


def test_the_blend_weights_the_temporal_side(image_codec: SmallCodec) -> None:
    latents = image_codec.encode(to_float(moving_shapes(1, 5, seed=2)))
    grown = shaken(image_codec)
    torch.nn.init.zeros_(grown.decoder.temporal_out.weight)
    for mix, differs in ((0.0, True), (-200.0, False)):  # a = 0: the spatial side alone
        for block in grown.decoder.temporal_blocks:
            torch.nn.init.constant_(block.mix, mix)
        assert torch.equal(grown.decode(latents), image_codec.decode(latents)) != differs


def test_one_frame_and_independent_images_take_the_image_decoder(image_codec: SmallCodec) -> None:
    latents = image_codec.encode(to_float(moving_shapes(2, 5, seed=2)))
    grown = shaken(image_codec)
    assert (grown.decode(latents) - image_codec.decode(latents)).abs().max() > 0.01
    assert torch.equal(grown.decode(latents[:, :1]), image_codec.decode(latents[:, :1]))
    assert torch.equal(grown.decode(latents, images=True), image_codec.decode(latents))


def test_windows_of_a_temporal_decoder_equal_the_whole(image_codec: SmallCodec) -> None:
    latents = torch.randn(1, 29, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    grown = shaken(image_codec)
    assert grown.decoder.reach == 9
    whole = grown.decode(latents)
    grown.frames_at_once = 4
    assert (grown.decode(latents) - whole).abs().max() < 1e-5
    far = latents.clone()
    far[:, 19:] = 0  # frame 9 sees frames 0 to 18
    assert torch.allclose(grown.decode(far)[:, 9], whole[:, 9], atol=1e-5)
    far[:, 18] = 0
    assert not torch.allclose(grown.decode(far)[:, 9], whole[:, 9], atol=1e-7)


@pytest.fixture(scope="module")
def slow_clips() -> torch.Tensor:
    return moving_shapes(300, 6, side=16, speed=0.7, seed=1)


@pytest.fixture(scope="module")
def trained_codec(slow_clips: torch.Tensor) -> SmallCodec:
    codec = SmallCodec(CodecConfig(factor=4, channels=8, widths=(16, 32)))
    train_codec(codec, slow_clips.flatten(0, 1), 60, batch=32)
    return codec


def test_temporal_decoder_lowers_flicker_at_no_worse_psnr(trained_codec, slow_clips, tmp_path) -> None:
    codec, held_out = trained_codec, moving_shapes(24, 6, side=16, speed=0.7, seed=9)
    image, encoder = codec.fingerprint, codec.encoder_fingerprint
    steps: list[int] = []
    grown, report = train_temporal_decoder(
        codec,
        slow_clips,
        60,
        held_out=held_out,
        options=TemporalOptions(batch=16, learning_rate=1e-2),
        progress=lambda step, *_: steps.append(step),
    )
    assert steps[-1] == report.steps == 60
    assert report.flicker_error < 0.9 * report.flicker_error_start
    assert abs(report.flicker - 1) < 0.5 * abs(report.flicker_start - 1)
    assert report.psnr > report.psnr_start
    assert grown.encoder_fingerprint == encoder and grown.fingerprint != image
    assert codec.fingerprint == image  # the codec given is left alone
    latents = grown.encode(to_float(held_out[:2]))
    assert torch.equal(latents, codec.encode(to_float(held_out[:2])))
    assert torch.equal(grown.decode(latents[:, :1]), codec.decode(latents[:, :1]))
    assert all(parameter.requires_grad for parameter in grown.parameters())
    grown.save(tmp_path)
    assert torch.equal(SmallCodec.load(tmp_path).decode(latents), grown.decode(latents))


def test_temporal_decoder_of_clean_latents_gains_on_both_counts(trained_codec, slow_clips) -> None:
    held_out = moving_shapes(24, 6, side=16, speed=0.7, seed=9)
    _, report = train_temporal_decoder(
        trained_codec, slow_clips, 60, held_out=held_out, options=TemporalOptions(16, 1e-2, latent_noise=0)
    )
    assert report.psnr > report.psnr_start + 0.05
    assert report.flicker_error < report.flicker_error_start


def test_temporal_training_is_the_same_for_the_same_seed(image_codec: SmallCodec) -> None:
    clips = moving_shapes(3, 4, side=16)
    first, second, other = (train_temporal_decoder(image_codec, clips, 3, seed=seed)[0] for seed in (5, 5, 6))
    assert first.fingerprint == second.fingerprint != other.fingerprint
    with pytest.raises(CodecError, match="T >= 2"):
        train_temporal_decoder(image_codec, clips[:, :1], 1)


def test_the_discriminator_learns_to_tell_still_from_shuffled() -> None:
    critic = PatchDiscriminator(width=8)
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3)
    video = to_float(moving_shapes(8, 6, side=16))
    broken = video[:, [3, 0, 5, 1, 4, 2]]  # the same frames, out of order: only time tells
    for _ in range(60):
        loss = torch.relu(1 - critic(video)).mean() + torch.relu(1 + critic(broken)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert critic(video).mean() > critic(broken).mean() + 0.5


def test_the_adversary_has_the_share_given() -> None:
    main, other = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([0.0, 7.0]), torch.tensor([0.0])]
    mixed = balanced(main, other, 0.5)
    assert torch.allclose(mixed[0], torch.tensor([3.0, 2.5])) and torch.allclose(mixed[1], torch.tensor([4.0]))
