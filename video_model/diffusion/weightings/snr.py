"""The loss of noise prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from video_model.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class SnrWeighting(Weighting):
    """SNR: the squared error of the noise, "L_simple" (Ho et al. 2020, eq. 14), whatever the network predicts."""

    kind: Literal["snr"] = "snr"

    def weight(self, snr: Tensor) -> Tensor | None:
        return snr
