"""Optimisers, weightings, learning rates and averages: known answers, and the same run when resumed."""

from importlib.util import find_spec
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import ValidationError

from tests.video_model.networks import inputs, tiny
from tests.video_model.test_stages import config
from tests.video_model.training import RandomBatches, network, task
from video_model.config import TrainingStage, train_config
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.parametrisations import Edm, Epsilon, RectifiedFlow, VPrediction
from video_model.diffusion.weightings import (
    WEIGHTINGS,
    CleanWeighting,
    DebiasedWeighting,
    MinSnrWeighting,
    SnrWeighting,
    SoftMinSnrWeighting,
    Weighting,
)
from video_model.errors import RunError
from video_model.optimizers import Adafactor, AdamW, AdamW8bit, OptimizerSection
from video_model.training.loop import Interrupted, train_stage
from video_model.training.steps.average import Average, to_average
from video_model.training.steps.compiling import compiled
from video_model.training.steps.optimisation import choose_trained, learning_rate
from video_model.training.steps.state import TrainingState
from video_model.training.storage import checkpoints
from video_model.training_parts import PARTS

# --- weightings

FORMULAS = {  # of sigma, as a factor of |D - x0|^2
    CleanWeighting(): lambda s: 1.0,
    SnrWeighting(): lambda s: 1 / s**2,
    MinSnrWeighting(gamma=5): lambda s: min(1 / s**2, 5.0),
    SoftMinSnrWeighting(gamma=4): lambda s: 1 / (s**2 + 0.25),  # k-diffusion's, with sigma_data .5
    DebiasedWeighting(): lambda s: 1 / s,
}


@pytest.mark.parametrize(
    "kind",
    [Edm(), Edm(sigma_data=0.5), VPrediction(), Epsilon(), RectifiedFlow()],
    ids=lambda k: f"{k.kind}{k.model_dump()}",
)
def test_a_weight_is_a_factor_of_the_error_of_the_clean_data_whatever_is_predicted(kind):
    torch.manual_seed(0)
    denoiser = Denoiser(lambda x, level, cond: 0.3 * x + 0.1, kind)
    clean, noise, sigma = (
        torch.randn(6, 2, 3, 4, 4),
        torch.randn(6, 2, 3, 4, 4),
        torch.tensor([0.05, 0.3, 0.45, 1, 3, 14]),
    )
    error = denoiser(clean + sigma.view(-1, 1, 1, 1, 1) * noise, sigma) - clean
    error = error.square().flatten(1).mean(1)
    plain = denoiser.loss(clean, noise, sigma)
    torch.testing.assert_close(plain, error / kind.scales(sigma).out ** 2, rtol=1e-4, atol=1e-6)
    for weighting, formula in FORMULAS.items():
        denoiser.weighting = weighting
        wanted = error * torch.tensor([formula(s) for s in sigma.tolist()])
        torch.testing.assert_close(denoiser.loss(clean, noise, sigma), wanted, rtol=1e-4, atol=1e-6)
    denoiser.weighting = WEIGHTINGS[0]()
    assert torch.equal(denoiser.loss(clean, noise, sigma), plain)


def test_noise_predictions_own_error_is_that_of_the_snr_weighting():
    snr = torch.tensor([4.0, 1.0, 0.01])
    assert torch.allclose(Epsilon().scales(snr**-0.5).out ** -2, SnrWeighting().weight(snr))


def test_the_loss_on_held_out_clips_is_not_weighted(tmp_path):
    made = task(tmp_path, weighting={"kind": "min_snr"})
    state = TrainingState(made.network, made.parametrisation, made.stage, made.loop, made.worker)
    assert state.denoiser.weighting == MinSnrWeighting() and state.averaged.weighting is None


# --- learning rates


def test_linear_and_warmup_stable_decay():
    stage = TrainingStage(steps=100, lr=1.0, warmup=10, decay="linear", decay_to=0.1)
    assert [learning_rate(stage, step) for step in (4, 10, 55, 100)] == pytest.approx([0.5, 1.0, 0.55, 0.1])
    stage = TrainingStage(steps=100, lr=1.0, warmup=10, decay="wsd", decay_share=0.2, decay_to=0)
    rates = [learning_rate(stage, step) for step in (4, 9, 40, 79, 80, 90, 95, 100)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.0])


