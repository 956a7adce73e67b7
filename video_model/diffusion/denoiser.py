"""A denoiser around any network: EDM, v, epsilon and flow matching behind one call.

Everything is said in sigma, the standard deviation of the noise that was added to clean data of about unit scale:
x = x0 + sigma * noise. A parametrisation is four scales of sigma,

    D(x, sigma) = c_skip x + c_out network(c_in x, c_noise)

and nothing else: samplers, losses and guidance know only D. (Karras et al. 2022, table 1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Cond = Mapping[str, Tensor]


class Scales(NamedTuple):
    """Each [B], float32."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


@dataclass(frozen=True)
class EDM:
    """c_skip = d^2 / (s^2 + d^2), c_out = -s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), c_noise = ln(s) / 4, d =
    sigma_data.

    The sign of c_out is that of v prediction, as in Stable Video Diffusion (appendix D; its d is 1); Karras et al. 2022
    have it positive, which differs by the sign of the network's last layer.
    """

    sigma_data: float = 1.0

    def scales(self, sigma: Tensor) -> Scales:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return Scales(
            self.sigma_data**2 / total**2, -sigma * self.sigma_data / total, 1 / total, sigma.log() / 4
        )  # fmt: skip


@dataclass(frozen=True)
class VPrediction:
    """v = a noise - s x0 with a = 1 / sqrt(1 + sigma^2), s = sigma a; the network is told a training step 0..999.

    With `steps` of the scaled-linear schedule (beta_start, beta_end), as Stable Diffusion 2.1 was trained. (Salimans & Ho
    2022.)
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def scales(self, sigma: Tensor) -> Scales:
        total = (sigma**2 + 1).sqrt()
        return Scales(1 / total**2, -sigma / total, 1 / total, self.step_of(sigma))

    def step_of(self, sigma: Tensor) -> Tensor:
        """[B] sigma -> [B] position in the training schedule, 0..steps - 1, linear in ln(sigma) between steps."""
        table = torch.tensor(_log_sigmas(self.steps, self.beta_start, self.beta_end), device=sigma.device)
        log = sigma.log().clamp(table[0], table[-1])
        high = torch.searchsorted(table, log).clamp(1, self.steps - 1)
        low = high - 1
        return low + (log - table[low]) / (table[high] - table[low])


@dataclass(frozen=True)
class Epsilon(VPrediction):
    """The network predicts the noise: D = x - sigma network(x / sqrt(1 + sigma^2)). Stable Diffusion 1.x. (Ho 2020.)"""

    def scales(self, sigma: Tensor) -> Scales:
        return Scales(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), self.step_of(sigma))


@dataclass(frozen=True)
class Flow:
    """Rectified flow: z = (1 - t) x0 + t noise, the network predicts noise - x0, t = sigma / (1 + sigma).

    In this module's x, z = x / (1 + sigma). c_noise = t * `time_scale`. ln(sigma) ~ N(m, s^2) in training is the same as
    t ~ logit-normal(m, s). (Lipman 2023; Esser 2024, sec. 3.)
    """

    time_scale: float = 1.0

    def scales(self, sigma: Tensor) -> Scales:
        t = sigma / (1 + sigma)
        return Scales(1 - t, -t, 1 - t, t * self.time_scale)


Parametrisation = EDM | VPrediction | Flow
KINDS: dict[str, Callable[..., Parametrisation]] = {"edm": EDM, "v": VPrediction, "epsilon": Epsilon, "flow": Flow}


class Denoiser(nn.Module):
    """`denoiser(x, sigma, cond) -> x0`: the clean data that a network expects behind noisy data."""

    def __init__(self, network: nn.Module, parametrisation: Parametrisation = EDM()) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond | None = None) -> Tensor:
        """x [B, T, C, h, w], sigma [B] or a number -> x0 [B, T, C, h, w], float32."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        skip, out, given, noise = self.parametrisation.scales(sigma)
        predicted = self.network(_rows(given) * x, noise, dict(cond or {}))
        return _rows(skip) * x + _rows(out) * predicted.float()

    def loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, cond: Cond | None = None) -> Tensor:
        """Mean squared error of the network's own output, which is |D - x0|^2 / c_out^2: [B], one a sample.

        clean, noise [B, T, C, h, w]; sigma [B]. For EDM the weight 1 / c_out^2 is (1 + s^2) / s^2 at sigma_data 1, as in
        the paper.
        """
        skip, out, given, level = self.parametrisation.scales(sigma)
        x = clean + _rows(sigma) * noise
        target = (clean - _rows(skip) * x) / _rows(out)
        predicted = self.network(_rows(given) * x, level, dict(cond or {})).float()
        return (predicted - target).square().flatten(1).mean(1)


def lognormal(mean: float, std: float, count: int, generator: torch.Generator) -> Tensor:
    """[count] sigmas with ln(sigma) ~ N(mean, std^2): the noise levels of training (Karras et al. 2022, table 1)."""
    return (mean + std * torch.randn(count, generator=generator)).exp()


def parametrisation(kind: str, **options: Any) -> Parametrisation:
    """By the name that a config uses: edm, v, epsilon or flow."""
    return KINDS[kind](**options)


def _rows(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1, 1)


@lru_cache
def _log_sigmas(steps: int, start: float, end: float) -> tuple[float, ...]:
    kept, found = 1.0, []
    for i in range(steps):
        kept *= 1 - (start**0.5 + (end**0.5 - start**0.5) * i / (steps - 1)) ** 2
        found.append(0.5 * math.log((1 - kept) / kept))
    return tuple(found)
