"""What a text encoder is: a caption becomes the states of its tokens, for a network's cross-attention.

Nothing is loaded before the first use of an encoder, and nothing is ever downloaded: weights come out of an installed
package, or out of a local folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

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


class EncoderSection(Section):
    """A section `text` of a training config, chosen by its field `kind`, and the encoder that it makes.

    reads: whether there is an encoder at all.
    """

    reads: ClassVar[bool] = True

    def make(self) -> TextEncoder:
        """Loads nothing yet."""
        raise NotImplementedError


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
