"""Layers that spatial and temporal blocks share: tokens [rows, n, channels], channels always last in memory."""

import math
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_HEADS = 65_535  # a dimension of a CUDA kernel's grid; attention over time has positions times heads in it
META_IS = ContextVar("META_IS", default="cuda")  # the kind of device that tensors without numbers are a plan for


class Tokens(NamedTuple):
    """Text to attend to: `states` [R, L, D], and `bias` [R, 1, 1, L] (0 for a token, -inf for padding) or None."""

    states: Tensor
    bias: Tensor | None


class FrameTimes(NamedTuple):
    """The frame-time embedding: `emb` [B*T, E] for residual blocks; `tilt` [B*T, 2, C], how its channels rise along x and along y."""

    emb: Tensor
    tilt: Tensor


class Given(NamedTuple):
    """What a block is conditioned on, beside its input.

    `frames` T; `emb` [B, E], time and vectors; `text` with B rows, or B*T when each frame has its own; `first` with B
    rows, the text of the first frame, for temporal layers; `index`, the frame-time embedding, 0 in rows that are images; `videos` [V], the rows that are videos (None: all of them), and `video`, the same facts for
    those rows alone.
    """

    frames: int
    emb: Tensor
    text: Tokens | None = None
    first: Tokens | None = None
    index: FrameTimes | None = None
    videos: Tensor | None = None
    video: "Given | None" = None


class Linear(nn.Linear):
    """A linear layer over the last dimension of many tokens, [..., C]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head attention [R, S, C] -> [R, S, C], to itself or to `context` channels of text."""

    def __init__(self, channels: int, heads: int, context: int | None = None):
        super().__init__()
        self.heads = heads
        self.q = Linear(channels, channels, bias=False)
        self.k = Linear(context or channels, channels, bias=False)
        self.v = Linear(context or channels, channels, bias=False)
        self.out = Linear(channels, channels)

    def within(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Self-attention over S of [R, S, P, C]; the P positions do not see each other. `bias` [H, S, S]."""
        rows, length, positions, channels = x.shape
        # Weights are packed head by head, so that (position, head) is one dimension of stride 3 d: no copy is needed
        # to attend over time, whose stride is the largest.
        packed = torch.stack([m.weight.view(self.heads, -1, channels) for m in (self.q, self.k, self.v)], 1)
        qkv = linear(x, packed.flatten(0, 2))
        q, k, v = qkv.view(rows, length, positions * self.heads, 3, -1).transpose(1, 2).unbind(3)
        if bias is not None:
            bias = bias.to(q.dtype).repeat(positions, 1, 1)
        mixed = attend(q, k, v, bias)  # [R, P*H, S, d]
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def across(self, x: Tensor, text: Tokens) -> Tensor:
        """Attention of [R, ..., C] to text of R rows, or of fewer when each serves R / rows consecutive ones."""
        samples, length, _ = text.states.shape
        q = self.q(x).view(samples, -1, self.heads, x.shape[-1] // self.heads)  # frames of a sample share its keys
        k = self.k(text.states).view(samples, length, self.heads, -1)
        v = self.v(text.states).view(samples, length, self.heads, -1)
        bias = None if text.bias is None else text.bias.to(q.dtype)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """Gated feed-forward layer (GEGLU), `multiple` times as wide inside."""

    def __init__(self, channels: int, multiple: int = 4):
        super().__init__()
        self.up = Linear(channels, 2 * multiple * channels)
        self.down = Linear(multiple * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


def embedding_mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """The small network after a sinusoid: [.., width] -> [.., out]."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, out))


def sinusoid(values: Tensor, width: int) -> Tensor:
    """Cosines then sines of values [...] at `width / 2` frequencies from 1 down to 1/10000 rad per unit: [..., width]."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=values.device) * (-math.log(10_000) / half))
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def kind_of_device(x: Tensor) -> str:
    """cpu, cuda ...: where it is, or would be."""
    return META_IS.get() if x.device.type == "meta" else x.device.type


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., C] times weight [O, C]: [..., O]."""
    tokens = x.numel() // x.shape[-1]
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or tokens < 1024 or tokens % 64:
        return F.linear(x, weight, bias)
    # In float32 a 1x1 convolution runs in oneDNN, up to twice as fast as the matrix product on processors for which
    # MKL does not use its widest instructions. With 16 rows or more it does so on one thread too.
    image = x.reshape(-1, 64, 1, x.shape[-1]).permute(0, 3, 1, 2)  # [tokens / 64, C, 64, 1], channels last
    y = F.conv2d(image, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: q [R, H, S, d], k and v [R, H, L, d], bias added to the logits [R, H, S, L]."""
    if kind_of_device(q) == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 256:
        # The fused kernel's backward is five times as slow as the plain products on short sequences in bfloat16
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (logits if bias is None else logits + bias).softmax(-1).to(v.dtype) @ v
    if kind_of_device(q) == "cuda" and q.shape[1] > MOST_HEADS:
        return in_parts(q, k, v, bias, MOST_HEADS)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def in_parts(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, most: int) -> Tensor:
    """The same attention, `most` of its H at once."""
    each = bias is not None and bias.ndim > 2 and bias.shape[-3] > 1  # a bias for each of them
    biases = bias.split(most, -3) if each else [bias] * -(-q.shape[1] // most)
    parts = zip(q.split(most, 1), k.split(most, 1), v.split(most, 1), biases, strict=True)
    return torch.cat([F.scaled_dot_product_attention(a, b, c, attn_mask=d) for a, b, c, d in parts], 1)


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """`norm` of [R, C, h, w], channels last in memory."""
    return norm(_for_norm(x, norm)).to(x.dtype)


def norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm, then SiLU, of [R, C, h, w]."""
    return F.silu(norm(_for_norm(x, norm))).to(x.dtype)


def _for_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    # On a CPU the bfloat16 kernel for channels that are last in memory is ten times as slow as the float32 one
    return x.to(norm.weight.dtype) if kind_of_device(x) == "cpu" else x


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
