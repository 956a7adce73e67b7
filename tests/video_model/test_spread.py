"""A run spread over two workers is the run of one: its steps, its checkpoints, and what goes wrong while they are written."""

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
from video_model.training.journal import read_log
from video_model.training.loop import train_stage
from video_model.training.steps.state import TrainingState
from video_model.training.storage import checkpoints, saving
from video_model.training.storage.checkpoints import CheckpointError
from video_model.training.storage.saving import Saver
from video_model.workers import TrainingWorker, WorkerError


def at(folder, step):
    """The checkpoint of a step."""
    return checkpoints.Checkpoint(Path(folder) / f"step-{step:08d}", step, {})


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
    saver = Saver(Path(folder) / "saved", 9, made.worker)
    with CommDebugMode() as saved:
        state.save(saver, 1, {})
        saver.finish()
    _full_disk(state, saver, Path(folder), rank)
    counted = [{str(name): count for name, count in mode.get_comm_counts().items()} for mode in (step, saved)]
    if rank == 0:
        Path(folder, "collectives.json").write_text(json.dumps(counted))


def _full_disk(state, saver, folder, rank):
    """What each worker says where the second one cannot write, and what is there then."""

    def full(*_):
        raise OSError(28, "No space left on device")

    write = saving.write_pieces
    saving.write_pieces = full if rank else write
    try:
        state.save(saver, 2, {})
        saver.finish()
    except (CheckpointError, WorkerError) as error:
        there = sorted(path.name for path in (folder / "saved").iterdir() if not path.name.startswith("."))
        (folder / f"full-{rank}.json").write_text(json.dumps([type(error).__name__, str(error), there]))
    finally:
        saving.write_pieces = write
        state.worker.wait()


def _work(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        _collectives(f"{folder}/collectives", rank)
        for strategy in ("ddp", "fsdp"):
            loop = {"strategy": strategy, "precision": "bfloat16", "checkpointing": True}
            train_stage(task(f"{folder}/{strategy}-bf16", worker=TrainingWorker(rank, 2), steps=2, loop=loop))
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


def test_a_worker_whose_disk_is_full_ends_the_save_for_all(spread):
    folder = spread("collectives", 0).path.parents[3]
    (kind, other, names), (cause, line, _) = (json.loads((folder / f"full-{rank}.json").read_text()) for rank in (0, 1))
    assert kind == "WorkerError" and cause == "CheckpointError" and other == f"{line} (worker 1)"
    assert "the disk is full" in line and names == ["step-00000001"]
    assert [path.name for path in (folder / "saved").iterdir()] == ["step-00000001"]


def test_spread_weights_in_mixed_precision_are_near_whole_ones(spread):
    losses = [
        [line["loss"] for line in read_log(spread(name, 1).path.parents[1] / "log.jsonl")]
        for name in ("one", "ddp-bf16", "fsdp-bf16")
    ]
    assert losses[2] == pytest.approx(losses[1], rel=0.01) and losses[2] != losses[0][:2]


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
