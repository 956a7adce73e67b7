"""Noise prediction, as Stable Diffusion 1.x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from video_model.diffusion.parametrisations.base import Scales
from video_model.diffusion.parametrisations.v import DiscreteSteps

if TYPE_CHECKING:
    from torch import Tensor


class Epsilon(DiscreteSteps):
    """The network predicts the noise: D = x - sigma network(x / sqrt(1 + sigma^2)). (Ho et al. 2020.)"""

    kind: Literal["epsilon"] = "epsilon"

    def scales(self, sigma: Tensor) -> Scales:
        return Scales(sigma.new_ones(sigma.shape), -sigma, (sigma**2 + 1).rsqrt(), self.step_of(sigma))
