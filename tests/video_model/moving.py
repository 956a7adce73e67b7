"""Synthetic clips for the tests of codecs and metrics: a shape of a colour moves over a background."""

from __future__ import annotations

import torch


def moving_shapes(clips: int, frames: int, side: int = 32, seed: int = 0, speed: float = 1.5) -> torch.Tensor:
    """uint8 [clips, frames, 3, side, side]: an antialiased disc or square moves at up to `speed` px per frame."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    videos = []
    for clip in range(clips):
        background, colour = torch.rand(2, 3, 1, 1, generator=draw)
        slope = torch.rand(2, 3, 1, 1, generator=draw) - 0.5
        start = torch.rand(2, generator=draw) * side
        velocity = (torch.rand(2, generator=draw) * 2 - 1) * speed
        radius = side * (0.12 + 0.15 * torch.rand((), generator=draw))
        ground = background + slope[0] * y / side + slope[1] * x / side
        for frame in range(frames):
            dy, dx = y - start[0] - velocity[0] * frame, x - start[1] - velocity[1] * frame
            distance = torch.hypot(dy, dx) if clip % 2 else torch.maximum(dy.abs(), dx.abs())
            shape = (radius - distance).clamp(0, 1)
            videos.append(ground * (1 - shape) + colour * shape)
    return to_uint8(torch.stack(videos) * 2 - 1).reshape(clips, frames, 3, side, side)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """[-1, 1] to [0, 255]."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
