"""Samplers on Gaussian data, whose denoiser and trajectories are known exactly."""

import math

import diffusers
import pytest
import torch
from torch import nn

from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.guidance import guided, rising
from video_model.diffusion.parametrisations import PARAMETRISATIONS, Edm, Epsilon, RectifiedFlow, VPrediction
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


class Exact(nn.Module):
    """A network of a parametrisation whose denoiser is the exact one; `sigma` is set before each call."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.levels = kind, []

    def forward(self, given, c_noise, cond):
        skip, out, scale, _ = (float(part) for part in self.kind.scales(torch.tensor([self.sigma])))
        self.levels.append(float(c_noise[0]))
        x = given / scale
        return (exact(x, self.sigma) - skip * x) / out


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("part", PARAMETRISATIONS)
def test_every_parametrisation_s_own_levels_give_the_data_with_every_sampler(part, sampler):
    kind = part()
    network = Exact(kind)
    denoiser = Denoiser(network, kind)

    def denoise(x, sigma):
        network.sigma = float(sigma)
        return denoiser(x, sigma)

    sigmas = kind.sigmas(200, *kind.sigma_range())
    drawn = sampler(denoise, noise(1, sigmas[0]).float(), sigmas)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.var()) == pytest.approx(SPREAD**2, rel=0.1)
    assert sigmas[-1] == 0 and len(sigmas) == 201


@pytest.mark.parametrize("kind", [Epsilon(), VPrediction()])
def test_discrete_schedules_are_sampled_between_their_ends(kind):
    """Public schedulers have the same two ends; what is asked for beyond is not taken, and said."""
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ends = float(scheduler.sigmas[scheduler.sigmas > 0].min()), float(scheduler.sigmas.max())
    assert kind.sigma_range() == pytest.approx(ends, rel=1e-3)
    assert kind.sigma_range() == pytest.approx((0.0292, 14.61), rel=2e-3)
    assert kind.sigma_range(0.1, 10.0) == (0.1, 10.0)
    with pytest.warns(UserWarning, match=r"sigma_max 80 is beyond the training schedule, which has 0.02917 to 14.61"):
        assert kind.sigma_range(0.1, 80.0)[1] == kind.sigma_range()[1]
    with pytest.warns(UserWarning, match="sigma_min 0.002"):
        assert kind.sigma_range(sigma_min=0.002) == kind.sigma_range()
    assert kind.step_of(torch.tensor(kind.sigma_range())).tolist() == pytest.approx([0.0, 999.0], abs=1e-3)


def test_other_parametrisations_take_what_they_are_asked_for():
    assert Edm().sigma_range() == (0.002, 80.0) and Edm().sigma_range(None, 700.0) == (0.002, 700.0)
    first = RectifiedFlow().sigmas(4, *RectifiedFlow().sigma_range())[0]
    assert first / (1 + first) == pytest.approx(0.999)
    with pytest.raises(ValueError, match="sigma_min <= sigma_max"):
        Edm().sigma_range(1.0, 0.5)


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
