"""Public variational autoencoders as codecs: AutoencoderKL and AutoencoderKLTemporalDecoder in diffusers' folder format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from curate.base.extras import install_command
from video_model.codecs.original_vae import vae_of_file
from video_model.codecs.protocol import Codec, CodecError, CodecSection
from video_model.encoders.fingerprint import digest
from video_model.errors import first_line
from video_model.published import NotPublished, part_folder, refuse_pickle, weight_files

IMAGES_AT_ONCE = 8
CLASSES = ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
# Of Stable Diffusion 1.x and 2.x, for a plan where there is no folder yet
USUAL = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}


class PublicCodec(CodecSection):
    """A public VAE in diffusers' layout: AutoencoderKL, or AutoencoderKLTemporalDecoder. Needs the diffusers extra."""

    factor: ClassVar[int] = 8  # of every public VAE in use

    kind: Literal["diffusers"] = "diffusers"
    folder: str | None = Field(None, description="of a VAE, or of a pipeline that holds one")
    file: str | None = Field(
        None,
        description="instead: an original single file (.safetensors) of Stable Diffusion 1.x, 2.x or Stable Video Diffusion",
    )
    frames_at_once: int | None = Field(
        None,
        ge=1,
        description="frames decoded at once; unset: 8, and whole videos in a temporal decoder, as the public pipeline does",
    )

    @model_validator(mode="after")
    def _one(self) -> PublicCodec:
        if (self.folder is None) == (self.file is None):
            raise ValueError("codec: name a folder or a file, one of the two")
        return self

    def load(self, folder: Path) -> Codec:
        return DiffusersCodec(self.folder or self.file or "", self.frames_at_once)

    def outline_channels(self) -> int:
        return int(self._settings()["latent_channels"])

    def skeleton(self) -> Codec:
        import diffusers

        config = self._settings()
        made = getattr(diffusers, config["_class_name"]).from_config(config)
        return DiffusersCodec(frames_at_once=self.frames_at_once, vae=made)

    def _settings(self) -> dict[str, Any]:
        """Of config.json; the usual ones where it is not there, and for a single file."""
        try:
            return dict(json.loads((vae_folder(Path(self.folder or "")) / "config.json").read_text()))
        except CodecError:
            return USUAL


