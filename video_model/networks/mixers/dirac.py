"""Make-A-Video's temporal convolution."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from video_model.networks.layers import Given, zero
from video_model.networks.mixers.base import ConvPlace, Mixer
from video_model.networks.mixers.convolution import TimeConv


class DiracConv(Mixer):
    """A convolution over 3 frames that starts as the identity (Make-A-Video, section 3.2).

    What is stored is the difference from the identity, so that the start is exact in any precision.
    """

    name: ClassVar[str] = "dirac"

    def __init__(self, place: ConvPlace):
        super().__init__(place)
        self.conv = zero(TimeConv(place.channels))

    def mix(self, x: Tensor, given: Given, depth: int) -> Tensor:
        return x + self.conv(x)
