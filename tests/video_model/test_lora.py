"""LoRA as a run: what it adds to stays as it is, its checkpoints are small, resumed to the bit, sampled from and exported."""

import copy
import os

import pytest
import torch
import torch.multiprocessing as mp
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import distributed as dist

from tests.video_model.clips import clips, write_clips
from tests.video_model.test_stages import STAGE, average, config
from tests.video_model.training import RandomBatches, gradients, network, task
from video_model.encoders.fingerprint import digest
from video_model.errors import RunError
from video_model.networks.lora import LoraSection, lora_shapes, merged_state
from video_model.networks.unet_section import UNet
from video_model.public.weights import export_unet, import_unet
from video_model.training.loop import Interrupted, train_stage
from video_model.training.run import Run
from video_model.training.sampler import Sampler
from video_model.training.stages import train
from video_model.training.steps.adapters import add_chosen_lora
from video_model.training.steps.optimisation import NothingToTrain, choose_trained
from video_model.training.storage import checkpoints
from video_model.training.storage.checkpoints import CheckpointError
from video_model.workers import TrainingWorker


def adapted(seed=0, targets=("attention", "temporal"), **options):
    """The network of the training tests with fresh LoRA."""
    section = LoraSection(rank=2, targets=list(targets), **options)
    base = network(seed)
    torch.manual_seed(7)
    return add_chosen_lora(base, section, UNet(), f"weights-{seed}")


def frozen(made):
    """Fingerprint of what LoRA is added to."""
    return digest({name: value for name, value in made.state_dict().items() if ".lora." not in name})


def test_training_leaves_the_base_as_it_is_and_keeps_the_lora_alone(tmp_path):
    made = adapted()
    before, lora = frozen(made), {f"{name}.lora.{part}" for name in lora_shapes(made) for part in ("down", "up")}
    done = train_stage(task(tmp_path, net=made))
    assert frozen(made) == before == digest(network().state_dict())
    for part in ("network", "ema"):
        assert set(done.tensors(part)) == lora
    assert {name.rpartition(".")[0] for name in done.tensors("optimizer")} == lora
    assert all(value.any() for name, value in done.tensors("ema").items() if name.endswith(".up"))
    assert done.facts["trained"] == len(lora) and done.facts["lora"]["fingerprint"] == before
    assert done.facts["lora"]["base"] == "weights-0" and len(done.facts["lora"]["layers"]) == len(lora_shapes(made))


def test_a_lora_run_resumed_is_the_same_run_to_the_bit(tmp_path):
    whole = train_stage(task(tmp_path / "whole", net=adapted()))
    asked = iter([False, True] + [True] * 9)
    begun = task(tmp_path / "parts", net=adapted())
    begun.stop = lambda: next(asked)
    with pytest.raises(Interrupted):
        train_stage(begun)
    other = adapted()
    with torch.no_grad():
        for name, value in other.named_parameters():
            if ".lora." in name:
                value.normal_()  # all of it comes from the file
    resumed = train_stage(task(tmp_path / "parts", net=other), checkpoints.latest(begun.folder / "checkpoints"))
    for part in ("network", "ema", "optimizer"):
        one, two = whole.tensors(part), resumed.tensors(part)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), part


def test_a_checkpoint_is_refused_on_other_weights_with_the_reason(tmp_path):
    train_stage(task(tmp_path, net=adapted(), steps=1))
    found = checkpoints.latest(tmp_path / "stages" / "video" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"was trained on weights-0 \(.*\), and weights-3 holds other weights"):
        train_stage(task(tmp_path, net=adapted(3)), found)
    with pytest.raises(CheckpointError, match="is of a run with `lora`"):
        train_stage(task(tmp_path, net=network()), found)


def test_the_gradient_of_the_sum_reaches_both_factors(tmp_path):
    """d up = scale d weight down^T: told by the gradient of the same weight, trained whole."""
    made, plain = adapted(targets=["*.attention.q"], alpha=6.0), network()
    lora = gradients(train_stage(task(tmp_path / "lora", net=made, steps=1)))
    whole = gradients(train_stage(task(tmp_path / "whole", net=plain, steps=1)))
    fresh = adapted(targets=["*.attention.q"], alpha=6.0)
    for name in lora_shapes(fresh):
        down = fresh.get_submodule(name).lora.down
        torch.testing.assert_close(
            lora[f"{name}.lora.up"], 3.0 * whole[f"{name}.weight"] @ down.T, rtol=1e-4, atol=1e-6
        )
        assert not lora[f"{name}.lora.down"].any()  # as up is zeros


