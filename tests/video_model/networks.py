"""Tiny networks with weights that are nowhere zero, so that nothing can hide behind a fresh layer."""

import torch
from torch import Tensor

from video_model.networks.unet import SpaceTimeUNet
from video_model.networks.unet_config import UNetConfig

TINY = dict(
    in_channels=4,
    out_channels=4,
    channels=(32, 64),
    layers=1,
    attention=(True, False),
    heads=(2, 4),
    context_dim=16,
    vector_width=8,
)


def tiny(seed: int = 0, **changes) -> SpaceTimeUNet:
    """A random network of TINY with `changes`."""
    return randomised(SpaceTimeUNet(UNetConfig(**{**TINY, **changes})), seed)


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The same network with every parameter drawn anew: N(0, 0.1^2), around 0.5 for vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            centre = 0.5 if parameter.ndim == 1 else 0.0
            parameter.copy_(centre + 0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(rows: int = 2, frames: int = 3, seed: int = 1, size: int = 8) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x [rows, frames, 4, size, size], c_noise [rows], and a cond with text of five tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, frames, 4, size, size, generator=generator)
    return x, torch.randn(rows, generator=generator), {"text": torch.randn(rows, 5, 16, generator=generator)}
