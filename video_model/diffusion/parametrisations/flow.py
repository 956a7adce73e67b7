"""Rectified flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from video_model.diffusion.parametrisations.base import Parametrisation, Scales
from video_model.diffusion.schedules import uniform_time

if TYPE_CHECKING:
    from torch import Tensor


class RectifiedFlow(Parametrisation):
    """z = (1 - t) x0 + t noise, the network predicts noise - x0, t = sigma / (1 + sigma).

    In the denoiser's x, z = x / (1 + sigma). c_noise = t * `time_scale`. ln(sigma) ~ N(m, s^2) in training is the same as
    t ~ logit-normal(m, s). (Lipman 2023; Esser 2024, sec. 3.) Sampling begins at t = 0.999, the last of a thousand steps short
    of pure noise: t = 1 is sigma = infinity, which x = x0 + sigma noise cannot be. The last level before 0 is t = 1 / steps.
    """

    default_range: ClassVar[tuple[float, float]] = (0.002, 999.0)

    kind: Literal["flow"] = "flow"
    time_scale: float = Field(1.0, gt=0)

    def scales(self, sigma: Tensor) -> Scales:
        t = sigma / (1 + sigma)
        return Scales(1 - t, -t, 1 - t, t * self.time_scale)

    def sigmas(self, steps: int, sigma_min: float, sigma_max: float) -> list[float]:
        """Even in t; sigma_min is not used."""
        return uniform_time(steps, sigma_max)
