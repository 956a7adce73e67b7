"""Parts of training of one's own: a sampler is a function, all others are sections that a config chooses by their `kind`."""

from typing import Literal

import torch

from video_model.diffusion.parametrisations import Parametrisation, Scales
from video_model.diffusion.schedules import pairs


def midpoint(denoise, x, sigmas, watch=None):
    """The second-order sampler that looks halfway, in ln(sigma), between two noise levels."""
    for now, then in pairs(sigmas, watch):
        half = (now * then) ** 0.5 if then > 0 else now / 2
        slope = (x - denoise(x, now)) / now
        middle = x + slope * (half - now)
        x = x + (middle - denoise(middle, half)) / half * (then - now)
    return x


class CleanPrediction(Parametrisation):
    """The network predicts the clean data itself: D(x, sigma) = network(x / sqrt(1 + sigma^2))."""

    kind: Literal["clean"] = "clean"

    def scales(self, sigma):
        return Scales(torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt(), sigma.log() / 4)


PARTS = [midpoint, CleanPrediction]
