"""Parametrisations against each other: the same prediction, said in another way, gives the same denoiser and loss."""

import math

import pytest
import torch
from torch import nn

from video_model.diffusion.denoiser import Denoiser, lognormal
from video_model.diffusion.parametrisations import Edm, Epsilon, RectifiedFlow, VPrediction

SIGMA = torch.tensor([0.02, 0.3, 1.0, 7.0, 300.0])
TRUTH = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
FIVE = (-1, 1, 1, 1, 1)


class Oracle(nn.Module):
    """A network that answers, in its parametrisation's words, with `TRUTH + error`; it undoes c_in to find x."""

    def __init__(self, words, error=0.0):
        super().__init__()
        self.words, self.error = words, error

    def forward(self, x, c_noise, cond):
        s = SIGMA.view(FIVE)
        a = (1 + s**2).rsqrt()
        scale = {"v": a, "epsilon": a, "edm": a, "flow": 1 / (1 + s)}[self.words]
        noisy = x / scale
        clean = TRUTH + self.error
        noise = (noisy - clean) / s
        return {
            "v": a * noise - s * a * clean,
            "edm": a * noise - s * a * clean,
            "epsilon": noise,
            "flow": noise - clean,
        }[self.words]


@pytest.mark.parametrize(
    "words, kind", [("edm", Edm()), ("v", VPrediction()), ("epsilon", Epsilon()), ("flow", RectifiedFlow())]
)
def test_the_same_answer_in_any_words_is_the_same_denoised_picture(words, kind):
    x = TRUTH + SIGMA.view(FIVE) * NOISE
    denoised = Denoiser(Oracle(words, 0.25), kind)(x, SIGMA)
    assert torch.allclose(denoised, TRUTH + 0.25, atol=2e-3)
    assert Denoiser(Oracle(words), kind).loss(TRUTH, NOISE, SIGMA).max() < 1e-4


@pytest.mark.parametrize(
    "words, kind, weight",
    [
        ("edm", Edm(), (1 + SIGMA**2) / SIGMA**2),
        ("v", VPrediction(), (1 + SIGMA**2) / SIGMA**2),
        ("epsilon", Epsilon(), 1 / SIGMA**2),
        ("flow", RectifiedFlow(), ((1 + SIGMA) / SIGMA) ** 2),
    ],
)
def test_the_loss_is_the_weighted_error_of_the_clean_data(words, kind, weight):
    loss = Denoiser(Oracle(words, 0.5), kind).loss(TRUTH, NOISE, SIGMA)
    assert torch.allclose(loss, weight * 0.25, rtol=2e-3)


def test_edm_with_other_sigma_data_keeps_unit_variance_in_and_out():
    d, s = 0.5, torch.tensor([0.1, 1.0, 20.0])
    skip, out, given, noise = Edm(sigma_data=d).scales(s)
    assert torch.allclose(given**2 * (s**2 + d**2), torch.ones(3))
    x0_part, noise_part = (
        (1 - skip) / out * d,
        -skip * s / out,
    )  # what the network must say, per unit of data and of noise
    assert torch.allclose(x0_part**2 + noise_part**2, torch.ones(3), atol=1e-5)
    assert torch.allclose(noise, s.log() / 4)


def test_stable_diffusions_steps():
    kind = VPrediction()
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alphas = scheduler.alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()
    assert torch.allclose(kind.step_of(sigmas[[0, 1, 500, 999]].float()), torch.tensor([0.0, 1, 500, 999]), atol=1e-2)
    assert kind.step_of(torch.tensor([1e-6, 1e6])).tolist() == [0.0, 999.0]


def test_noise_levels_are_lognormal():
    drawn = lognormal(-1.2, 1.0, 40_000, torch.Generator().manual_seed(0)).log()
    assert abs(drawn.mean() + 1.2) < 0.02 and abs(drawn.std() - 1.0) < 0.02
    t = 1 / (1 + (-drawn).exp())  # flow's time: logit-normal
    assert abs(t.median() - 1 / (1 + math.exp(1.2))) < 0.01
