"""The small codec that is trained in the run.

It starts from whitened PCA of pixel patches, which no gradient has to find, and adds a zero-initialised
convolutional KL autoencoder (Kingma & Welling 2014; Rombach et al. 2022) as the residual of both directions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from curate.base.files import write_atomic
from video_model.codecs.protocol import CodecError, to_float
from video_model.codecs.small_networks import DecoderNetwork, EncoderNetwork
from video_model.encoders.fingerprint import digest
from video_model.errors import first_line

WEIGHTS, CONFIG = "codec.safetensors", "codec.json"
FLATTEST = 1e-5  # variance of a patch coefficient below which it is rounding of 8-bit pixels; pixels in [-1, 1]


class CodecConfig(BaseModel):
    """factor: pixels per latent side, 2, 4, 8 or 16. channels: of a latent. widths: convolution channels, fine to coarse.

    temporal: whether the decoder has temporal layers (temporal_decoder.py adds them).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: int = 8
    channels: int = Field(default=16, ge=1)
    widths: tuple[int, ...] = Field(default=(48, 96), min_length=1)
    temporal: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> CodecConfig:
        if self.factor not in (2, 4, 8, 16):
            raise ValueError(f"factor must be 2, 4, 8 or 16 (got {self.factor})")
        if self.channels > 3 * self.factor**2:
            raise ValueError(f"channels must be at most 3 * factor^2 = {3 * self.factor**2} (got {self.channels})")
        if 2 ** (len(self.widths) - 1) > self.factor or min(self.widths) < 1:
            raise ValueError(
                f"widths {self.widths}: positive, and at most one level per halving (factor {self.factor})"
            )
        return self

    @property
    def patch(self) -> int:
        """Pixels per side of the finest level."""
        return self.factor // 2 ** (len(self.widths) - 1)


