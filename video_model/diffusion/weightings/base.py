"""What a weighting is, and the one that a network has by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from curate.base.section import Section

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Section):
    """A section of the config, chosen by its field `kind`: how much each noise level counts in the loss of training.

    A weight is a factor of |D - x0|^2, the error of the clean data, so that it is the same whatever the network predicts. SNR
    is the signal-to-noise ratio of the noisy data: 1 / sigma^2, for v, epsilon and flow matching too.
    """

    def weight(self, snr: Tensor) -> Tensor | None:
        """[B], of rows with this SNR [B]; None: 1 / c_out^2, by which the loss is the network's own squared error."""
        raise NotImplementedError


class NetworkWeighting(Weighting):
    """The network's own squared error: 1 / c_out^2. For EDM (s^2 + d^2) / (s d)^2, as in Stable Video Diffusion (Karras et al.
    2022, table 1); for epsilon SNR, for v SNR + 1, for flow matching (1 + 1 / sigma)^2."""

    kind: Literal["network"] = "network"

    def weight(self, snr: Tensor) -> Tensor | None:
        return None