def test_a_stage_trains_the_lora_that_it_names():
    made = adapted()
    temporal = choose_trained(made, "temporal")
    known = set(made.temporal_names())
    assert temporal and all(".lora." in name and name in known for name in temporal)
    with pytest.raises(NothingToTrain, match=r"there are for example .*\.lora\.down"):
        choose_trained(made, "time_embedding")


def test_checkpointed_activations_take_the_same_step(tmp_path):
    one = gradients(train_stage(task(tmp_path / "plain", net=adapted(), steps=1)))
    other = gradients(train_stage(task(tmp_path / "again", net=adapted(), steps=1, loop={"checkpointing": True})))
    assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)


# --- whole runs

VIDEO = {"video": STAGE | {"frames": [4], "rates": [8], "steps": 2}}


def lora_config(start, **changes):
    tree = config(stages=VIDEO).model_dump(mode="json", exclude_unset=True)
    lora = {"rank": 2, "targets": ["attention", "temporal"]}
    return config(**tree | {"start": str(start), "lora": lora} | changes)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "curated", clips(24))


@pytest.fixture(scope="module")
def base(curated, tmp_path_factory):
    """A finished run."""
    return train(config(stages=VIDEO), [str(curated)], tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def run(base, curated, tmp_path_factory):
    """LoRA on it."""
    return train(lora_config(base.root), [str(curated)], tmp_path_factory.mktemp("lora") / "lora")


def test_lora_on_a_finished_run_is_sampled_from(base, run):
    whole = sum(value.numel() for value in average(base, "video").values())
    kept = average(run, "video")
    assert 0 < sum(value.numel() for value in kept.values()) < whole / 2 and all(".lora." in name for name in kept)
    sampler, before = Sampler(run.root), Sampler(base.root)
    merged = merged_state(sampler.denoiser.network)
    assert merged.keys() == before.denoiser.network.state_dict().keys()
    request = sampler.request(["a red circle"], steps=2)
    drawn, plain = sampler(request), before(request)
    assert drawn.shape == plain.shape and not torch.equal(drawn, plain)
    assert digest(
        load_file(run.root / "codec" / next(p.name for p in (base.root / "codec").glob("*.safetensors")))
    ) == (
        digest(load_file(next((base.root / "codec").glob("*.safetensors"))))
    )  # latents mean what they meant to the base


def test_lora_from_a_lora_file_and_on_a_merged_run(base, run, curated, tmp_path):
    from video_model.public.formats import format_of

    sampler = Sampler(run.root)
    file = format_of(sampler.config.network).save_lora(sampler.denoiser.network, tmp_path / "file")
    one_more = lora_config(
        base.root, lora={"file": str(file)}, stages={"video": VIDEO["video"] | {"steps": 1, "lr": 1e-30}}
    )
    again = train(one_more, [str(curated)], tmp_path / "again")
    made = average(again, "video")
    assert all(torch.allclose(value, made[name], atol=1e-7) for name, value in average(run, "video").items())
    on_lora = train(lora_config(run.root), [str(curated)], tmp_path / "on-lora")  # its base is a LoRA run, merged
    assert Run.open(on_lora.root).done("video").facts["lora"]["base"] == str(run.root)
    Sampler(on_lora.root)


def test_a_base_that_changed_is_refused(run, base, tmp_path, monkeypatch):
    import shutil

    from video_model.training import build

    moved = Run(run.root, run.config.model_copy(update={"start": str(tmp_path / "other")}))
    shutil.copytree(base.root, tmp_path / "other")
    found = moved.done("video")
    sampler = Sampler(run.root)
    moved.network("video", found, sampler.models)  # a copy is as good
    real = build._result_of

    def changed(*args):
        made = real(*args)
        with torch.no_grad():
            made.conv_out.bias += 1
        return made

    monkeypatch.setattr(build, "_result_of", changed)
    with pytest.raises(
        RunError, match=r"was trained on .*/base \(.*other holds other weights .*name the former in start"
    ):
        moved.network("video", found, sampler.models)


def test_configs_that_lora_cannot_be_part_of(tmp_path):
    with pytest.raises(ValidationError, match="lora: needs weights to add to: name them in start"):
        config(lora={"rank": 4})
    with pytest.raises(ValidationError, match="all of images or all of videos"):
        config(lora={"rank": 4}, start="weights")
    with pytest.raises(ValidationError, match=r"lora\.file: rank, alpha and targets are those of the file"):
        LoraSection(file="a.safetensors", rank=3)
    copied = lora_config("weights")
    again = type(copied).model_validate_json(copied.model_dump_json())
    assert again.lora == copied.lora and again.model_dump() == copied.model_dump()


def test_targets_that_are_no_layers_are_named():
    with pytest.raises(
        RunError, match=r"lora\.targets: \['nose'\] matches no layer; there are for example noise_embedding"
    ):
        add_chosen_lora(network(), LoraSection(targets=["nose"]), UNet(), "weights")


def test_the_command_writes_the_lora_or_the_merged_network(run, tmp_path):
    from typer.testing import CliRunner

    from pipelines.cli.app import app

    made = CliRunner().invoke(app, ["weights", "export", str(run.root), "--lora", "--out", str(tmp_path / "lora")])
    assert made.exit_code == 0, made.output
    keys = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert all(key.startswith("unet.") and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)


def test_a_published_video_unet_is_trained_with_lora(tmp_path):
    """From Stable Video Diffusion's layout: one step, the file as it was, resumed to the bit."""
    from tests.video_model.networks import inputs, tiny

    published = tiny(temporal=True, concat_channels=4, vectors=("fps", "motion", "augment"))
    export_unet(published, tmp_path / "unet")
    made = add_chosen_lora(import_unet(tmp_path / "unet"), LoraSection(rank=4), UNet(), "unet")
    before = frozen(made)
    x, c_noise, cond = inputs()
    x = x.repeat(4, 1, 1, 1, 1)
    with torch.no_grad():
        fresh, base = copy.deepcopy(made), import_unet(tmp_path / "unet")
        assert torch.equal(fresh(x[:2], c_noise, cond), base(x[:2], c_noise, cond))
    choose_trained(made, "all")
    optimizer = torch.optim.AdamW([value for value in made.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        (made(x[:2], c_noise, cond) ** 2).mean().backward()
        optimizer.step()
    assert frozen(made) == before == digest(published.state_dict())
    assert not torch.equal(made(x[:2], c_noise, cond), base(x[:2], c_noise, cond))
    assert all(value.grad is None for name, value in made.named_parameters() if ".lora." not in name)


def test_batches_of_stills_alone_leave_temporal_lora_as_it_is(tmp_path):
    done = train_stage(task(tmp_path, net=adapted(targets=["temporal"]), steps=1, batches=RandomBatches(stills=[0])))
    assert all(not value.any() for name, value in done.tensors("network").items() if name.endswith(".up"))


def _work(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        for strategy in ("ddp", "fsdp"):
            options = {"worker": TrainingWorker(rank, 2), "steps": 2, "loop": {"strategy": strategy}}
            train_stage(task(f"{folder}/{strategy}", net=adapted(), **options))
    finally:
        dist.destroy_process_group()


def test_two_workers_train_the_same_lora(tmp_path):
    """With spread weights too: the base is gathered frozen, and a checkpoint holds the LoRA alone."""
    one = train_stage(task(tmp_path / "one", net=adapted(), steps=2))
    mp.spawn(_work, (str(tmp_path), 29_700 + os.getpid() % 1000), nprocs=2)
    for strategy in ("ddp", "fsdp"):
        found = checkpoints.latest(tmp_path / strategy / "stages" / "video" / "checkpoints")
        ours, theirs = one.tensors("network"), found.tensors("network")
        assert ours.keys() == theirs.keys()
        assert found.facts["lora"]["fingerprint"] == one.facts["lora"]["fingerprint"]
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-3, strategy
