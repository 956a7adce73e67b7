"""Temporal mixers: the layers through which frames see each other.

All have one call, `mixer(x [B, T, N, C], given, depth) -> [B, T, N, C]`, where N are the positions of a frame. All
change nothing when freshly made, bit for bit, because the last layer of what they *add* starts at zero; and nothing in
rows that are images, ever. A convolution mixer stands after each residual block, an attention mixer after each spatial
attention block.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_model.networks.layers import Attention, FeedForward, Given, embedding_mlp, norm_silu, sinusoid, zero

ConvKind = Literal["alpha", "residual", "dirac", "none"]
AttentionKind = Literal["alpha", "residual", "relative", "joint", "none"]


class Mixer(nn.Module):
    """No mixing; and for the mixers below, the rule that rows of images are left alone."""

    def forward(self, x: Tensor, given: Given, depth: int = 0) -> Tensor:
        if given.videos is None:
            return self.mix(x, given, depth)
        if given.video is None:  # no videos at all
            return x
        return x.index_copy(0, given.videos, self.mix(x[given.videos], given.video, depth))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        return x


class ConvMixer(Mixer):
    """Temporal residual block: norm over a clip, SiLU, convolution over 3 frames, + time; and again.

    With `alpha` (Stable Video Diffusion, appendix D) the output is a * spatial + (1 - a) * temporal, a = sigmoid(mix):
    as the temporal path is spatial + branch, that is spatial + (1 - a) * branch. Without, a = 0.
    """

    def __init__(self, channels: int, emb: int, groups: int, eps: float, alpha: bool):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = TimeConv(channels)
        self.emb = nn.Linear(emb, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps)
        self.conv2 = zero(TimeConv(channels))
        self.mix_factor = nn.Parameter(torch.tensor([0.5])) if alpha else None

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        h = self.conv1(_norm_silu(x, self.norm1)) + self.emb(given.emb)[:, None, None]
        # 1 - a scales the weights rather than the activations: the same, and there are fewer of them
        share = 1.0 if self.mix_factor is None else torch.sigmoid(-self.mix_factor)
        return x + self.conv2(_norm_silu(h, self.norm2), share)


class DiracMixer(Mixer):
    """A convolution over 3 frames that starts as the identity (Make-A-Video, section 3.2).

    What is stored is the difference from the identity, so that the start is exact in any precision.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = zero(TimeConv(channels))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        return x + self.conv(x)


class AttentionMixer(Mixer):
    """Temporal transformer blocks, one for each spatial block (Stable Video Diffusion, Video LDM).

    A block: + frame-index embedding, feed-forward, attention over time, attention to the first frame's text,
    feed-forward. `alpha` as in ConvMixer; one embedding and one alpha serve all blocks.
    """

    def __init__(self, channels: int, heads: int, context: int | None, depth: int, ff: int, alpha: bool):
        super().__init__()
        self.blocks = nn.ModuleList(_TemporalBlock(channels, heads, context, ff) for _ in range(depth))
        self.position = embedding_mlp(channels, 4 * channels, channels)
        zero(self.position[2])
        self.mix_factor = nn.Parameter(torch.tensor([0.5])) if alpha else None

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        index = sinusoid(torch.arange(x.shape[1], device=x.device), x.shape[-1])
        position = self.position(index.to(self.position[0].weight.dtype))
        temporal = self.blocks[depth](x + position[None, :, None], given)
        if self.mix_factor is None:
            return temporal
        return torch.lerp(x, temporal, torch.sigmoid(-self.mix_factor).to(x.dtype))  # exact where the two are equal


class _BareAttention(Mixer):
    """A norm and an attention for each spatial block, and nothing else: what the two mixers below share."""

    def __init__(self, channels: int, heads: int, depth: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(depth))
        self.attentions = nn.ModuleList(Attention(channels, heads) for _ in range(depth))
        for attention in self.attentions:
            zero(attention.out)


class RelativeMixer(_BareAttention):
    """Attention over time whose logits have a learned bias by distance in frames (Video Diffusion Models, section 3).

    The distances are bucketed as in T5: exact up to 8 frames, then logarithmic up to 128, each side of zero by itself.
    """

    def __init__(self, channels: int, heads: int, depth: int):
        super().__init__(channels, heads, depth)
        self.bias = nn.Parameter(torch.zeros(depth, heads, 32))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        buckets = _distance_buckets(x.shape[1]).to(x.device)
        return x + self.attentions[depth].within(self.norms[depth](x), self.bias[depth][:, buckets])


class JointMixer(_BareAttention):
    """Attention of every position of every frame to all others: what moves is found where it went.

    (Full 3-D attention, as in CogVideoX.) Its cost grows with the square of T * N. It has no embedding of places: where a
    token is it knows from the borders that convolutions see, and when from the network's `frame_index`, without which it
    cannot tell before from after.
    """

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        tokens = self.norms[depth](x).flatten(1, 2)[:, :, None]  # [B, T*N, 1, C]
        return x + self.attentions[depth].within(tokens).view(x.shape)


def conv_mixer(kind: ConvKind, channels: int, emb: int, groups: int, eps: float) -> Mixer:
    """The mixer that stands after a residual block of these channels."""
    if kind == "none":
        return Mixer()
    if kind == "dirac":
        return DiracMixer(channels)
    return ConvMixer(channels, emb, groups, eps, alpha=kind == "alpha")


def attention_mixer(kind: AttentionKind, channels: int, heads: int, context: int | None, depth: int, ff: int) -> Mixer:
    """The mixer that stands after each of the `depth` spatial attention blocks of a transformer."""
    if kind == "none":
        return Mixer()
    if kind == "joint":
        return JointMixer(channels, heads, depth)
    if kind == "relative":
        return RelativeMixer(channels, heads, depth)
    return AttentionMixer(channels, heads, context, depth, ff, alpha=kind == "alpha")


class TimeConv(nn.Conv2d):
    """Convolution over 3 frames, [B, T, N, C] -> the same: two-dimensional over (T, N), which needs no copy."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor, share: Tensor | float = 1.0) -> Tensor:
        weight, bias = self.weight * share, self.bias * share
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=self.padding).permute(0, 2, 3, 1)


class _TemporalBlock(nn.Module):
    def __init__(self, channels: int, heads: int, context: int | None, ff: int):
        super().__init__()
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


def _norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return norm_silu(x.permute(0, 3, 1, 2), norm).permute(0, 2, 3, 1)  # over all frames of a clip


def _distance_buckets(frames: int) -> Tensor:
    """Bucket 0..31 of key frame minus query frame: [T, T]."""
    time = torch.arange(frames)
    offset = time[None, :] - time[:, None]
    distance = offset.abs()
    far = 8 + (torch.log(distance.clamp(min=8) / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (offset > 0)