# --- optimisers


class Rough(torch.optim.Optimizer):
    """Momentum in blocks of 8 bits, kept as bitsandbytes keeps it: bytes, a scale a block, a map of values, a count."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in [p for p in group["params"] if p.grad is not None]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros(p.shape, dtype=torch.uint8), "absmax1": torch.zeros(1)}
                    state["qmap1"] = torch.linspace(-1, 1, 256)
                    state["state1"] += 128
                state["step"] += 1
                assert isinstance(state["step"], int)
                moment = 0.9 * state["qmap1"][state["state1"].long()] * state["absmax1"] + 0.1 * p.grad
                state["absmax1"] = moment.abs().max().view(1)
                scaled = moment / state["absmax1"].clamp(min=1e-12)
                state["state1"] = ((scaled + 1) * 127.5).round().to(torch.uint8)
                p -= group["lr"] * moment


class RoughSection(OptimizerSection):
    """Of one's own."""

    spreads: ClassVar[bool] = False
    kind: Literal["rough"] = "rough"

    def make(self, groups, lr, betas):
        return Rough(groups, lr)


@pytest.mark.parametrize(
    "optimizer", [AdamW(), AdamW(fused=True), Adafactor(), RoughSection()], ids=lambda o: f"{o.kind}{o.model_dump()}"
)
def test_every_optimiser_resumes_to_the_bit(optimizer, tmp_path):
    def made(folder, **options):
        found = task(folder, **options)
        found.stage = found.stage.model_copy(update={"optimizer": optimizer})
        return found

    whole = train_stage(made(tmp_path / "whole"))
    begun = made(tmp_path / "parts")
    asked = iter([False, True] + [True] * 9)
    begun.stop = lambda: next(asked)
    with pytest.raises(Interrupted):
        train_stage(begun)
    resumed = train_stage(made(tmp_path / "parts", net=network(9)), checkpoints.latest(begun.folder / "checkpoints"))
    for part in ("network", "ema", "optimizer"):
        one, two = whole.tensors(part), resumed.tensors(part)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), part
    if optimizer.kind == "rough":
        state = whole.tensors("optimizer")
        assert {state[f"conv_in.weight.{key}"].dtype for key in ("state1", "step", "qmap1")} == {
            torch.uint8, torch.int64, torch.float32,
        }  # fmt: skip


def test_fused_steps_are_adamws(tmp_path):
    one, two = (
        train_stage(task(tmp_path / str(fused), steps=2, optimizer={"kind": "adamw", "fused": fused}))
        for fused in (False, True)
    )
    one, two = one.tensors("network"), two.tensors("network")
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5


def test_what_is_not_installed_is_named_with_the_command():
    if find_spec("bitsandbytes") is None:
        with pytest.raises(
            RunError, match=r"bitsandbytes is not installed: pip install .*bitsandbytes.*, or choose optimizer"
        ) as caught:
            AdamW8bit().check("cuda")
        assert "\n" not in str(caught.value)


def test_optimisers_that_do_not_spread_are_refused_with_fsdp():
    stages = {"image": {"frames": [1], "steps": 1, "optimizer": {"kind": "adafactor"}}}
    with pytest.raises(
        ValidationError, match=r"stages\.image\.optimizer: adafactor does not work on weights that are spread"
    ):
        config(stages=stages, loop={"strategy": "fsdp"})
    with pytest.raises(ValidationError, match=r"stages\.image\.ema_device: cpu goes with loop\.strategy ddp"):
        config(stages={"image": {"frames": [1], "steps": 1, "ema_device": "cpu"}}, loop={"strategy": "fsdp"})


class Flat(Weighting):
    """Twice the clean error."""

    kind: Literal["flat"] = "flat"

    def weight(self, snr):
        return 2 * snr.new_ones(snr.shape)


