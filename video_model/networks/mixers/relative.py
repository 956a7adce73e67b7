"""Attention over time that knows distances."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from video_model.networks.layers import Given
from video_model.networks.mixers.base import AttentionPlace, BareAttention


class RelativeAttention(BareAttention):
    """Attention over time whose logits have a learned bias by distance in frames (Video Diffusion Models, section 3).

    The distances are bucketed as in T5: exact up to 8 frames, then logarithmic up to 128, each side of zero by itself.
    """

    name: ClassVar[str] = "relative"

    def __init__(self, place: AttentionPlace):
        super().__init__(place)
        self.bias = nn.Parameter(torch.zeros(place.depth, place.heads, 32))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        buckets = distance_buckets(x.shape[1]).to(x.device)
        return x + self.attentions[depth].within(self.norms[depth](x), self.bias[depth][:, buckets])


def distance_buckets(frames: int) -> Tensor:
    """Bucket 0..31 of key frame minus query frame: [T, T]."""
    time = torch.arange(frames)
    offset = time[None, :] - time[:, None]
    distance = offset.abs()
    far = 8 + (torch.log(distance.clamp(min=8) / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (offset > 0)
