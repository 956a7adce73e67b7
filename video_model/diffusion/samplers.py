"""Samplers: functions of (denoise, x, sigmas) and nothing else.

`denoise(x, sigma) -> x0` is a denoiser with its condition bound to it; x [B, T, C, h, w] is clean data plus sigmas[0] times
unit noise; sigmas falls to what is left at the end, usually 0. All of them solve dx/dsigma = (x - D(x, sigma)) / sigma
(Karras et al. 2022, eq. 3), except DDIM with eta > 0, which adds noise on the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from video_model.diffusion.denoiser import Cond, Denoiser

Denoise = Callable[[Tensor, float], Tensor]
Watch = Callable[[int, int], None]  # steps done, steps in all


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> list[float]:
    """steps + 1 levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), and 0 (Karras et al. 2022, eq. 5).

    The defaults are Stable Video Diffusion's.
    """
    _check(steps, sigma_min, sigma_max)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + (low - high) * i / max(steps - 1, 1)) ** rho for i in range(steps)] + [0.0]


def uniform_time(steps: int, sigma_max: float = 700.0, shift: float = 1.0) -> list[float]:
    """steps + 1 levels for flow matching: t = sigma / (1 + sigma) falls evenly to 0, shifted by t -> k t / (1 + (k - 1) t)."""
    _check(steps, 1e-9, sigma_max)
    start = sigma_max / (1 + sigma_max)
    times = [start * (1 - i / steps) for i in range(steps)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]
    return [t / (1 - t) for t in times] + [0.0]


@torch.no_grad()
def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], watch: Watch | None = None) -> Tensor:
    """First order; one call a step."""
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now)
        x = clean + (x - clean) * (then / now)
        _tell(watch, i + 1, sigmas)
    return x


@torch.no_grad()
def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], watch: Watch | None = None) -> Tensor:
    """Second order; two calls a step, one for a step to 0 (Karras et al. 2022, algorithm 1)."""
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
            ahead = x + (then - now) * slope
        x = ahead
        _tell(watch, i + 1, sigmas)
    return x


@torch.no_grad()
def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], watch: Watch | None = None) -> Tensor:
    """Second order by the last step's result; one call a step (DPM-Solver++(2M): Lu et al. 2022, algorithm 2)."""
    before = length_before = None
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now)
        target = clean
        length = None
        if then > 0:
            length = _log(now) - _log(then)
            if before is not None:
                ratio = length / (2 * length_before)
                target = (1 + ratio) * clean - ratio * before
        x = target + (x - target) * (then / now)
        before, length_before = clean, length
        _tell(watch, i + 1, sigmas)
    return x


@torch.no_grad()
def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    watch: Watch | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One call a step; `eta` 0 is Euler's step in these coordinates, 1 draws as much new noise as DDPM (Song et al. 2021).

    With rising sigmas and eta 0 it inverts: clean data to the noise that would give it.
    """
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoise(x, now)
        fresh = eta * then * (max(now**2 - then**2, 0.0) / now**2) ** 0.5 if then < now else 0.0
        kept = (then**2 - fresh**2) ** 0.5
        x = clean + (x - clean) * (kept / now)
        if fresh:
            x = x + fresh * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        _tell(watch, i + 1, sigmas)
    return x


SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ddim": ddim}


def guided(denoiser: Denoiser, cond: Cond, null: Cond | None = None, scale: float | Tensor = 1.0) -> Denoise:
    """A denoiser with its condition bound: D_null + scale (D_cond - D_null), classifier-free guidance (Ho & Salimans 2022).

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


def _log(sigma: float) -> float:
    return float(torch.tensor(sigma, dtype=torch.float64).log())


def _tell(watch: Watch | None, done: int, sigmas: Sequence[float]) -> None:
    if watch:
        watch(done, len(sigmas) - 1)


def _check(steps: int, low: float, high: float) -> None:
    if steps < 1 or not 0 < low <= high:
        raise ValueError(
            f"noise levels: steps must be >= 1 and 0 < sigma_min <= sigma_max (got {steps}, {low}, {high})"
        )
