"""Plans of memory: known sums, measured memory, rows that fit, what the command prints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from typer.testing import CliRunner

from pipelines.cli.app import app
from tests.benchmarks.memory import measured, planned
from tests.video_model.training import task
from video_model.config import TrainConfig
from video_model.diffusion.slots import Models
from video_model.errors import RunError
from video_model.memory import OutOfMemory
from video_model.training.journal import read_log
from video_model.training.loop import train_stage
from video_model.training.planning.cards import Machine, machine
from video_model.training.planning.ledger import Ledger
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.plan import plan
from video_model.training.planning.probe import Probe, largest
from video_model.training.planning.rules import DeviceRules
from video_model.training.planning.simulate import SimulatedStep
from video_model.training.storage import checkpoints
from video_model.workers import TrainingWorker

torch.set_num_threads(1)
META = torch.device("meta")
STAGE = {"frames": [4], "sizes": [[32, 32]], "steps": 10, "batch": 8}
TREE = {
    "codec": {"kind": "own", "factor": 4, "channels": 4},
    "network": {"kind": "unet", "channels": [32], "layers": 1, "head_dim": 16, "groups": 8},
    "stages": {"video": STAGE},
    "samples": {"count": 1, "steps": 2},
}


def config(loop=None, **stage) -> TrainConfig:
    return TrainConfig.model_validate(TREE | {"stages": {"video": STAGE | stage}, "loop": loop or {}})


@pytest.mark.parametrize("kept", [True, False])
def test_the_ledger_counts_what_lives_through_forward_and_backward(kept):
    """Four layers of 1000 x 100 numbers: their inputs and two outputs inside of each; checkpointed, the inputs alone."""
    layers = [nn.Sequential(nn.Linear(100, 100), nn.GELU(), nn.Linear(100, 100), nn.GELU()).to(META) for _ in range(4)]
    one, weights = 4 * 1000 * 100, 4 * 2 * 4 * (100 * 100 + 100)
    with META, Ledger() as ledger:
        held = ledger.of(p for layer in layers for p in layer.parameters())
        h = torch.empty(1000, 100)
        for layer in layers:
            h = layer(h) if kept else checkpoint(layer, h, use_reentrant=False)
        assert ledger.now - weights == one * (1 + 4 * (4 if kept else 1))
        before = ledger.mark()
        h.sum().backward()
        assert ledger.flops == 2 * 1000 * 100 * 100 * 8 * (3 if kept else 4) - 2 * 1000 * 100 * 100
        assert ledger.peak(before, ledger.mark(), held) > one * (16 if kept else 7)
        del h
        assert ledger.now == 2 * weights  # with the gradients


def test_autocast_keeps_the_casts_of_weights_to_the_end_of_a_call():
    network = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64)).to(META)
    DeviceRules("cuda", torch.bfloat16).apply(network)
    with META, Ledger():
        out = network(torch.empty(8, 64))
        assert out.dtype == torch.bfloat16 and network[1](out.float()).dtype == torch.float32
        out.float().sum().backward()
        assert {p.grad.dtype for p in network.parameters()} == {torch.float32}


def test_attention_never_writes_its_scores_down():
    """4096 tokens: the scores would be 64 MB a head."""
    with META, Ledger() as ledger:
        for kind in ("cpu", "cuda"):
            q = torch.empty(
                1, 1, 4096, 16, dtype=torch.bfloat16 if kind == "cuda" else torch.float32, requires_grad=True
            )
            before, held = ledger.mark(), ledger.now
            DeviceRules(kind, None).within(nn.functional.scaled_dot_product_attention)(q, q, q).sum().backward()
            assert ledger.peak(before, ledger.mark()) - held < 4_000_000


def test_what_stays_is_sixteen_bytes_a_parameter_and_its_average():
    step = SimulatedStep(config(), "video", Outlines.of(config()), "cuda")
    assert step.parameters == step.trained and step.weights == 4 * step.parameters == step.average == step.gradients
    assert step.moments == pytest.approx(8 * step.parameters, rel=1e-3)
    assert step.update == pytest.approx(4 * step.parameters, rel=0.05)  # the square roots of the second moments
    one, two, four = (step.activations(rows) for rows in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    kept = config(loop={"checkpointing": True})
    assert SimulatedStep(kept, "video", Outlines.of(kept), "cuda").activations(4) < 0.7 * four
    some = config(train="temporal")
    part = SimulatedStep(some, "video", Outlines.of(some), "cuda")
    assert part.trained < part.parameters and part.moments == pytest.approx(8 * part.trained, rel=1e-3)


def test_the_plan_is_near_what_a_real_step_takes():
    """On the CPU, in a child process. The benchmark holds three sizes to 15%; a small one is mostly libraries."""
    tree = {
        "network": {"kind": "unet", "channels": [64, 128], "layers": 1, "head_dim": 32},
        "stages": {"video": {"frames": [8], "sizes": [[64, 64]], "steps": 1, "batch": 3}},
    }
    assert planned(tree) == pytest.approx(measured(tree), rel=0.25)


def test_fsdp_divides_what_stays_and_ddp_does_not():
    gpu = Machine(4, "cuda", 80, 100, "a card", "")
    one, parts = (
        plan(config(loop={"strategy": "fsdp"}, **more), gpu).stages[0].memory for more in ({}, {"micro_batch": 1})
    )
    whole = plan(config(), gpu).stages[0].memory
    for part in ("weights", "moments", "average (EMA)", "gradients"):
        assert one[part] == pytest.approx(whole[part] / 4)
    assert parts["gradients"] == pytest.approx(whole["gradients"] * 5 / 4)  # whole until the last part
    assert one["gathered blocks"] > 0 and "gathered blocks" not in whole


def test_a_plan_that_does_not_fit_names_what_would():
    """A card of just what 8 rows at once need, and a batch of 64."""
    needed = plan(config(batch=64, micro_batch=8), Machine(1, "cuda", 80, 100, "a card", "")).stages[0].peak
    tight = Machine(1, "cuda", needed / 1e9 + 1e-6, 100, "a card", "")
    found = plan(config(batch=64), tight).stages[0]
    assert not found.fits and found.most_rows == 8 and found.fixes == ["stages.video.micro_batch=8"]
    probed = plan(config(batch=64, micro_batch="probe"), tight).stages[0]
    assert probed.fits and 6 <= probed.rows <= 8
    tiny = plan(config(batch=64), Machine(1, "cuda", 1.0, 100, "a card", "")).stages[0]
    assert not tiny.fits and tiny.most_rows == 0 and "a larger GPU" in tiny.fixes[0]


def test_time_and_disk_are_plain_sums():
    gpu = Machine(2, "cuda", 80, 100, "a card", "")
    made = plan(config(), gpu, mfu=0.5)
    assert made.stages[0].seconds == pytest.approx(made.stages[0].flops / (2 * 100e12 * 0.5))
    assert made.latents == {"32x32": 4 * 8 * 8 * 80 * 2}  # 10 s at 8 frames a second in float16


def test_machines_are_written_as_counts_and_memory():
    assert machine("8x80GB", None, "bfloat16") == machine("8x80gb", "H100", "bfloat16")
    assert machine("8x80GB", None, "bfloat16").tflops == 989 and machine("1x24GB", None, "float32").name == "4090"
    assert machine(None, "a100", "bfloat16").gb == 80
    for gpus, card, reason in (("80GB", None, "write it as 8x80GB"), ("1x24GB", "abacus", "choose from b200")):
        with pytest.raises(RunError, match=reason):
            machine(gpus, card, "bfloat16")


def test_the_largest_number_of_rows_is_found_without_running_out_often():
    def grow(fixed, row, ends=10**9):
        asked = []

        def peak(rows):
            asked.append(rows)
            return None if fixed + row * rows > ends else fixed + row * rows

        return peak, asked

    peak, asked = grow(100, 10)
    assert largest(peak, 455, 64) == 35 and max(asked) <= 36
    assert largest(peak, 105, 64) == 0 and largest(peak, 10**6, 64) == 64 and largest(peak, 110, 64) == 1
    peak, _ = grow(0, 10, ends=200)  # runs out before the room is reached
    assert largest(peak, 1000, 64) == 20


def test_a_probe_on_a_cpu_fills_the_memory_it_is_given_and_says_so(tmp_path):
    step = SimulatedStep(config(), "video", Outlines.of(config()), "cpu")
    stays = step.weights + step.average + step.moments + step.gradients + step.largest_gradient
    room = (stays + step.activations(5) / 0.9 + 1000) / 1e9
    models = Models(type("Codec", (), {"channels": 4}), type("Encoder", (), {"dim": 384}))
    state = type("State", (), {"worker": TrainingWorker()})()
    assert Probe(config(micro_batch="probe", loop={"memory_gb": room}), "video", models)(state) == 5
    assert Probe(config(micro_batch="probe", loop={"memory_gb": 64}), "video", models)(state) == 8  # the whole batch
    with pytest.raises(OutOfMemory, match="not one row of stage video"):
        Probe(config(micro_batch="probe", loop={"memory_gb": 0.001}), "video", models)(state)
    made = task(tmp_path, steps=2, micro_batch="probe")
    made.probe = lambda state: 3
    done = train_stage(made)
    assert read_log(made.folder / "log.jsonl")[0] == {"step": 0, "micro_batch": 3} and done.facts["micro_batch"] == 3


def test_a_resumed_probe_keeps_the_rows_it_began_with_unless_what_they_depend_on_changed(tmp_path):
    """Memory is never free to the byte alike: probed anew, the run would not be the same to the bit."""
    made = task(tmp_path, steps=2, micro_batch="probe")
    made.probe = lambda state: 3
    train_stage(made)
    first = next(found for found in (made.folder / "checkpoints").glob("step-*1"))
    start = checkpoints.Checkpoint(first, 1, json.loads((first / "state.json").read_text())["facts"])
    made.probe = lambda state: 5
    assert train_stage(made, start).facts["micro_batch"] == 3
    made.loop = made.loop.model_copy(update={"checkpointing": True})
    assert train_stage(made, start).facts["micro_batch"] == 5


def test_the_command_prints_the_plan_and_its_code_tells_whether_it_fits(tmp_path):
    path, run = tmp_path / "mine.yaml", CliRunner().invoke
    path.write_text(json.dumps(TREE))
    fits = run(app, ["train", str(path), "--dry-run", "--gpus", "2x24GB", "--json"])
    assert fits.exit_code == 0
    made = json.loads(fits.stdout)
    assert made["fits"] and [stage["name"] for stage in made["stages"]] == ["video"]
    assert made["machine"]["workers"] == 2 and made["stages"][0]["memory"]["weights"] > 0
    short = run(app, ["train", str(path), "--dry-run", "--gpus", "1x1GB"])
    assert short.exit_code == 2 and "DOES NOT FIT" in short.stdout
    assert run(app, ["train", str(path)]).exit_code == 2  # --out is needed to train
