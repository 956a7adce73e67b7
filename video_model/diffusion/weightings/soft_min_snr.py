"""Soft min-SNR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from video_model.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class SoftMinSnrWeighting(Weighting):
    """gamma SNR / (SNR + gamma), min-SNR without its corner (Crowson et al. 2024, arXiv 2401.11605, section 3.4)."""

    kind: Literal["soft_min_snr"] = "soft_min_snr"
    gamma: float = Field(4.0, gt=0)

    def weight(self, snr: Tensor) -> Tensor | None:
        return self.gamma * snr / (snr + self.gamma)
