"""Temporal transformer blocks of Stable Video Diffusion, blended or added."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from video_model.networks.layers import Attention, FeedForward, Given, embedding_mlp, sinusoid, zero
from video_model.networks.mixers.base import AttentionPlace, Mixer


class ResidualAttention(Mixer):
    """Temporal transformer blocks, one for each spatial block (Stable Video Diffusion, Video LDM).

    A block: + frame-index embedding, feed-forward, attention over time, attention to the first frame's text,
    feed-forward. One embedding serves all blocks.
    """

    name: ClassVar[str] = "residual"
    alpha: ClassVar[bool] = False

    def __init__(self, place: AttentionPlace):
        super().__init__(place)
        self.blocks = nn.ModuleList(_TemporalBlock(place) for _ in range(place.depth))
        self.position = embedding_mlp(place.channels, 4 * place.channels, place.channels)
        zero(self.position[2])
        self.mix_factor = nn.Parameter(torch.tensor([0.5])) if self.alpha else None

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        index = sinusoid(torch.arange(x.shape[1], device=x.device), x.shape[-1])
        position = self.position(index.to(self.position[0].weight.dtype))
        temporal = self.blocks[depth](x + position[None, :, None], given)
        if self.mix_factor is None:
            return temporal
        return torch.lerp(x, temporal, torch.sigmoid(-self.mix_factor).to(x.dtype))  # exact where the two are equal


class AlphaAttention(ResidualAttention):
    """The same in Stable Video Diffusion's blend, as in AlphaConv; one alpha serves all blocks."""

    name: ClassVar[str] = "alpha"
    alpha: ClassVar[bool] = True


class _TemporalBlock(nn.Module):
    def __init__(self, place: AttentionPlace):
        super().__init__()
        channels, heads, context, _, ff = place
        self.norm_in, self.ff_in = nn.LayerNorm(channels), FeedForward(channels, ff)
        self.norm1, self.attention = nn.LayerNorm(channels), Attention(channels, heads)
        if context:
            self.norm2, self.text = nn.LayerNorm(channels), Attention(channels, heads, context)
            zero(self.text.out)
        self.norm3, self.ff = nn.LayerNorm(channels), FeedForward(channels, ff)
        for last in (self.ff_in.down, self.attention.out, self.ff.down):
            zero(last)

    def forward(self, x: Tensor, given: Given) -> Tensor:  # [B, T, N, C]
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attention.within(self.norm1(x))
        if given.first is not None:
            x = x + self.text.across(self.norm2(x), given.first)
        return x + self.ff(self.norm3(x))
