"""No text at all: for runs that are conditioned on pictures alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from video_model.encoders.protocol import EncoderSection, TextEncoder


class NoText(EncoderSection):
    """No text encoder, where conditioning.text is null in every stage; nothing is loaded, and captions are not encoded."""

    reads: ClassVar[bool] = False

    kind: Literal["none"] = "none"

    def make(self) -> TextEncoder:
        return NoStates()


class NoStates:
    """One zero for each text, which nothing reads."""

    dim = 1
    fingerprint = "none"

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(texts), 1, self.dim), torch.ones(len(texts), 1, dtype=torch.bool)
