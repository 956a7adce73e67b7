"""The loop: resumed it is the same run, spread over workers or parts it is the same step, and what goes wrong is an error that names it."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

from tests.video_model.training import RandomBatches, gradients, network, task
from video_model.config import TrainingStage
from video_model.training import checkpoints
from video_model.training.checkpoints import CheckpointError
from video_model.training.journal import read_log
from video_model.training.loop import Interrupted, NotFinite, train_stage
from video_model.training.steps.optimisation import Average, NothingToTrain, choose_trained, learning_rate
from video_model.training.steps.state import TrainingState
from video_model.workers import TrainingWorker


def at(folder, step):
    """The checkpoint of a step."""
    return checkpoints.Checkpoint(Path(folder) / f"step-{step:08d}", step, {})


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


def test_each_step_is_saved_before_it_is_drawn_from(tmp_path):
    made, steps = task(tmp_path), []
    made.draw_every = 2
    made.draw = lambda denoiser, step, journal: steps.append(
        (step, checkpoints.latest(made.folder / "checkpoints").step)
    )
    train_stage(made)
    assert steps == [(2, 2), (4, 4)]


STILLS = {"batches": RandomBatches(stills=[1]), "lr": 1e-8, "accumulate": 2}  # weights stay: only gradients differ


CROSSINGS = [("one", 1), ("ddp", 2), ("fsdp", 2)]  # a run's way of training, and its workers


def _carried_on(folder, begun, way, rank, world):
    """Two more steps, from step 2 of another way of training."""
    made = task(
        f"{folder}/{begun}-{way}", worker=TrainingWorker(rank, world), loop={"strategy": way if world > 1 else "ddp"}
    )
    train_stage(made, at(Path(folder) / begun / "stages/video/checkpoints", 2))


def _collectives(folder, rank):
    """Of a step in four parts with fsdp, and of saving it."""
    options = {"accumulate": 4, "loop": {"strategy": "fsdp"}}
    made = task(folder, worker=TrainingWorker(rank, 2), **options)
    state = TrainingState(made.network, made.parametrisation, made.stage, made.loop, made.worker)
    batch = next(made.batches.iterate(0, 1, rank, 2))
    state.update(0)  # the first of a fresh network
    with CommDebugMode() as step:
        state.gradients("0/video", made.conditioner, 0, batch)
    state.update(0)
    with CommDebugMode() as saved:
        state.save(Path(folder) / "saved", 1, {})
    counted = [{str(name): count for name, count in mode.get_comm_counts().items()} for mode in (step, saved)]
    if rank == 0:
        Path(folder, "collectives.json").write_text(json.dumps(counted))


def _work(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        _collectives(f"{folder}/collectives", rank)
        for strategy in ("ddp", "fsdp"):
            loop = {"strategy": strategy, "precision": "bfloat16", "checkpointing": True}
            train_stage(task(f"{folder}/{strategy}-bf16", worker=TrainingWorker(rank, 2), loop=loop))
        for strategy in ("ddp", "fsdp"):
            made = task(f"{folder}/{strategy}", worker=TrainingWorker(rank, 2), steps=2, loop={"strategy": strategy})
            train_stage(made)
            made = task(
                f"{folder}/{strategy}",
                worker=TrainingWorker(rank, 2),
                steps=3,
                loop={"strategy": strategy},
                net=network(3),
            )
            train_stage(made, checkpoints.latest(made.folder / "checkpoints"))
            made = task(
                f"{folder}/{strategy}-stills",
                worker=TrainingWorker(rank, 2),
                steps=3,
                loop={"strategy": strategy},
                **STILLS,
            )
            train_stage(made)
        for begun, _ in CROSSINGS:
            for way, world in CROSSINGS[1:]:
                _carried_on(folder, begun, way, rank, world)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """What one worker made of the steps, and two of them, with each strategy."""
    folder = tmp_path_factory.mktemp("spread")
    train_stage(task(folder / "one", steps=3))
    train_stage(task(folder / "one-stills", steps=3, **STILLS))
    mp.spawn(_work, (str(folder), 29_500 + os.getpid() % 1000), nprocs=2)
    for begun, _ in CROSSINGS:
        _carried_on(folder, begun, "one", 0, 1)
    return lambda name, step: at(folder / name / "stages/video/checkpoints", step)


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_with_half_the_batch_each_take_the_same_steps(spread, strategy):
    assert furthest(gradients(spread("one", 1)), gradients(spread(strategy, 1))) < 1e-5
    one, two = (spread(name, 3).tensors("ema") for name in ("one", strategy))
    assert furthest(one, two) < 1e-3  # resumed by other processes, from what two of them had saved


@pytest.mark.parametrize("begun", [name for name, _ in CROSSINGS])
def test_a_run_is_carried_on_by_any_number_of_workers(spread, begun):
    """One worker, two with whole weights, two with spread ones: from the checkpoint of any of them the same losses."""
    losses = []
    for way, _ in CROSSINGS:
        log = read_log(spread(f"{begun}-{way}", 4).path.parents[1] / "log.jsonl")
        assert [line["step"] for line in log] == [3, 4]
        losses.append([line["loss"] for line in log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_spread_weights_are_saved_in_shards_and_whole_ones_by_the_first_alone(spread):
    """Each worker writes its half of every tensor, and what is not spread once; nothing is gathered for it."""
    found = spread("fsdp", 2).path
    names = [f"{part}-0000{rank}-of-00002.safetensors" for part in ("ema", "network", "optimizer") for rank in (0, 1)]
    assert sorted(path.name for path in found.iterdir()) == [*names, "state.json"]
    sizes = [(found / f"network-0000{rank}-of-00002.safetensors").stat().st_size for rank in (0, 1)]
    whole = spread("ddp", 2).path
    assert sorted(path.name for path in whole.iterdir()) == [
        "ema.safetensors", "network.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert max(sizes) < 0.6 * (whole / "network.safetensors").stat().st_size
    one, two = load_file(found / names[2]), load_file(found / names[3])
    name = "conv_in.weight"
    assert torch.equal(torch.cat([one[name], two[name]]), spread("fsdp", 2).tensors("network")[name])
    files = spread("fsdp", 2).part("network")
    assert torch.equal(files.read(name, ((3, 0, 0, 0), (9, 2, 3, 3))), spread("fsdp", 2).tensors("network")[name][3:12])


def test_gradients_are_reduced_once_a_step_and_saving_gathers_nothing(spread):
    step, saved = json.loads((spread("collectives", 0).path.parents[3] / "collectives.json").read_text())
    made = network()
    groups = 1 + sum(isinstance(module, made.blocks) for module in made.modules())
    reduced = sum(count for name, count in step.items() if "reduce_scatter" in name)
    assert reduced == groups, step  # of four parts the last alone
    assert not any("gather" in name or "scatter" in name for name in saved), saved


def test_spread_weights_in_mixed_precision_are_near_whole_ones(spread):
    losses = [
        [line["loss"] for line in read_log(spread(name, 1).path.parents[1] / "log.jsonl")]
        for name in ("one", "ddp-bf16", "fsdp-bf16")
    ]
    assert losses[2] == pytest.approx(losses[1], rel=0.01) and losses[2][:3] != losses[0]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_may_get_a_step_of_images_alone(spread, strategy):
    """It gives temporal layers no gradient, which is not a gradient of 0: their moments stay as they are."""
    for step in (1, 2, 3):
        one, two = (
            gradients(spread(name, step), spread(name, step - 1) if step > 1 else None)
            for name in ("one-stills", f"{strategy}-stills")
        )
        temporal = set(network().temporal_names()) & set(one)
        assert bool(temporal) == (step != 2) and furthest(one, two) < 1e-5, step


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


# --- checkpoints


def save(folder, step, keep=9):
    return checkpoints.save(folder, step, {"network": {"w": torch.full((3,), float(step))}}, {"done": False}, keep)


def test_the_last_good_checkpoint_is_found(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / ".step-00000009").mkdir()  # was being written
    file = tmp_path / "step-00000003" / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    (tmp_path / "step-00000004").mkdir()
    found = checkpoints.latest(tmp_path)
    assert found.step == 2 and found.tensors("network")["w"].tolist() == [2, 2, 2]
    assert save(tmp_path, 3).tensors("network")["w"].tolist() == [3, 3, 3]  # takes the damaged one's place
    assert checkpoints.latest(tmp_path / "none") is None


def test_old_checkpoints_go(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(
        CheckpointError, match=r"step 2 cannot be written: the disk is full; free some space, then use --resume"
    ):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
