"""What a parametrisation is: four scales of sigma, and the noise levels that a network of it is sampled at."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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
    """A section of the config, chosen by its field `kind`, and all that samplers, losses and guidance ask of it.

    default_range: the noise levels, lowest and highest, that sampling goes through where nothing else is asked for.
    """

    default_range: ClassVar[tuple[float, float]] = (0.002, 80.0)  # Karras et al. 2022, table 1

    def scales(self, sigma: Tensor) -> Scales:
        """Of noise levels sigma [B]."""
        raise NotImplementedError

    @property
    def known_range(self) -> tuple[float, float]:
        """The noise levels that a network of it can be told of at all."""
        return 0.0, float("inf")

    def sigma_range(self, sigma_min: float | None = None, sigma_max: float | None = None) -> tuple[float, float]:
        """The noise levels to sample through: those asked for, else the default; never beyond what a network knows.

        Warns of a level that is beyond, and takes the end instead. Raises ValueError where the lowest is above the highest.
        """
        low, high = self.default_range
        low, high = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
        if not 0 < low <= high:
            raise ValueError(f"noise levels: 0 < sigma_min <= sigma_max is needed (got {low:g}, {high:g})")
        least, most = self.known_range
        for name, asked in (("sigma_min", low), ("sigma_max", high)):
            if not least <= asked <= most:
                warnings.warn(
                    f"{name} {asked:g} is beyond the training schedule, which has {least:.4g} to {most:.4g}: its end is taken",
                    stacklevel=2,
                )
        return min(max(low, least), most), min(max(high, least), most)

    def sigmas(self, steps: int, sigma_min: float, sigma_max: float) -> list[float]:
        """The steps + 1 falling noise levels of sampling, the last of them 0."""
        return karras(steps, sigma_min, sigma_max)
