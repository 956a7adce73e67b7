"""3x3 convolutions with four times fewer multiplications: Winograd's F(4x4, 3x3), for CPUs (Lavin & Gray 2016).

A tile of 6x6 pixels becomes 4x4 results with 36 products a channel pair, where direct convolution takes 144; the
transforms pay off from 128 channels. In float32, results differ from direct convolution by about 1e-6, relative.

Why ours: for CRAFT at 480 px, one thread, the fastest libraries take longer by 1.35 (ONNX Runtime) and 1.45 (torch, fused,
channels last) times, and the former wants an export that needs another package.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

CHANNELS = 128  # input channels from which it is faster (measured; at 64 it is not)
CACHED = 2**16  # input values of one block of work, so that its tiles stay in the L2 cache

INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConv2d(nn.Module):
    """A Conv2d of 3x3, stride 1, padding 1: [B, C, H, W] to [B, D, H, W], channels last in memory."""

    def __init__(self, direct: nn.Conv2d) -> None:
        super().__init__()
        inward, weight, outward = (torch.tensor(rows, dtype=torch.float64) for rows in (INPUT, WEIGHT, OUTPUT))
        kernel = torch.einsum("ai,bj,dcij->abcd", weight, weight, direct.weight.detach().double())
        self.register_buffer("kernel", kernel.flatten(0, 1).float().contiguous())  # [36, C, D]
        self.register_buffer("inward", torch.kron(inward, inward).float())  # [36, 36]
        self.register_buffer("outward", torch.kron(outward, outward).float())  # [16, 36]
        self.register_buffer("bias", torch.zeros(kernel.shape[-1]) if direct.bias is None else direct.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        down, across = -(-height // 4), -(-width // 4)  # tiles
        padded = F.pad(x, (1, 4 * across + 1 - width, 1, 4 * down + 1 - height)).permute(0, 2, 3, 1).contiguous()
        result = x.new_empty(batch, down, 4, across, 4, len(self.bias))
        rows = max(1, CACHED // (across * channels))
        for picture, target in zip(padded, result, strict=True):
            for top in range(0, down, rows):
                count = min(rows, down - top)
                band = picture[4 * top : 4 * (top + count) + 2]
                line, pixel = band.stride(0), band.stride(1)
                # Overlapping 6x6 tiles as a view: [6, 6, tiles down, tiles across, C].
                tiles = band.as_strided((6, 6, count, across, channels), (line, pixel, 4 * line, 4 * pixel, 1))
                moved = (self.inward @ tiles.reshape(36, -1)).view(36, -1, channels)
                products = torch.bmm(moved, self.kernel)  # [36, tiles, D]
                out = (self.outward @ products.view(36, -1)).view(4, 4, count, across, -1)
                target[top : top + count] = out.permute(2, 0, 3, 1, 4)
        result += self.bias
        return result.view(batch, 4 * down, 4 * across, -1)[:, :height, :width].permute(0, 3, 1, 2)


def accelerated(network: nn.Module) -> nn.Module:
    """Speed up a network in evaluation mode, in place: fuse batch norms into convolutions, and use Winograd for wide 3x3
    ones. Only in a Sequential, where the order of layers is known."""
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for at, layer in enumerate(block):
            if not isinstance(layer, nn.Conv2d):
                continue
            if at + 1 < len(block) and isinstance(block[at + 1], nn.BatchNorm2d):
                layer = fuse_conv_bn_eval(layer, block[at + 1])
                block[at + 1] = nn.Identity()
            block[at] = WinogradConv2d(layer) if is_eligible(layer) else layer
    return network


def is_eligible(layer: nn.Conv2d) -> bool:
    """Whether Winograd applies to a convolution, and is faster."""
    plain = layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.padding_mode == "zeros"
    dense = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    return plain and dense and layer.in_channels >= CHANNELS