def test_optimisers_and_weightings_of_ones_own_are_chosen_in_stages():
    schema = train_config([RoughSection, Flat])
    stages = {"image": {"frames": [1], "steps": 1, "optimizer": {"kind": "rough"}, "weighting": {"kind": "flat"}}}
    stage = schema.model_validate({"stages": stages}).stages["image"]
    assert isinstance(stage.optimizer, RoughSection) and isinstance(stage.weighting, Flat)
    assert PARTS.plus([RoughSection, Flat]).weightings[-1] is Flat
    with pytest.raises(ValidationError, match="'adamw', 'adamw_8bit', 'adafactor'"):
        config(stages=stages)


# --- the average


def test_an_average_of_every_second_step_has_the_same_memory():
    """Of a weight that jumps from 0 to 1: after n steps .5^n of the start is left, however often it is updated."""
    values = {}
    for every in (1, 2, 3):
        made = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(made.weight)
        average = Average(made, to_average(made, 0.5), 0.5, every)
        torch.nn.init.ones_(made.weight)
        for step in range(100, 107):
            average.update(step, last=step == 106)
        values[every] = float(average.network.weight.detach())
    assert values[1] == pytest.approx(1 - 0.5**7)
    assert values[2] == pytest.approx(1 - 0.5**7)  # 100 and 101, 102 and 103, 104 and 105; and 106, the last
    assert values[3] == pytest.approx(1 - 0.5**8)  # 99, which it was not there for, to 101; 102 to 104; 105 and 106


def test_what_is_frozen_is_not_copied():
    made = network()
    trained = set(choose_trained(made, "temporal"))
    average = to_average(made, 0.9)
    before = dict(made.named_parameters())
    for name, value in average.named_parameters():
        assert (value is before[name]) == (name not in trained), name
    assert all(value is before[name] for name, value in to_average(made, 0.0).named_parameters())  # none is asked for
    apart = to_average(made, 0.9, share=False)
    assert all(value is not before[name] for name, value in apart.named_parameters())


def test_no_average_is_the_trained_network(tmp_path):
    done = train_stage(task(tmp_path, ema=0.0))
    one, two = done.tensors("network"), done.tensors("ema")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_an_average_kept_elsewhere_is_the_same_average():
    """On a machine without a GPU: `cpu:0` is another device by name, so its weights are moved at each update and use."""
    made = torch.nn.Linear(2, 2)
    averages = [Average(made, to_average(made, 0.5), 0.5, 1, device) for device in (None, torch.device("cpu", 0))]
    for step in range(3):
        torch.nn.init.constant_(made.weight, float(step))
        for average in averages:
            average.update(step)
    one, two = (average.here().weight for average in averages)
    assert torch.equal(one, two) and one is not made.weight
    asked = task("unused", ema_device="cpu")
    state = TrainingState(asked.network, asked.parametrisation, asked.stage, asked.loop, asked.worker)
    assert state.averaged.network is state.average.network


# --- compile


def test_blocks_are_compiled_and_compute_the_same():
    shape = {"channels": (32,), "heads": (2,), "attention": (True,)}
    made, plain = tiny(**shape), tiny(**shape)
    compiled(made, "blocks", backend="eager")  # inductor takes minutes on a CPU: not what is tested here
    made.checkpointing = True
    x, c_noise, cond = inputs()
    one, two = made(x, c_noise, cond), plain(x, c_noise, cond)
    assert torch.equal(one, two)
    one.square().mean().backward(), two.square().mean().backward()
    for (name, a), (_, b) in zip(made.named_parameters(), plain.named_parameters(), strict=True):
        assert a.grad is not None and torch.allclose(a.grad, b.grad, atol=1e-6), name
    with pytest.raises(RunError, match=r"loop\.compile: this network names no blocks"):
        compiled(type("NoBlocks", (torch.nn.Linear,), {"blocks": ()})(1, 1), "blocks")


def test_a_stage_of_images_alone_in_temporal_training_is_a_step_without_gradients(tmp_path):
    """Batches of stills give temporal layers none: the step is done, and their weights stay."""
    done = train_stage(task(tmp_path, steps=1, train="temporal", batches=RandomBatches(stills=[0])))
    assert done.facts["done"] and not done.tensors("optimizer")
