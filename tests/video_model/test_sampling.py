"""Samplers on Gaussian data, whose denoiser and trajectories are known exactly."""

import math

import diffusers
import pytest
import torch
from torch import nn

from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.guidance import guided, rising
from video_model.diffusion.parametrisations import Edm
from video_model.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m, euler, heun
from video_model.diffusion.schedules import karras, uniform_time

MEAN, SPREAD = 0.7, 0.4
SHAPE = (64, 2, 1, 4, 4)


def exact(x, sigma):
    """The best denoiser of N(MEAN, SPREAD^2)."""
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)


def trajectory(x, start, end):
    """Where the flow takes x from noise level `start` to `end`."""
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + start**2))


def noise(seed=0, scale=1.0):
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(sampler, steps):
    start, end = 10.0, 0.05
    x = MEAN + noise(scale=start)
    sigmas = karras(steps, end, start)[:-1]
    return float((sampler(exact, x, sigmas) - trajectory(x, start, end)).abs().mean())


@pytest.mark.parametrize("sampler, order", [(euler, 1), (ddim, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order):
    coarse, fine = error(sampler, 41), error(sampler, 81)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)
    assert fine < 0.03


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_data_s_mean_and_spread(sampler):
    drawn = sampler(exact, noise(1, 80.0), karras(40, 0.002, 80.0))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.std()) == pytest.approx(SPREAD, rel=0.1)


def test_ddim_with_noise_still_gives_the_data():
    drawn = ddim(exact, noise(1, 80.0), karras(200, 0.002, 80.0), eta=1.0, generator=torch.Generator().manual_seed(5))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.std()) == pytest.approx(SPREAD, rel=0.1)
    again = ddim(exact, noise(1, 80.0), karras(200, 0.002, 80.0), eta=1.0, generator=torch.Generator().manual_seed(6))
    assert not torch.allclose(drawn, again)


def test_inversion_and_sampling_reconstruct():
    sigmas = karras(400, 0.01, 20.0)[:-1]
    clean = MEAN + SPREAD * noise(3)
    inverted = ddim(exact, clean, sigmas[::-1])
    assert float(inverted.std()) > 15
    assert float((ddim(exact, inverted, sigmas) - clean).abs().mean()) < 0.02


def test_ddim_without_noise_is_euler():
    x, sigmas = noise(4, 10.0), karras(7, 0.01, 10.0)
    assert torch.allclose(ddim(exact, x, sigmas), euler(exact, x, sigmas))


@pytest.mark.parametrize(("steps", "low", "high"), [(18, 0.002, 80.0), (25, 0.002, 700.0), (2, 0.1, 5.0)])
def test_levels_are_those_of_diffusers(steps, low, high):
    public = diffusers.EDMEulerScheduler(sigma_min=low, sigma_max=high)
    public.set_timesteps(steps)
    assert karras(steps, low, high) == pytest.approx(public.sigmas.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("sampler", "public"),
    [(euler, diffusers.EDMEulerScheduler), (dpmpp_2m, diffusers.EDMDPMSolverMultistepScheduler)],
)
def test_steps_are_those_of_diffusers(sampler, public):
    """Of one network in EDM's preconditioning, which diffusers' schedulers have within them."""
    scheduler = public(sigma_min=0.05, sigma_max=20.0, sigma_data=1.0, prediction_type="v_prediction")
    scheduler.set_timesteps(7)
    network, x = (lambda given, level: torch.tanh(given + 0.3 * level)), noise(2, 20.0)

    def denoise(x, sigma):
        return scheduler.precondition_outputs(x, network(*_given(scheduler, x, sigma)), torch.tensor(sigma))

    theirs = x
    for step, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        output = network(*_given(scheduler, theirs, sigma))
        theirs = scheduler.step(output, step, theirs).prev_sample
    torch.testing.assert_close(sampler(denoise, x, karras(7, 0.05, 20.0)), theirs, rtol=1e-3, atol=1e-3)


def _given(scheduler, x, sigma):
    return scheduler.precondition_inputs(x, sigma), math.log(sigma) / 4


def test_schedules():
    times = [s / (1 + s) for s in uniform_time(4, 999.0)]
    assert times == pytest.approx([0.999, 0.74925, 0.4995, 0.24975, 0.0])
    assert karras(1, 0.1, 5.0) == pytest.approx([5.0, 0.0])
    with pytest.raises(ValueError, match="steps must be >= 1"):
        karras(0)


class Prompted(nn.Module):
    """Its denoised picture is 10 where its text is 10, else 0; c_skip and c_out are undone."""

    calls = 0

    def forward(self, x, c_noise, cond):
        Prompted.calls += 1
        wanted = cond["text"][:, 0, 0].view(-1, 1, 1, 1, 1)
        sigma = (4 * c_noise).exp().view(-1, 1, 1, 1, 1)
        return (wanted - x / (1 + sigma**2).sqrt()) / (-sigma / (1 + sigma**2).sqrt())


def test_guidance_is_linear_and_its_own_for_each_frame():
    denoiser = Denoiser(Prompted(), Edm())
    cond, null = {"text": torch.full((1, 1, 1), 10.0)}, {"text": torch.zeros(1, 1, 1)}
    denoise = guided(denoiser, cond, null, rising(1.0, 2.5, 4))
    out = denoise(torch.randn(1, 4, 1, 2, 2), 2.0)
    assert torch.allclose(out[0, :, 0, 0, 0], torch.tensor([10.0, 15.0, 20.0, 25.0]), atol=1e-4)
    Prompted.calls = 0
    guided(denoiser, cond, null, 1.0)(torch.randn(1, 4, 1, 2, 2), 2.0)
    guided(denoiser, cond)(torch.randn(1, 4, 1, 2, 2), 2.0)
    assert Prompted.calls == 2  # once each: nothing to guide


def test_progress_is_reported():
    seen = []
    heun(exact, noise(), karras(3, 0.1, 5.0), watch=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
