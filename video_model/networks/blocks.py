"""Spatial blocks: they see one frame at a time, [B*T, C, h, w], channels last in memory.

What a fresh block adds to its input is zero, as in the original code of latent diffusion.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from video_model.networks.layers import Attention, FeedForward, Given, Linear, group_norm, norm_silu, zero
from video_model.networks.mixers import Mixer


class ResBlock(nn.Module):
    """norm, SiLU, 3x3, + time; norm, SiLU, 3x3, + input."""

    def __init__(self, inputs: int, channels: int, emb: int, groups: int, eps: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.emb = nn.Linear(emb, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

    def forward(self, x: Tensor, given: Given) -> Tensor:
        emb = self.emb(given.emb).repeat_interleave(given.frames, 0)  # [B*T, C]
        if given.index is not None:  # beside SiLU and bias, so that zeros add exactly nothing
            emb = emb + F.linear(given.index.emb, self.emb.weight)
        h = self.conv1(norm_silu(x, self.norm1)) + emb[:, :, None, None]
        return self.skip(x) + self.conv2(norm_silu(h, self.norm2))


class SpatialBlock(nn.Module):
    """Self-attention over a frame's positions, attention to text, feed-forward: [B*T, N, C] -> the same."""

    def __init__(self, channels: int, heads: int, context: int | None, ff: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels), Attention(channels, heads)
        if context:
            self.norm2, self.text = nn.LayerNorm(channels), Attention(channels, heads, context)
        self.norm3, self.ff = nn.LayerNorm(channels), FeedForward(channels, ff)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        x = x + self.attention.within(self.norm1(x)[:, :, None])[:, :, 0]
        if given.text is not None:
            x = x + self.text.across(self.norm2(x), given.text)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Spatial blocks, each followed by the temporal mixer, around which is a residual: [B*T, C, h, w] -> the same."""

    def __init__(self, channels: int, heads: int, context: int | None, depth: int, groups: int, ff: int, mixer: Mixer):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = Linear(channels, channels)
        self.blocks = nn.ModuleList(SpatialBlock(channels, heads, context, ff) for _ in range(depth))
        self.time = mixer
        self.proj_out = zero(Linear(channels, channels))

    def forward(self, x: Tensor, given: Given) -> Tensor:
        rows, channels, height, width = x.shape
        h = self.proj_in(group_norm(x, self.norm).permute(0, 2, 3, 1).reshape(rows, height * width, channels))
        for depth, block in enumerate(self.blocks):
            h = block(h, given)
            h = self.time(h.view(-1, given.frames, height * width, channels), given, depth).flatten(0, 1)
        return x + self.proj_out(h).view(rows, height, width, channels).permute(0, 3, 1, 2)


class Down(nn.Conv2d):
    """Halves height and width."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Up(nn.Conv2d):
    """Doubles height and width."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