class DiffusersCodec(nn.Module):
    """A public VAE behind the codec protocol; latents are the posterior's mean, shifted and scaled to about unit scale.

    vae: in place of a folder. folder: with config.json and diffusion_pytorch_model.safetensors (or .fp16.safetensors, or
    shards), or a pipeline's folder with those in vae/; or an original single file, whose shape is read off its tensors.
    frames_at_once: frames per forward pass, which bounds memory. It changes nothing for an image decoder, whose default is
    8. A temporal decoder (Blattmann et al. 2023, arXiv 2311.15127) normalises over all frames that it is given, so each
    chunk of that many frames is decoded as a video of its own; None decodes whole videos, as the public pipeline does.
    Runs in float32 unless moved with .to(dtype), and then has other fingerprints. Raises CodecError: diffusers missing,
    wrong folder.
    """

    lowers = True

    def __init__(self, folder: Path | str = "", frames_at_once: int | None = None, vae: Any = None) -> None:
        super().__init__()
        if frames_at_once is not None and frames_at_once < 1:
            raise CodecError(f"frames_at_once must be at least 1 (got {frames_at_once})")
        self.frames_at_once, self.whole_videos = frames_at_once or IMAGES_AT_ONCE, frames_at_once is None
        self.vae = (
            (of_file(Path(folder)) if Path(folder).is_file() else loaded(vae_folder(Path(folder))))
            if vae is None
            else vae
        )
        config = self.vae.config
        self.temporal = type(self.vae).__name__ == "AutoencoderKLTemporalDecoder"
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.channels = int(config.latent_channels)
        self.scale = float(config.scaling_factor)
        self.shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1] to (mean - shift) * scale, [B, T, C, h, w]; each frame on its own."""
        if pixels.ndim != 5 or pixels.shape[2] != 3:
            raise CodecError(f"pixels of shape {list(pixels.shape)}: encode takes [B, T, 3, H, W]")
        if pixels.shape[3] % self.factor or pixels.shape[4] % self.factor:
            height, width = pixels.shape[3:]
            raise CodecError(f"pictures of {height}x{width}: sides must be multiples of the factor, {self.factor} px")
        flat = pixels.flatten(0, 1).to(self.vae.device, self.vae.dtype)
        means = [self.vae.encode(part).latent_dist.mode() for part in flat.split(self.frames_at_once)]
        return ((torch.cat(means).float() - self.shift) * self.scale).unflatten(0, pixels.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor, images: bool = False) -> Tensor:
        """[B, T, C, h, w] to pixels [B, T, 3, H, W] in [-1, 1].

        images: the T frames are independent images, which a temporal decoder takes one by one.
        """
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise CodecError(f"latents of shape {list(latents.shape)}: decode takes [B, T, {self.channels}, h, w]")
        raw = (latents / self.scale + self.shift).to(self.vae.device, self.vae.dtype)
        if self.temporal and not images:
            at_once = raw.shape[1] if self.whole_videos else self.frames_at_once
            rows = [part for video in raw for part in video.split(at_once)]
            decoded = [self.vae.decode(part, num_frames=len(part)).sample for part in rows]
        elif self.temporal:
            decoded = [self.vae.decode(frame, num_frames=1).sample for frame in raw.flatten(0, 1).split(1)]
        else:
            decoded = [self.vae.decode(part).sample for part in raw.flatten(0, 1).split(self.frames_at_once)]
        return torch.cat(decoded).float().clamp(-1, 1).unflatten(0, latents.shape[:2])

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents of about unit scale as the VAE itself has them: what image-to-video networks are given of a frame."""
        return latents / self.scale + self.shift

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def fingerprint(self) -> str:
        return digest(self.vae.state_dict(), type(self.vae).__name__, str(self.scale), str(self.shift))

    @property
    def encoder_fingerprint(self) -> str:
        encoding = ("encoder.", "quant_conv.")
        state = {key: value for key, value in self.vae.state_dict().items() if key.startswith(encoding)}
        return digest(state, type(self.vae).__name__, str(self.scale), str(self.shift))


def vae_folder(folder: Path) -> Path:
    """The folder itself, or its vae/ when it is a pipeline's. Raises CodecError when neither holds a config."""
    try:
        return part_folder(folder, "vae")
    except NotPublished as error:
        raise CodecError(str(error)) from error


def of_file(file: Path) -> Any:
    """The VAE of an original single file."""
    try:
        refuse_pickle(file)
        return vae_of_file(file)
    except NotPublished as error:
        raise CodecError(str(error)) from error
    except ImportError as error:
        raise CodecError(f"{file}: {_needs_diffusers(error)}") from error


def loaded(folder: Path) -> Any:
    """The diffusers model in `folder`, float32, from safetensors only and never from the network."""
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise CodecError(f"{folder / 'config.json'}: cannot be read ({first_line(error)})") from error
    if name not in CLASSES:
        raise CodecError(f"{folder}: a {name} is not a codec that is known; known are {' and '.join(CLASSES)}")
    try:
        import diffusers
    except ImportError as error:
        raise CodecError(f"{folder}: {_needs_diffusers(error)}") from error
    try:
        files = weight_files(folder, "diffusion_pytorch_model")
        half = "fp16" if any(".fp16" in file.name for file in files) else None
        return getattr(diffusers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False,
            variant=half,
        )  # fmt: skip
    except NotPublished as error:
        raise CodecError(str(error)) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        fix = "diffusion_pytorch_model.safetensors must be there, and be of this config"
        raise CodecError(f"{folder}: the {name} cannot be loaded ({first_line(error)}); {fix}") from error


def _needs_diffusers(error: ImportError) -> str:
    return f"public VAEs need diffusers ({first_line(error)}); {install_command('diffusers')}"
