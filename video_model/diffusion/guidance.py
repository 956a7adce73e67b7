"""Classifier-free guidance: a denoiser with its condition bound to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from video_model.diffusion.denoiser import Cond, Denoiser

Denoise = Callable[[Tensor, float], Tensor]


def guided(denoiser: Denoiser, cond: Cond, null: Cond | None = None, scale: float | Tensor = 1.0) -> Denoise:
    """D_null + scale (D_cond - D_null), as a function of x and sigma (Ho & Salimans 2022).

    scale: a number, or [T], one a frame (Stable Video Diffusion rises linearly from 1 to 2.5, appendix D.3). Where it is
    1 everywhere, or null is None, the network runs once a step.
    """
    strength = torch.as_tensor(scale, dtype=torch.float32)
    strength = strength.view(1, -1, 1, 1, 1) if strength.ndim else strength
    if null is None or bool((strength == 1).all()):
        return lambda x, sigma: denoiser(x, torch.tensor(sigma), cond)
    both = {key: torch.cat([cond[key], null[key]]) for key in cond}

    def denoise(x: Tensor, sigma: float) -> Tensor:
        with_it, without = denoiser(torch.cat([x, x]), torch.tensor(sigma), both).chunk(2)
        return without + strength.to(x.device) * (with_it - without)

    return denoise


def rising(first: float, last: float, frames: int) -> Tensor:
    """[frames] guidance, linear from the first frame to the last."""
    return torch.linspace(first, last, frames)
