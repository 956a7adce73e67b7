"""The loss of prediction of the clean data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from video_model.diffusion.weightings.base import Weighting

if TYPE_CHECKING:
    from torch import Tensor


class CleanWeighting(Weighting):
    """1: the squared error of the clean data (Salimans & Ho 2022, section 4), whatever the network predicts."""

    kind: Literal["clean"] = "clean"

    def weight(self, snr: Tensor) -> Tensor | None:
        return snr.new_ones(snr.shape)