class SmallCodec(nn.Module):
    """Whitened PCA of patches plus a convolutional KL residual; latents about unit scale per channel.

    Fresh from the constructor it knows nothing: `fit` it (PCA alone) or train it with small_training.train_codec.
    seed: of the initial weights.
    """

    frames_at_once = 32  # frames per forward pass: bounds memory, and changes nothing else

    def __init__(self, config: CodecConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or CodecConfig()
        self.factor, self.channels = self.config.factor, self.config.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = EncoderNetwork(self.channels, self.config.patch, self.config.widths)
            self.decoder = DecoderNetwork(self.channels, self.config.patch, self.config.widths, self.config.temporal)
        patch = 3 * self.factor**2
        self.register_buffer("pca_mean", torch.zeros(patch))
        self.register_buffer("pca_whiten", torch.eye(patch)[: self.channels].clone())  # [C, D]
        self.register_buffer("pca_colour", torch.eye(patch)[: self.channels].T.clone())  # [D, C]
        self.register_buffer("latent_mean", torch.zeros(self.channels))
        self.register_buffer("latent_std", torch.ones(self.channels))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.uint8))
        self.eval()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """The posterior's mean, [B, T, 3, H, W] in [-1, 1] to [B, T, C, H/factor, W/factor]. Raises CodecError."""
        self._require_fit()
        if pixels.ndim != 5 or pixels.shape[2] != 3:
            raise CodecError(f"pixels of shape {list(pixels.shape)}: encode takes [B, T, 3, H, W]")
        if pixels.shape[3] % self.factor or pixels.shape[4] % self.factor:
            height, width = pixels.shape[3:]
            raise CodecError(f"pictures of {height}x{width}: sides must be multiples of the factor, {self.factor} px")
        flat = pixels.to(self.pca_mean).flatten(0, 1)
        rows = [self.normalise(self.posterior(part)[0]) for part in flat.split(self.frames_at_once)]
        return torch.cat(rows).unflatten(0, pixels.shape[:2])

    @torch.no_grad()
    def decode(self, latents: Tensor, images: bool = False) -> Tensor:
        """[B, T, C, h, w] to [B, T, 3, H, W] in [-1, 1], a window of frames at a time.

        Windows overlap by as many frames as a temporal layer can see, so their size changes nothing.
        images: the T frames are independent images; temporal layers are skipped, as they are for T = 1.
        """
        self._require_fit()
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise CodecError(f"latents of shape {list(latents.shape)}: decode takes [B, T, {self.channels}, h, w]")
        latents = latents.to(self.pca_mean)
        frames = latents.shape[1]
        if images or frames == 1 or not self.config.temporal:
            flat = latents.flatten(0, 1).split(self.frames_at_once)
            return torch.cat([self.to_pixels(part) for part in flat]).clamp(-1, 1).unflatten(0, latents.shape[:2])
        return torch.stack([torch.cat(list(self._windows(video))) for video in latents]).clamp(-1, 1)

    @torch.no_grad()
    def fit(self, frames: Tensor) -> SmallCodec:
        """Starts from the whitened PCA of `frames`, uint8 [N, 3, H, W]: latents of these have mean 0 and variance 1.

        Without training, the error per patch is the sum of the eigenvalues dropped, the least that is linearly possible.
        """
        mean, values, vectors = principal_components(frames, self.factor)
        scale = values[: self.channels].clamp(min=FLATTEST).sqrt()
        kept = vectors[:, : self.channels]
        self.pca_mean.copy_(mean)
        self.pca_whiten.copy_((kept / scale).T)
        self.pca_colour.copy_(kept * scale)
        self.latent_mean.zero_()
        self.latent_std.fill_(1)
        self.fitted.fill_(1)
        return self

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [N, C, h, w] of the latents before normalisation, of pixels [N, 3, H, W]."""
        patches = F.pixel_unshuffle(pixels, self.factor) - self.pca_mean[:, None, None]
        base = F.conv2d(patches, self.pca_whiten[:, :, None, None])
        mean, log_variance = self.encoder(pixels)
        return base + mean, (log_variance - 6.0).clamp(-20, 5)  # starts at a deviation of 0.05

    def normalise(self, latents: Tensor) -> Tensor:
        """[N, C, h, w], to mean 0 and deviation 1 over the data that it was trained on."""
        return (latents - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def reconstruct(self, latents: Tensor, frames: int = 1) -> Tensor:
        """Pixels [B*T, 3, H, W], not clamped, of latents before normalisation."""
        base = F.conv2d(latents, self.pca_colour[:, :, None, None]) + self.pca_mean[:, None, None]
        pixels = F.pixel_shuffle(base, self.factor) + self.decoder(latents, frames)
        return self.decoder.smooth(pixels, frames)

    def to_pixels(self, latents: Tensor, frames: int = 1) -> Tensor:
        """Pixels [B*T, 3, H, W], not clamped, of normalised latents [B*T, C, h, w] in rows of `frames` frames."""
        return self.reconstruct(latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None], frames)

    @property
    def device(self) -> torch.device:
        return self.pca_mean.device

    @property
    def fingerprint(self) -> str:
        return digest(self.state_dict(), self.config.model_dump_json())

    @property
    def encoder_fingerprint(self) -> str:
        state = {
            key: value for key, value in self.state_dict().items() if not key.startswith(("decoder.", "pca_colour"))
        }
        return digest(state, self.config.model_copy(update={"temporal": False}).model_dump_json())

    def save(self, folder: Path | str) -> None:
        """Writes codec.safetensors and codec.json into the folder; each appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"format": "winnow-codec-1", **self.config.model_dump(mode="json"), "fingerprint": self.fingerprint}
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        write_atomic(folder / WEIGHTS, save(state))
        write_atomic(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> SmallCodec:
        """Reads what `save` wrote. Raises CodecError when a file is missing, damaged, or not of this codec."""
        folder = Path(folder)
        try:
            stored = json.loads((folder / CONFIG).read_text())
            if stored.pop("format", None) != "winnow-codec-1":
                raise CodecError(f"{folder / CONFIG}: not a codec of this version; train it again")
            fingerprint = stored.pop("fingerprint", None)
            codec = cls(CodecConfig(**stored))
            codec.load_state_dict(load_file(folder / WEIGHTS))
        except FileNotFoundError as error:
            raise CodecError(f"{folder}: no codec here ({Path(error.filename or WEIGHTS).name} is missing)") from error
        except (OSError, json.JSONDecodeError, ValidationError, SafetensorError, RuntimeError) as error:
            raise CodecError(f"{folder}: the codec cannot be read ({first_line(error)}); train it again") from error
        if fingerprint != codec.fingerprint:
            raise CodecError(f"{folder}: {WEIGHTS} and {CONFIG} do not belong together; train the codec again")
        return codec

    def _windows(self, video: Tensor) -> Iterator[Tensor]:
        reach, total = self.decoder.reach, len(video)
        for start in range(0, total, self.frames_at_once):
            end = min(start + self.frames_at_once, total)
            first, last = max(0, start - reach), min(total, end + reach)
            yield self.to_pixels(video[first:last], last - first)[start - first : end - first]

    def _require_fit(self) -> None:
        if not self.fitted:
            raise CodecError("the codec has not seen any frames: call fit, train_codec, or load a trained one")


def principal_components(frames: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], eigenvalues [D] falling, and eigenvectors [D, D] in columns, of patches of factor x factor pixels.

    frames: uint8 [N, 3, H, W], read as [-1, 1]; D = 3 * factor^2 in the order of pixel_unshuffle. In float64; the sign
    of a vector is such that its largest entry is positive.
    """
    dimension = 3 * factor**2
    total, square, count = torch.zeros(dimension).double(), torch.zeros(dimension, dimension).double(), 0
    for part in frames.split(64):
        rows = F.pixel_unshuffle(to_float(part).double().cpu(), factor).movedim(1, -1).reshape(-1, dimension)
        total, square, count = total + rows.sum(0), square + rows.T @ rows, count + len(rows)
    if count < 2:
        raise CodecError(f"{count} patches are too few for a codec's PCA; give at least one frame")
    mean = total / count
    values, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return mean, values, vectors * torch.where(largest < 0, -1.0, 1.0)
