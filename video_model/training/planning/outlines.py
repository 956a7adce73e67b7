"""What is known of a run's frozen parts without their weights: sizes, and networks without numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from curate.base.packaged import WeightsMissing
from video_model.codecs import CodecError, placed
from video_model.config import TrainConfig
from video_model.encoders.protocol import TextOutline
from video_model.training.build import inflated

USUAL_TEXT = TextOutline(dim=1024, tokens=77, parameters=354_000_000)  # the text tower of Stable Diffusion 2.1
USUAL_CHANNELS = 4  # of public VAEs
USUAL_IMAGE = 1024  # channels of CLIP's image token, in Stable Video Diffusion


@dataclass(frozen=True)
class Outlines:
    """dim, tokens: of the text's states. channels, factor: of latents. contexts: stage -> channels of the tokens that its
    network attends to. assumed: what is not known here, and taken for usual."""

    config: TrainConfig
    text: TextOutline
    channels: int
    contexts: dict[str, int | None]
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
        contexts = {}
        for name in config.stages:
            conditioning = config.conditioning_of(name)
            try:
                contexts[name] = conditioning.context_dim if conditioning.text is None else text.dim
            except (WeightsMissing, OSError, ValueError, KeyError) as error:
                contexts[name] = USUAL_IMAGE
                assumed.append(f"stage {name}: an image token of {USUAL_IMAGE}, as in Stable Video Diffusion ({error})")
        return cls(config, text, channels, contexts, assumed)

    def network(self, name: str) -> Any:
        """A stage's network, without numbers where tensors have none."""
        network = self.config.network.image(self.channels, self.contexts[name])
        temporal = self.config.stages[name].temporal
        return inflated(network, self.config, name, self.channels) if temporal else network

    def cond(self, name: str, rows: int, frames: int, size: tuple[int, int]) -> dict[str, Tensor]:
        """All that a stage's network can be conditioned on. size: of a latent."""
        conditioning = self.config.conditioning_of(name)
        slots, found = self.config.slots_of(name), dict[str, Tensor]()
        if self.contexts[name]:
            tokens = (0 if conditioning.text is None else self.tokens) + sum(slot.name == "image" for slot in slots)
            found["text"] = torch.empty(rows, tokens, self.contexts[name])
            found["text_mask"] = torch.ones(rows, tokens, dtype=torch.bool)
        if not self.config.stages[name].temporal:
            return found
        if count := len(conditioning.vectors):
            found["vectors"], found["vectors_mask"] = (
                torch.empty(rows, count),
                torch.ones(rows, count, dtype=torch.bool),
            )
        if appended := sum(slot.concat_channels(self.channels) for slot in slots):
            found["concat"] = torch.empty(rows, frames, appended, *size)
        return found

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
