"""What a latent codec is, and what a config's section of one must answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from curate.base.section import Section
from video_model.workers import TrainingWorker


class CodecError(ValueError):
    """A codec that cannot be built, read or applied; the message names the thing, the reason and the fix."""


class Codec(Protocol):
    """factor: pixels per side of a latent. channels: of a latent. fingerprint: hash of weights and config.

    encoder_fingerprint, where there is one: hash of what latents depend on; it survives a fine-tuning of the decoder, so
    cached latents do. lowers, where it is true: the codec works in lower precisions as well (loop.frozen_precision).
    """

    factor: int
    channels: int

    @property
    def fingerprint(self) -> str: ...

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1] to latents [B, T, C, h, w] of about unit scale; each frame on its own."""

    def decode(self, latents: Tensor, images: bool = False) -> Tensor:
        """[B, T, C, h, w] to pixels [B, T, 3, H, W] in [-1, 1]; images=True: the T frames are independent images."""


class CodecFrames(Protocol):
    """Pixels of a run's clips, for a codec that is trained in the run.

    worker: this one of those that train it, who all ask for the same and get the same. A codec may give each a share of
    every batch, and average the gradients; what the first one made is kept.
    """

    worker: TrainingWorker

    def frames(self, count: int) -> Tensor:
        """uint8 [count, 3, H, W]: random frames."""

    def windows(self, count: int) -> Tensor:
        """uint8 [count, T, 3, H, W]: random windows of clips, T >= 2."""


class CodecSection(Section):
    """A section `codec` of a training config, chosen by its field `kind`, and how such a codec is come by.

    `factor`: pixels per latent side, a field or a constant. trained: it is trained in the run, and kept in RUN/codec.
    """

    trained: ClassVar[bool] = False

    @property
    def latent_channels(self) -> int | None:
        """Known before there is a codec; None: it is known when it is loaded. Raises ValueError for what cannot be."""
        return None

    def outline_channels(self) -> int:
        """For a plan of memory: `latent_channels`, or what the codec's files say. Raises CodecError."""
        if self.latent_channels is None:
            raise CodecError(f"{self.kind}: its channels are not known before it is loaded")  # type: ignore[attr-defined]
        return self.latent_channels

    def skeleton(self) -> Any:
        """The codec without its weights, for a plan of memory; made where tensors take none. Raises CodecError."""
        raise CodecError(f"{self.kind}: it can be planned for only with its weights")  # type: ignore[attr-defined]

    @property
    def wants_windows(self) -> bool:
        """Whether its training asks for windows of clips."""
        return False

    def load(self, folder: Path) -> Codec:
        """The codec; folder: RUN/codec, of one that was trained in the run. Raises CodecError."""
        raise NotImplementedError

    def train(
        self, data: CodecFrames, seed: int, progress: Callable[[str, int, int], None]
    ) -> tuple[Any, dict[str, Any]]:
        """The trained codec, with `save(folder)`, and what it reaches; progress(what, step, steps)."""
        raise NotImplementedError


def placed(codec: Codec, device: torch.device, dtype: torch.dtype) -> Codec:
    """The codec on a device; its weights in another precision, if it `lowers`."""
    if isinstance(codec, nn.Module):
        codec.to(device)
        if getattr(codec, "lowers", False):
            codec.to(dtype)
    return codec


def to_float(pixels: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pixels.float() / 127.5 - 1.0
