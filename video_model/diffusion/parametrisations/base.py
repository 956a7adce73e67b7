"""What a parametrisation is: four scales of sigma, and the noise levels that a network of it is sampled at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from curate.base.section import Section
from video_model.diffusion.schedules import karras

if TYPE_CHECKING:
    from torch import Tensor


class Scales(NamedTuple):
    """Each [B], float32: D(x, sigma) = skip x + out network(input x, noise)."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


class Parametrisation(Section):
    """A section of the config, chosen by its field `kind`, and all that samplers, losses and guidance ask of it."""

    def scales(self, sigma: Tensor) -> Scales:
        """Of noise levels sigma [B]."""
        raise NotImplementedError

    def sigmas(self, steps: int, sigma_min: float, sigma_max: float) -> list[float]:
        """The steps + 1 falling noise levels of sampling, the last of them 0."""
        return karras(steps, sigma_min, sigma_max)
