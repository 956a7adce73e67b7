"""v prediction over the steps of Stable Diffusion 2.1's schedule."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from video_model.diffusion.parametrisations.base import Parametrisation, Scales

if TYPE_CHECKING:
    from torch import Tensor


class DiscreteSteps(Parametrisation):
    """A network that takes a step 0..999 of the scaled-linear training schedule of Stable Diffusion for a noise level.

    It was never shown more noise than the schedule's last step has (sigma 14.61) nor less than its first (.0292): these are
    its range, and beyond them it would be told of a level that is not the picture's.
    """

    steps: ClassVar[int] = 1000
    beta_start: ClassVar[float] = 0.00085
    beta_end: ClassVar[float] = 0.012

    @property
    def known_range(self) -> tuple[float, float]:
        table = _log_sigmas(self.steps, self.beta_start, self.beta_end)
        return math.exp(table[0]), math.exp(table[-1])

    @property
    def default_range(self) -> tuple[float, float]:  # type: ignore[override]
        return self.known_range

    def step_of(self, sigma: Tensor) -> Tensor:
        """[B] sigma -> [B] position in the training schedule, 0..steps - 1, linear in ln(sigma) between steps."""
        import torch

        table = torch.tensor(_log_sigmas(self.steps, self.beta_start, self.beta_end), device=sigma.device)
        log = sigma.log().clamp(table[0], table[-1])
        high = torch.searchsorted(table, log).clamp(1, self.steps - 1)
        low = high - 1
        return low + (log - table[low]) / (table[high] - table[low])


class VPrediction(DiscreteSteps):
    """v = a noise - s x0 with a = 1 / sqrt(1 + sigma^2), s = sigma a, as Stable Diffusion 2.1. (Salimans & Ho 2022.)"""

    kind: Literal["v"] = "v"

    def scales(self, sigma: Tensor) -> Scales:
        total = (sigma**2 + 1).sqrt()
        return Scales(1 / total**2, -sigma / total, 1 / total, self.step_of(sigma))


@lru_cache
def _log_sigmas(steps: int, start: float, end: float) -> tuple[float, ...]:
    kept, found = 1.0, []
    for i in range(steps):
        kept *= 1 - (start**0.5 + (end**0.5 - start**0.5) * i / (steps - 1)) ** 2
        found.append(0.5 * math.log((1 - kept) / kept))
    return tuple(found)
