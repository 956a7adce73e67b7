"""Full 3-D attention."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from video_model.networks.layers import Given
from video_model.networks.mixers.base import BareAttention


class JointAttention(BareAttention):
    """Attention of every position of every frame to all others: what moves is found where it went.

    (As in CogVideoX.) Its cost grows with the square of T * N. It has no embedding of places: where a token is it knows
    from the borders that convolutions see, and when from the network's frame-time embedding.
    """

    name: ClassVar[str] = "joint"
    needs_frame_index: ClassVar[bool] = True

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        tokens = self.norms[depth](x).flatten(1, 2)[:, :, None]  # [B, T*N, 1, C]
        return x + self.attentions[depth].within(tokens).view(x.shape)
