"""Facts about public VAEs as codecs: number for number what diffusers gives, on tiny random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

from video_model.codecs.protocol import CodecError
from video_model.codecs.public_vae import DiffusersCodec, PublicCodec

torch.set_num_threads(1)
WIDTHS = (32, 32, 32)


@pytest.fixture(scope="module")
def image_vae(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AutoencoderKL]:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=WIDTHS,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    ).eval()
    folder = tmp_path_factory.mktemp("image")
    vae.save_pretrained(folder)
    return folder, vae


@pytest.fixture(scope="module")
def video_vae(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AutoencoderKLTemporalDecoder]:
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 3
    vae = AutoencoderKLTemporalDecoder(down_block_types=blocks, block_out_channels=WIDTHS, latent_channels=4).eval()
    folder = tmp_path_factory.mktemp("video")
    vae.save_pretrained(folder / "vae")
    return folder, vae


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_image_vae_equals_diffusers(image_vae) -> None:
    folder, vae = image_vae
    codec = PublicCodec(folder=str(folder)).load(folder)
    assert isinstance(codec, DiffusersCodec) and (codec.factor, codec.channels) == (4, 4)
    pixels = noise(2, 3, 3, 16, 24).clamp(-1, 1)
    latents = codec.encode(pixels)
    expected = (vae.encode(pixels.flatten(0, 1)).latent_dist.mode() - 0.1) * 0.5
    assert latents.shape == (2, 3, 4, 4, 6)
    assert (latents.flatten(0, 1) - expected).abs().max() < 1e-5
    back = vae.decode(expected / 0.5 + 0.1).sample.clamp(-1, 1)
    assert (codec.decode(latents).flatten(0, 1) - back).abs().max() < 1e-5


@torch.no_grad()
def test_temporal_vae_equals_diffusers(video_vae) -> None:
    folder, vae = video_vae
    codec = PublicCodec(folder=str(folder)).load(folder)
    scale = vae.config.scaling_factor
    assert scale == 0.18215 and codec.temporal
    pixels = noise(2, 5, 3, 16, 16).clamp(-1, 1)
    latents = codec.encode(pixels)
    expected = vae.encode(pixels.flatten(0, 1)).latent_dist.mode() * scale
    assert (latents.flatten(0, 1) - expected).abs().max() < 1e-5
    back = vae.decode(expected / scale, num_frames=5).sample.clamp(-1, 1)
    assert (codec.decode(latents).flatten(0, 1) - back).abs().max() < 1e-5


@torch.no_grad()
def test_chunks_equal_the_whole_where_frames_are_independent(image_vae, video_vae) -> None:
    latents = noise(2, 5, 4, 4, 4)
    whole, chunks = DiffusersCodec(image_vae[0], frames_at_once=99), DiffusersCodec(image_vae[0], frames_at_once=2)
    assert (whole.decode(latents) - chunks.decode(latents)).abs().max() < 1e-5
    folder, vae = video_vae
    temporal = DiffusersCodec(folder, frames_at_once=3)
    decoded = temporal.decode(latents)
    raw = latents / temporal.scale
    for video in range(2):
        for first, last in ((0, 3), (3, 5)):
            part = vae.decode(raw[video, first:last], num_frames=last - first).sample.clamp(-1, 1)
            assert (decoded[video, first:last] - part).abs().max() < 1e-5
    assert (decoded - DiffusersCodec(folder).decode(latents)).abs().max() > 1e-4  # frames do see each other


@torch.no_grad()
def test_independent_images_do_not_see_each_other(video_vae) -> None:
    codec = DiffusersCodec(video_vae[0])
    latents = noise(1, 3, 4, 4, 4)
    together = codec.decode(latents, images=True)
    for frame in range(3):
        alone = codec.decode(latents[:, frame : frame + 1])
        assert (together[:, frame : frame + 1] - alone).abs().max() < 1e-5


def test_memory_is_bounded_by_frames_at_once(image_vae, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = DiffusersCodec(image_vae[0], frames_at_once=2)
    most: list[int] = []
    codec.vae.decoder.register_forward_pre_hook(lambda _module, arguments: most.append(len(arguments[0])))
    codec.vae.encoder.register_forward_pre_hook(lambda _module, arguments: most.append(len(arguments[0])))
    codec.decode(codec.encode(noise(1, 5, 3, 8, 8)))
    assert most == [2, 2, 1, 2, 2, 1]


def test_fingerprints_see_the_weights_that_they_are_about(image_vae, video_vae) -> None:
    codec = DiffusersCodec(image_vae[0])
    first, encoder = codec.fingerprint, codec.encoder_fingerprint
    changed = DiffusersCodec(image_vae[0])
    assert (changed.fingerprint, changed.encoder_fingerprint) == (first, encoder)
    changed = DiffusersCodec(image_vae[0])
    changed.vae.decoder.conv_in.weight[0, 0, 0, 0] += 1
    assert changed.fingerprint != first and changed.encoder_fingerprint == encoder
    assert DiffusersCodec(video_vae[0]).encoder_fingerprint != encoder


def test_wrong_folders_are_named(image_vae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = image_vae
    with pytest.raises(CodecError, match="nowhere: there is no such folder"):
        DiffusersCodec(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(CodecError, match="a UNet2DModel is not a codec"):
        DiffusersCodec(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CodecError, match=r"has no diffusion_pytorch_model\.safetensors"):
        DiffusersCodec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CodecError, match="cannot be read"):
        DiffusersCodec(tmp_path)
    codec = DiffusersCodec(folder)
    with pytest.raises(CodecError, match="multiples of the factor, 4 px"):
        codec.encode(torch.zeros(1, 1, 3, 10, 8))
    with pytest.raises(CodecError, match="decode takes"):
        codec.decode(torch.zeros(1, 1, 3, 4, 4))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CodecError, match=r"need diffusers .* pip install "):
        DiffusersCodec(folder)
