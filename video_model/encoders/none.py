"""No text at all: for runs that are conditioned on pictures alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from video_model.encoders.protocol import EncoderSection, TextEncoder, TextOutline


class NoText(EncoderSection):
    """No text encoder, where conditioning.text is null in every stage; nothing is loaded, and captions are not encoded."""

    reads: ClassVar[bool] = False

    kind: Literal["none"] = "none"

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        return NoStates()

    def outline(self) -> TextOutline:
        return TextOutline(NoStates.dim, 1, 0)


class NoStates:
    """One zero for each text, which nothing reads."""

    dim = 1
    fingerprint = "none"

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(texts), 1, self.dim), torch.ones(len(texts), 1, dtype=torch.bool)

    def move(self, device: torch.device) -> None:
        """There is nothing to move."""
