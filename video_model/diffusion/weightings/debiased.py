"""Debiased estimation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from video_model.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class DebiasedWeighting(Weighting):
    """sqrt(SNR): the squared error of the noise over sqrt(SNR) (Yu et al. 2023, arXiv 2310.08442)."""

    kind: Literal["debiased"] = "debiased"

    def weight(self, snr: Tensor) -> Tensor | None:
        return snr.sqrt()
