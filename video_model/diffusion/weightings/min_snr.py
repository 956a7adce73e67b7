"""Min-SNR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from video_model.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class MinSnrWeighting(Weighting):
    """min(SNR, gamma): low noise, whose tasks are easy, counts no more than gamma (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(5.0, gt=0)

    def weight(self, snr: Tensor) -> Tensor | None:
        return snr.clamp(max=self.gamma)
