"""What a text encoder is: a caption becomes the states of its tokens, for a network's cross-attention.

Nothing is loaded before the first use of an encoder, and nothing is ever downloaded: weights come out of an installed
package, or out of a local folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from curate.base.section import Section


class TextEncoder(Protocol):
    """dim: of a state. fingerprint: hash of the weights and of all that changes the states."""

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [N, L, D] float32, and mask [N, L] bool, True where there is a token; L is that of the longest text.

        States that the mask hides are zero. An empty text has states too (of its marks). Raises WeightsMissing.
        """

    def move(self, device: torch.device) -> None:
        """The weights go there: now, or when they are loaded."""


class TextOutline(NamedTuple):
    """dim: of a state. tokens: states of a text, for which a plan counts. parameters: how many."""

    dim: int
    tokens: int
    parameters: int


USUAL_TOKENS = 77


class EncoderSection(Section):
    """A section `text` of a training config, chosen by its field `kind`, and the encoder that it makes.

    reads: whether there is an encoder at all.
    """

    reads: ClassVar[bool] = True

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        """Loads nothing yet. device, dtype: of its weights; default: float32 on the CPU."""
        raise NotImplementedError

    def outline(self) -> TextOutline:
        """What it is, for a plan of memory; without its weights where that can be. Raises WeightsMissing."""
        return TextOutline(self.make().dim, USUAL_TOKENS, 0)


class FrozenEncoder:
    """What our encoders share: a tokenizer and a network, loaded at the first use, onto a device and in a precision.

    The fingerprint is of the weights as they are used: states in another precision are kept apart.
    """

    def __init__(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.device, self.dtype = device or torch.device("cpu"), dtype or torch.float32

    def move(self, device: torch.device) -> None:
        self.device = device
        if "_loaded" in self.__dict__:
            self._loaded[1].to(device)

    def _read(self) -> tuple[Any, nn.Module]:
        """The tokenizer, and the network in float32 on the CPU. Raises WeightsMissing."""
        raise NotImplementedError

    @cached_property
    def _loaded(self) -> tuple[Any, nn.Module]:
        tokenizer, network = self._read()
        return tokenizer, self._lowered(network).requires_grad_(False).eval().to(self.device)

    def _lowered(self, network: nn.Module) -> nn.Module:
        return network.to(self.dtype)


def batched(texts: Sequence[str], at_once: int, states: Any, dim: int) -> tuple[Tensor, Tensor]:
    """Runs `states` over parts of the texts and pads them to one length; hidden states become zero; on the CPU."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts, not one text")
    parts = [states(list(texts[at : at + at_once])) for at in range(0, len(texts), at_once)]
    longest = max((mask.shape[1] for _, mask in parts), default=1)
    rows = torch.zeros(len(texts), longest, dim)
    masks = torch.zeros(len(texts), longest, dtype=torch.bool)
    for at, (state, mask) in zip(range(0, len(texts), at_once), parts, strict=True):
        mask = mask.cpu().bool()
        rows[at : at + len(mask), : mask.shape[1]] = state.float().cpu() * mask.unsqueeze(-1)
        masks[at : at + len(mask), : mask.shape[1]] = mask
    return rows, masks
