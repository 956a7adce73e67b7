"""The loop: resumed it is the same run, spread over workers or parts it is the same step, and what goes wrong is an error that names it."""

import json
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.video_model.training import RandomBatches, gradients, network, task
from video_model.config import TrainingStage
from video_model.training.journal import read_log
from video_model.training.loop import Interrupted, NotFinite, train_stage
from video_model.training.steps.average import Average
from video_model.training.steps.optimisation import NothingToTrain, choose_trained, learning_rate
from video_model.training.storage import checkpoints, saving
from video_model.training.storage.checkpoints import CheckpointError


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("killed_after", [1, 3])
def test_resumed_after_any_step_it_is_the_same_run_to_the_bit(tmp_path, killed_after):
    whole = train_stage(task(tmp_path / "whole"))
    asked = iter([False] * (killed_after - 1) + [True] * 9)
    begun = task(tmp_path / "parts")
    begun.stop = lambda: next(asked)
    with pytest.raises(Interrupted, match=f"stopped after step {killed_after} of stage video"):
        train_stage(begun)
    found = checkpoints.latest(begun.folder / "checkpoints")
    assert found.step == killed_after and not found.facts["done"]
    resumed = train_stage(task(tmp_path / "parts", net=network(seed=9)), found)  # other weights: all come from the file
    assert resumed.step == 4 and resumed.facts["done"]
    for part in ("network", "ema", "optimizer"):
        assert same(whole.tensors(part), resumed.tensors(part)), part
    losses = [
        [line["loss"] for line in read_log(tmp_path / name / "stages/video/log.jsonl")] for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_step_in_parts_is_the_step_as_a_whole_and_is_clipped_once(tmp_path):
    free = [train_stage(task(tmp_path / f"{n}", steps=1, accumulate=n)) for n in (1, 4)]
    clipped = [train_stage(task(tmp_path / f"clip-{n}", steps=1, accumulate=n, clip=0.01)) for n in (1, 4)]
    for one, other in (free, clipped):
        one, other = gradients(one), gradients(other)
        assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)
    norm = torch.cat([value.flatten() for value in gradients(clipped[1]).values()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_parts_of_unlike_sizes_count_by_their_rows(tmp_path):
    """Ten rows in four parts are 3, 3, 3 and 1; of single frames too, whose batch no config makes a multiple."""
    for name, batches in {
        "clips": RandomBatches(10),
        "stills": RandomBatches(stills=[0], image_batch=10),
    }.items():
        one, other = (
            gradients(train_stage(task(tmp_path / f"{name}-{n}", steps=1, accumulate=n, batches=batches)))
            for n in (1, 4)
        )
        assert one.keys() == other.keys() and all(torch.allclose(one[key], other[key], atol=1e-6) for key in one), name


@pytest.mark.parametrize("failing", ["evaluate", "draw"])
def test_a_failure_while_drawing_costs_no_step(tmp_path, failing):
    """Of save_every 3 the checkpoint at 4 is the last step's; the whole run is the same as one that did not fail."""

    def full(*_):
        raise OSError(28, "No space left on device")

    begun = task(tmp_path, loop={"save_every": 3})
    setattr(begun, failing, full)
    begun.draw_every = 99
    with pytest.raises(OSError, match="No space left"):
        train_stage(begun)
    found = checkpoints.latest(begun.folder / "checkpoints")
    assert found.step == 4 and found.facts["done"]
    again = train_stage(task(tmp_path, loop={"save_every": 3}), found)
    assert again.step == 4 and again.facts["done"] and again.path == found.path
    whole = train_stage(task(tmp_path / "whole"))
    assert all(same(whole.tensors(part), again.tensors(part)) for part in ("network", "ema", "optimizer"))
    log = read_log(begun.folder / "log.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 4]


def test_each_step_is_saved_while_it_is_drawn_from(tmp_path):
    made, steps = task(tmp_path), []

    def draw(denoiser, step, journal):
        until = time.monotonic() + 20
        while time.monotonic() < until and checkpoints.latest(made.folder / "checkpoints").step < step:
            time.sleep(0.05)
        steps.append((step, checkpoints.latest(made.folder / "checkpoints").step))

    made.draw_every, made.draw = 2, draw
    train_stage(made)
    assert steps == [(2, 2), (4, 4)]


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """It holds the step that it was begun at, whatever was trained meanwhile, and the next one waits for it."""
    go, at, steps = threading.Event(), [], []
    write = saving.write_pieces

    def slow(path, pieces):
        at.append(len(steps))
        go.wait(20)
        write(path, pieces)

    monkeypatch.setattr(saving, "write_pieces", slow)
    made = task(tmp_path, loop={"save_every": 2})
    made.report = lambda step, numbers: (steps.append(step), go.set() if step == 4 else None)
    train_stage(made)
    assert at[0] <= 3 and at[3:] == [4, 4, 4]  # three files each; steps 3 and 4 were taken while the first was written
    monkeypatch.undo()
    waiting = task(tmp_path / "waiting", loop={"save_every": 2, "background_saves": False})
    train_stage(waiting)
    for step in (2, 4):
        one, other = (
            checkpoints.Checkpoint(folder / f"checkpoints/step-{step:08d}", step, {})
            for folder in (made.folder, waiting.folder)
        )
        assert all(same(one.tensors(part), other.tensors(part)) for part in ("network", "ema", "optimizer"))


def test_what_cannot_be_written_meanwhile_ends_the_run_and_leaves_the_one_before(tmp_path, monkeypatch):
    write, steps = saving.write_pieces, []

    def full(path, pieces):
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        write(path, pieces)

    made = task(tmp_path, steps=400, loop={"save_every": 2})
    made.report = lambda step, numbers: steps.append(step)
    monkeypatch.setattr(saving, "write_pieces", full)
    with pytest.raises(CheckpointError, match="step 4 cannot be written: the disk is full"):
        train_stage(made)
    assert [path.name for path in (made.folder / "checkpoints").iterdir()] == ["step-00000002"]


def test_checkpointed_activations_take_the_same_step(tmp_path):
    one = gradients(train_stage(task(tmp_path / "plain", steps=1)))
    other = gradients(train_stage(task(tmp_path / "again", steps=1, loop={"checkpointing": True})))
    assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)


def test_mixed_precision_is_near_the_whole_one(tmp_path):
    for precision in ("float32", "bfloat16"):
        train_stage(task(tmp_path / precision, loop={"precision": precision}))
    full, mixed = (
        [line["loss"] for line in read_log(tmp_path / name / "stages/video/log.jsonl")]
        for name in ("float32", "bfloat16")
    )
    assert mixed != full and mixed == pytest.approx(full, rel=0.02)


def test_a_batch_that_is_not_finite_stops_the_run_and_is_kept(tmp_path):
    with pytest.raises(NotFinite, match=r"step 2: .* first for clip-2-5; .*: --resume --set stages.video.lr=0.005$"):
        train_stage(task(tmp_path, batches=RandomBatches(bad=(2, 5))))
    folder = tmp_path / "stages" / "video"
    kept = json.loads((folder / "not-finite-step-2-worker-0.json").read_text())
    assert (
        kept["rows"][5]["clip_id"] == "clip-2-5"
        and kept["rows"][5]["loss"] == "nan"
        and kept["rows"][4]["loss"] != "nan"
    )
    assert load_file(folder / "not-finite-step-2-worker-0.safetensors")["latents"][5].isnan().any()
    assert checkpoints.latest(folder / "checkpoints").step == 2  # the weights before it are whole
    assert all(
        value.isfinite().all() for value in checkpoints.latest(folder / "checkpoints").tensors("network").values()
    )


def test_only_temporal_layers_are_trained_where_a_stage_says_so(tmp_path):
    before = {name: value.clone() for name, value in network().named_parameters()}
    spatial = set(network(temporal=False).state_dict())
    after = train_stage(task(tmp_path, train="temporal")).tensors("network")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not changed & spatial
    assert changed <= set(network().temporal_names())


def test_which_parameters_are_trained():
    made = network()
    assert all(name.startswith("noise_embedding.") for name in choose_trained(made, "time_embedding"))
    assert sum(parameter.requires_grad for parameter in made.parameters()) == len(
        choose_trained(made, "time_embedding")
    )
    assert set(choose_trained(made, ["conv_*"])) == {
        "conv_in.weight",
        "conv_in.bias",
        "conv_out.weight",
        "conv_out.bias",
    }
    with pytest.raises(
        NothingToTrain, match=r"train: \['nose'\] matches no parameter; there are for example noise_embedding"
    ):
        choose_trained(made, ["nose"])


def test_learning_rate():
    stage = TrainingStage(steps=100, lr=1.0, warmup=10, decay="cosine")
    assert [learning_rate(stage, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(stage, 55) == pytest.approx(0.01 + 0.99 / 2)
    assert learning_rate(stage, 100) == pytest.approx(0.01)
    assert learning_rate(stage.model_copy(update={"decay": "none"}), 90) == 1.0


def test_the_average_forgets_its_start():
    """Of weights that are 0, 1, 2, ... after each step: decays of 1/10, 2/11, 3/12, 4/13 at first, then of the half."""
    made, copy = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(copy.weight, 10.0)
    average, seen = Average(made, copy, decay=0.5), []
    for step in range(60):
        torch.nn.init.constant_(made.weight, float(step))
        average.update(step)
        seen.append(float(copy.weight.detach()))
    assert seen[:2] == pytest.approx([1.0, 1.0])  # 10 / 10; 2 / 11 + 9 / 11
    assert seen[2] == pytest.approx(1.75) and seen[3] == pytest.approx(1.75 * 4 / 13 + 27 / 13)
    assert seen[-1] == pytest.approx(58.0)  # with a decay of the half it is one step behind
