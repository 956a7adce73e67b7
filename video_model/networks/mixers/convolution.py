"""Temporal convolutions of Stable Video Diffusion, blended or added."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_model.networks.layers import Given, norm_silu, zero
from video_model.networks.mixers.base import ConvPlace, Mixer


class TimeConv(nn.Conv2d):
    """Convolution over 3 frames, [B, T, N, C] -> the same: two-dimensional over (T, N), which needs no copy."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor, share: Tensor | float = 1.0) -> Tensor:
        weight, bias = self.weight * share, self.bias * share
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=self.padding).permute(0, 2, 3, 1)


class ResidualConv(Mixer):
    """Temporal residual block: norm over a clip, SiLU, convolution over 3 frames, + time; and again."""

    name: ClassVar[str] = "residual"
    alpha: ClassVar[bool] = False

    def __init__(self, place: ConvPlace):
        super().__init__(place)
        self.norm1 = nn.GroupNorm(place.groups, place.channels, place.eps)
        self.conv1 = TimeConv(place.channels)
        self.emb = nn.Linear(place.emb, place.channels)
        self.norm2 = nn.GroupNorm(place.groups, place.channels, place.eps)
        self.conv2 = zero(TimeConv(place.channels))
        self.mix_factor = nn.Parameter(torch.tensor([0.5])) if self.alpha else None

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        h = self.conv1(_norm_silu(x, self.norm1)) + self.emb(given.emb)[:, None, None]
        # 1 - a scales the weights rather than the activations: the same, and there are fewer of them
        share = 1.0 if self.mix_factor is None else torch.sigmoid(-self.mix_factor)
        return x + self.conv2(_norm_silu(h, self.norm2), share)


class AlphaConv(ResidualConv):
    """The same in Stable Video Diffusion's blend (appendix D): a * spatial + (1 - a) * temporal, a = sigmoid(mix).

    As the temporal path is spatial + branch, that is spatial + (1 - a) * branch; a plain residual has a = 0.
    """

    name: ClassVar[str] = "alpha"
    alpha: ClassVar[bool] = True


def _norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return norm_silu(x.permute(0, 3, 1, 2), norm).permute(0, 2, 3, 1)  # over all frames of a clip
