"""EDM preconditioning, with the sign of v prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from video_model.diffusion.parametrisations.base import Parametrisation, Scales

if TYPE_CHECKING:
    from torch import Tensor


class Edm(Parametrisation):
    """c_skip = d^2 / (s^2 + d^2), c_out = -s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), c_noise = ln(s) / 4, d =
    sigma_data.

    The sign of c_out is that of v prediction, as in Stable Video Diffusion (appendix D; its d is 1); Karras et al. 2022
    have it positive, which differs by the sign of the network's last layer.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(1.0, gt=0)

    def scales(self, sigma: Tensor) -> Scales:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return Scales(
            self.sigma_data**2 / total**2, -sigma * self.sigma_data / total, 1 / total, sigma.log() / 4
        )  # fmt: skip
