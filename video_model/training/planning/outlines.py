"""What is known of a run's frozen parts without their weights: sizes, and networks without numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from curate.base.packaged import WeightsMissing
from video_model.codecs import CodecError, placed
from video_model.config import TrainConfig
from video_model.encoders.protocol import TextOutline

USUAL_TEXT = TextOutline(dim=1024, tokens=77, parameters=354_000_000)  # the text tower of Stable Diffusion 2.1
USUAL_CHANNELS = 4  # of public VAEs


@dataclass(frozen=True)
class Outlines:
    """dim, tokens: of the text's states. channels, factor: of latents. assumed: what is not known here, and taken for usual."""

    config: TrainConfig
    text: TextOutline
    channels: int
    assumed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: TrainConfig) -> Outlines:
        assumed = []
        try:
            text = config.text.outline()
        except (WeightsMissing, OSError, ValueError, KeyError) as error:
            text = USUAL_TEXT
            assumed.append(f"text: {text.dim} wide, {text.tokens} tokens, as in Stable Diffusion 2.1 ({error})")
        try:
            channels = config.codec.outline_channels()
        except (CodecError, ValidationError, OSError, ValueError, KeyError) as error:
            channels = USUAL_CHANNELS
            assumed.append(f"codec: {channels} channels, as public VAEs have ({error})")
        return cls(config, text, channels, assumed)

    @property
    def dim(self) -> int:
        return self.text.dim

    @property
    def tokens(self) -> int:
        return self.text.tokens

    @property
    def factor(self) -> int:
        return self.config.codec.factor

    def codec_bytes(self, dtype: torch.dtype) -> int:
        """Of its weights, in the precision of frozen networks."""
        with torch.device("meta"):
            codec = placed(self.codec(), torch.device("meta"), dtype)
        return sum(tensor.numel() * tensor.element_size() for tensor in codec.parameters())

    def codec(self) -> Any:
        """A codec whose weights have no numbers, where the tensors of the moment have none."""
        return self.config.codec.skeleton()


class StandInEncoder:
    """States of zeros."""

    def __init__(self, outlines: Outlines) -> None:
        self.outlines = outlines

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        shape = len(texts), self.outlines.tokens
        return torch.zeros(*shape, self.outlines.dim, device="cpu"), torch.ones(*shape, dtype=torch.bool, device="cpu")
