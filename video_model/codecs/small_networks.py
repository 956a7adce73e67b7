"""The two halves of the small codec: a 2-D encoder, and a 2-D decoder whose temporal layers can be switched in.

All normalisation is over one frame, so that the encoder never mixes frames and the decoder reaches a known number of
frames to each side.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_model.networks.layers import zero


class EncoderNetwork(nn.Module):
    """Residual of the latents: pixels [N, 3, H, W] to (mean, log-variance) [N, C, h, w] each, zero at the start.

    A pixel-unshuffle by `patch`, a residual block a level, a pixel-unshuffle by two between levels.
    """

    def __init__(self, channels: int, patch: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        self.conv_in = nn.Conv2d(3 * patch * patch, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in pairwise(widths))
        self.norm_out = group_norm(widths[-1])
        self.conv_out = zero(nn.Conv2d(widths[-1], 2 * channels, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.patch))
        for level, block in enumerate(self.blocks):
            x = block(x)
            if level < len(self.downs):
                x = self.downs[level](F.pixel_unshuffle(x, 2))
        mean, log_variance = self.conv_out(F.silu(self.norm_out(x))).chunk(2, dim=1)
        return mean, log_variance


class DecoderNetwork(nn.Module):
    """Residual of the pixels: latents [B*T, C, h, w] to [B*T, 3, H, W], zero at the start.

    With temporal=True each residual block is followed by a temporal one, and the pixels by a (3, 1, 1) convolution
    (Blattmann et al. 2023, arXiv 2311.15127, appendix D); both are zero at the start, and skipped for one frame.
    """

    blocks_per_level = 2

    def __init__(self, channels: int, patch: int, widths: tuple[int, ...], temporal: bool = False) -> None:
        super().__init__()
        self.patch, self.temporal = patch, temporal
        coarse_to_fine = widths[::-1]
        self.conv_in = nn.Conv2d(channels, coarse_to_fine[0], 3, padding=1)
        per_block = [width for width in coarse_to_fine for _ in range(self.blocks_per_level)]
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in per_block)
        self.ups = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for coarse, fine in pairwise(coarse_to_fine))
        self.norm_out = group_norm(widths[0])
        self.conv_out = zero(nn.Conv2d(widths[0], 3 * patch * patch, 3, padding=1))
        if temporal:
            self.temporal_blocks = nn.ModuleList(TemporalBlock(width) for width in per_block)
            self.temporal_out = zero(nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0)))

    @property
    def reach(self) -> int:
        """Frames to each side that a frame's pixels depend on."""
        return 2 * len(self.temporal_blocks) + 1 if self.temporal else 0

    def forward(self, latents: Tensor, frames: int = 1) -> Tensor:
        mixes = self.temporal and frames > 1
        x = self.conv_in(latents)
        for at, block in enumerate(self.blocks):
            if at and at % self.blocks_per_level == 0:
                x = F.pixel_shuffle(self.ups[at // self.blocks_per_level - 1](x), 2)
            x = block(x)
            if mixes:
                x = self.temporal_blocks[at](x, frames)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)

    def smooth(self, pixels: Tensor, frames: int) -> Tensor:
        """The last step of the temporal decoder: pixels [B*T, 3, H, W] plus their (3, 1, 1) convolution over time."""
        if not self.temporal or frames == 1:
            return pixels
        return pixels + over_time(self.temporal_out, pixels, frames)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = group_norm(width), zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class TemporalBlock(nn.Module):
    """(1 - a) * x + a * temporal(x), a = sigmoid(mix), where temporal(x) = x + residual(x) over (3, 1, 1).

    Written as x + a * residual(x), which is the same and, with a residual of zero, equals x to the bit. `mix` starts at
    0 as in SVD's decoder, where a weights the temporal side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(width), nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        self.norm2, self.conv2 = group_norm(width), zero(nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)))
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        residual = over_time(self.conv1, F.silu(self.norm1(x)), frames)
        residual = over_time(self.conv2, F.silu(self.norm2(residual)), frames)
        return x + torch.sigmoid(self.mix) * residual


def over_time(convolution: nn.Conv3d, x: Tensor, frames: int) -> Tensor:
    """A 3-D convolution applied to frames kept as rows: [B*T, C, h, w] in and out."""
    rows, channels, height, width = x.shape
    video = x.reshape(rows // frames, frames, channels, height, width).transpose(1, 2)
    return convolution(video).transpose(1, 2).reshape(rows, -1, height, width)


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(groups for groups in (1, 2, 4, 8) if width % groups == 0), width)
