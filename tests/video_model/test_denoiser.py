"""Parametrisations against diffusers' schedulers number by number, and against sums done by hand."""

import math

import diffusers
import pytest
import torch
from torch import nn

from video_model.diffusion.denoiser import Denoiser, lognormal
from video_model.diffusion.parametrisations import Edm, Epsilon, RectifiedFlow, VPrediction

SHAPE = (1, 2, 3, 4, 4)
SIGMAS = [0.05, 0.3, 1.0, 7.0, 14.0]


class Answer(nn.Module):
    """A network whose output is always the same; what it was given is kept."""

    def __init__(self, seed=3):
        super().__init__()
        self.output = drawn(seed)

    def forward(self, x, c_noise, cond):
        self.input, self.level = x, float(c_noise)
        return self.output.expand(x.shape)


def drawn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def denoised(kind, x, sigma):
    """(what the network is given, its noise level, the denoised data)."""
    network = Answer()
    clean = Denoiser(network, kind)(x, sigma)
    return network.input, network.level, clean


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("kind", "prediction"), [(VPrediction(), "v_prediction"), (Epsilon(), "epsilon")])
def test_v_and_epsilon_are_those_of_diffusers(kind, prediction, sigma):
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    scheduler.set_timesteps(sigmas=[sigma, sigma / 2])
    step, x = scheduler.timesteps[0], sigma * drawn(1)
    given, level, clean = denoised(kind, x, sigma)
    torch.testing.assert_close(given, scheduler.scale_model_input(x, step))
    assert level == pytest.approx(float(step), abs=1e-2)
    torch.testing.assert_close(clean, scheduler.step(drawn(3), step, x).pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_is_that_of_diffusers(sigma_data, sigma):
    """With the sign of v prediction."""
    public = diffusers.EDMEulerScheduler(sigma_data=sigma_data, prediction_type="v_prediction")
    x = sigma * drawn(1)
    given, level, clean = denoised(Edm(sigma_data=sigma_data), x, sigma)
    torch.testing.assert_close(given, public.precondition_inputs(x, sigma))
    assert level == pytest.approx(float(public.precondition_noise(sigma)), abs=1e-6)
    torch.testing.assert_close(clean, public.precondition_outputs(x, drawn(3), sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_flow_is_that_of_diffusers(sigma):
    """A step from t to 0 goes to the clean data; x0 + sigma noise is diffusers' (1 - t) x0 + t noise, times 1 + sigma."""
    time, clean, noise = sigma / (1 + sigma), drawn(1), drawn(2)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[time])
    mixed = scheduler.scale_noise(clean, scheduler.timesteps[:1], noise)
    given, level, found = denoised(RectifiedFlow(time_scale=1000.0), clean + sigma * noise, sigma)
    torch.testing.assert_close(given, mixed, rtol=1e-5, atol=1e-6)
    assert level == pytest.approx(float(scheduler.timesteps[0]), rel=1e-5)
    torch.testing.assert_close(found, scheduler.step(drawn(3), scheduler.timesteps[0], mixed).prev_sample)


# x0 1, noise 2 at sigma 3 (x = 7); a network whose output is 0 is wrong by the whole target
TARGETS = {
    "edm": (Edm(), -1 / math.sqrt(10)),  # (noise - sigma x0) / sqrt(1 + sigma^2)
    "edm of half the scale": (Edm(sigma_data=0.5), -5 / math.sqrt(9.25)),  # (d^2 noise - sigma x0) / (d sqrt(...))
    "v": (VPrediction(), -1 / math.sqrt(10)),
    "epsilon": (Epsilon(), 2.0),
    "flow": (RectifiedFlow(), 1.0),  # noise - x0
}


@pytest.mark.parametrize("kind", TARGETS, ids=str)
def test_the_loss_is_the_square_of_what_is_missing(kind):
    kind, target = TARGETS[kind]
    clean, noise = torch.ones(SHAPE), torch.full(SHAPE, 2.0)
    for output in (0.0, target, target + 0.5):
        network = Answer()
        network.output = torch.full(SHAPE, output)
        loss = Denoiser(network, kind).loss(clean, noise, torch.tensor([3.0]))
        assert loss.item() == pytest.approx((output - target) ** 2, abs=1e-5)


def test_steps_outside_of_the_schedule_are_its_ends():
    assert VPrediction().step_of(torch.tensor([1e-6, 1e6])).tolist() == [0.0, 999.0]


def test_noise_levels_are_lognormal():
    drawn = lognormal(-1.2, 1.0, 40_000, torch.Generator().manual_seed(0)).log()
    assert abs(drawn.mean() + 1.2) < 0.02 and abs(drawn.std() - 1.0) < 0.02
    t = 1 / (1 + (-drawn).exp())  # flow's time: logit-normal
    assert abs(t.median() - 1 / (1 + math.exp(1.2))) < 0.01


def test_the_network_alone_works_in_the_precision_of_the_run():
    """Samples and losses in bfloat16: the network sees it, what is around it stays float32."""
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x, c_noise, cond):
            y = self.layer(x)
            seen.append((x.dtype, y.dtype))
            return y

    network, x, sigma = Network(), torch.randn(2, 1, 3, 4, 4), torch.tensor([0.5, 2.0])
    low = Denoiser(network, precision="bfloat16")
    exact = Denoiser(network)(x, sigma)
    drawn = low(x, sigma)
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert drawn.dtype == torch.float32 and 0 < (drawn - exact).abs().max() < 0.02
    assert low.loss(x, torch.randn_like(x), sigma).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
