"""A denoiser around any network: EDM, v, epsilon and flow matching behind one call.

Everything is in sigma, the standard deviation of the noise that was added to clean data of about unit scale:
x = x0 + sigma * noise. A parametrisation is four scales of sigma,

    D(x, sigma) = c_skip x + c_out network(c_in x, c_noise)

and nothing else: samplers, losses and guidance know only D. (Karras et al. 2022, table 1.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from video_model.diffusion.parametrisations import PARAMETRISATIONS, Parametrisation
from video_model.diffusion.weightings import Weighting
from video_model.precision import autocast

Cond = Mapping[str, Tensor]
DEFAULT = PARAMETRISATIONS[0]()


class Denoiser(nn.Module):
    """`denoiser(x, sigma, cond) -> x0`: the clean data that a network expects behind noisy data.

    precision: that the network works in; all else, a sampler's sums too, is float32. weighting: of its loss; None: the
    network's own.
    """

    weighting: Weighting | None = None

    def __init__(
        self, network: nn.Module, parametrisation: Parametrisation = DEFAULT, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation
        self.precision = precision

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond | None = None) -> Tensor:
        """x [B, T, C, h, w], sigma [B] or a number -> x0 [B, T, C, h, w], float32."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        skip, out, given, noise = self.parametrisation.scales(sigma)
        return _rows(skip) * x + _rows(out) * self._predicted(_rows(given) * x, noise, cond)

    def loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, cond: Cond | None = None) -> Tensor:
        """Mean squared error of the network's own output, which is |D - x0|^2 / c_out^2: [B], one a sample.

        clean, noise [B, T, C, h, w]; sigma [B]. For EDM the weight 1 / c_out^2 is (1 + s^2) / s^2 at sigma_data 1, as in
        the paper; a weighting has another in its place.
        """
        skip, out, given, level = self.parametrisation.scales(sigma)
        x = clean + _rows(sigma) * noise
        target = (clean - _rows(skip) * x) / _rows(out)
        predicted = self._predicted(_rows(given) * x, level, cond)
        loss = (predicted - target).square().flatten(1).mean(1)
        weight = self.weighting.weight(sigma**-2) if self.weighting else None
        return loss if weight is None else loss * weight * out**2

    def _predicted(self, x: Tensor, level: Tensor, cond: Cond | None) -> Tensor:
        with autocast(x.device, self.precision):
            predicted = self.network(x, level, dict(cond or {}))
        return predicted.float()


def lognormal(mean: float, std: float, count: int, generator: torch.Generator) -> Tensor:
    """[count] sigmas with ln(sigma) ~ N(mean, std^2): the noise levels of training (Karras et al. 2022, table 1)."""
    return (mean + std * torch.randn(count, generator=generator)).exp()


def _rows(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1, 1)
