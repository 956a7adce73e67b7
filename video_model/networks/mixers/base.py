"""What a temporal mixer is, and the places where one stands."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from video_model.networks.layers import Attention, Given, zero


class ConvPlace(NamedTuple):
    """After a residual block: its channels, those of the noise embedding, and groups and epsilon of its norms."""

    channels: int
    emb: int
    groups: int
    eps: float


class AttentionPlace(NamedTuple):
    """After each of the `depth` spatial attention blocks of a transformer; context: channels of the text, if any."""

    channels: int
    heads: int
    context: int | None
    depth: int
    ff: int


class Mixer(nn.Module):
    """No mixing; and for all others, the rule that rows of images are left alone.

    A mixer is made of the place where it stands. name: in configs. needs_frame_index: by itself before and after are the
    same to it, so the network must have the frame-time embedding.
    """

    name: ClassVar[str] = "none"
    needs_frame_index: ClassVar[bool] = False

    def __init__(self, place: ConvPlace | AttentionPlace):
        super().__init__()

    def forward(self, x: Tensor, given: Given, depth: int = 0) -> Tensor:
        if given.videos is None:
            return self.mix(x, given, depth)
        if given.video is None:  # no videos at all
            return x
        return x.index_copy(0, given.videos, self.mix(x[given.videos], given.video, depth))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        """x [B, T, N, C], rows that are videos -> the same; depth: which of the blocks of a transformer is before it."""
        return x


class BareAttention(Mixer):
    """A norm and an attention for each spatial block, and nothing else: what some mixers share."""

    def __init__(self, place: AttentionPlace):
        super().__init__(place)
        self.norms = nn.ModuleList(nn.LayerNorm(place.channels) for _ in range(place.depth))
        self.attentions = nn.ModuleList(Attention(place.channels, place.heads) for _ in range(place.depth))
        for attention in self.attentions:
            zero(attention.out)
