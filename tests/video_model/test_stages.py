"""A whole run in small: codec, latents, three stages, samples, evaluation; and what cannot be, an error of one line."""

import json
import shutil

import pytest
import torch

from curate.base.packaged import WeightsMissing
from tests.video_model.clips import clips, write_clips
from video_model.codecs.protocol import to_float
from video_model.config import TrainConfig
from video_model.data.excerpts import sample_windows
from video_model.diffusion.slots import Models
from video_model.errors import DataError, RunError
from video_model.evaluation.evaluate import evaluate
from video_model.public.weights import export_unet
from video_model.training.build import build_conditioner
from video_model.training.journal import read_log
from video_model.training.loop import Interrupted
from video_model.training.run import Run
from video_model.training.sampler import Sampler
from video_model.training.stages import starting_network, train
from video_model.training.steps.optimisation import NothingToTrain
from video_model.training.storage import checkpoints
from video_model.training.stores import Stores
from video_model.training.watching import Silent

STAGE = {"sizes": [[32, 32]], "batch": 4, "lr": 1e-3, "warmup": 1, "ema": 0.5}


def config(**changes) -> TrainConfig:
    tree = {
        "codec": {"kind": "own", "channels": 2, "steps": 0, "frames": 32, "temporal_steps": 1},
        "network": {"channels": [16], "layers": 1, "head_dim": 8, "groups": 4, "epsilon": "sd"},
        "data": {"held_out": 0.3},
        "stages": {
            "image": STAGE | {"frames": [1], "steps": 3},
            "video": STAGE | {"frames": [4], "rates": [4, 8], "images": 0.3, "steps": 3},
            "hq": STAGE | {"frames": [4], "where": "motion_score <> 5", "steps": 2},
        },
        "samples": {"count": 2, "steps": 2, "frames": 4},
        "loop": {"log_every": 1, "save_every": 1, "keep": 9},
    }
    return TrainConfig.model_validate(tree | changes)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "curated", clips(24))


@pytest.fixture(scope="module")
def run(curated, tmp_path_factory):
    return train(config(), [str(curated)], tmp_path_factory.mktemp("run") / "run")


def average(run, name):
    return checkpoints.latest(run.stage(name) / "checkpoints").tensors("ema")


def test_three_stages_are_trained_each_from_the_average_of_the_last(run):
    for name, steps in (("image", 3), ("video", 3), ("hq", 2)):
        assert run.done(name).step == steps
        log = read_log(run.stage(name) / "log.jsonl")
        assert [line["step"] for line in log if "loss" in line] == list(range(1, steps + 1))
        assert sum("held_out_loss" in line for line in log) == 1
        assert len(list((run.stage(name) / "samples").glob("*.png"))) == 2
    assert len(list((run.stage("hq") / "samples").glob("*.mp4"))) == 2
    models = Models(run.codec(), Sampler(run.root).encoder)
    started, image = starting_network(run, "video", models), average(run, "image")
    kept = started.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in image.items()) and len(kept) > len(image)
    kept = starting_network(run, "hq", models).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in average(run, "video").items())


def test_a_video_stage_starts_as_the_image_network(run):
    sampler = Sampler(run.root, "image")
    inflated = starting_network(run, "video", Models(sampler.codec, sampler.encoder))
    x, noise, text = torch.randn(2, 4, 2, 4, 4), torch.randn(2), torch.randn(2, 5, 384)
    frames = [sampler.denoiser.network(x[:, t : t + 1], noise, {"text": text}) for t in range(4)]
    assert torch.equal(inflated(x, noise, {"text": text}), torch.cat(frames, 1))


def test_a_run_starts_from_public_weights_that_fit_and_from_no_others(run, curated, tmp_path):
    sampler = Sampler(run.root, "image")
    folder = export_unet(sampler.denoiser.network, tmp_path / "unet")
    begun = Run(tmp_path / "run", config(start=str(folder)))
    kept = starting_network(begun, "image", Models(sampler.codec, sampler.encoder)).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in average(run, "image").items())
    begun = Run(
        tmp_path / "run",
        config(start=str(folder), network={"channels": [32], "head_dim": 8, "layers": 1, "groups": 4, "epsilon": "sd"}),
    )
    with pytest.raises(
        RunError, match=r"is not a network of this config \(channels: \(16,\) there, \(32,\) here; .*to fit"
    ):
        starting_network(begun, "image", Models(sampler.codec, sampler.encoder))


def test_finished_stages_are_passed_over_and_more_steps_can_be_asked_for(run, curated, tmp_path):
    before = average(run, "hq")
    train(config(), [str(curated)], run.root, resume=True)
    assert all(torch.equal(value, before[key]) for key, value in average(run, "hq").items())
    with pytest.raises(RunError, match="is not empty: resume it with --resume"):
        train(config(), [str(curated)], run.root)
    with pytest.raises(RunError, match=r"begun with another config \(different: seed\)"):
        train(config(seed=1), [str(curated)], run.root, resume=True)
    stages = config().model_dump()["stages"]
    grown = config(stages=stages | {"hq": stages["hq"] | {"steps": 3}})
    assert run.differences(grown) == []
    assert run.differences(config(stages=stages | {"video": stages["video"] | {"steps": 9}})) == ["stages.video.steps"]
    assert run.differences(config(stages=stages | {"hq": stages["hq"] | {"lr": 1e-9}})) == [
        "stages.hq.lr"
    ]  # it is done
    begun = Run(tmp_path / "not begun", config())
    assert begun.differences(config(stages=stages | {"hq": stages["hq"] | {"lr": 1e-9, "batch": 2}})) == []
    shutil.copytree(run.stage("hq") / "checkpoints/step-00000001", begun.stage("hq") / "checkpoints/step-00000001")
    changed = config(stages=stages | {"hq": stages["hq"] | {"lr": 1e-9, "batch": 2}})
    assert begun.differences(changed) == ["stages.hq.batch"]  # another rate may help against a loss that is not finite
    copied = Run(shutil.copytree(run.root, tmp_path / "run"), run.config)
    train(grown, [str(curated)], copied.root, resume=True, cache=run.root.parent / "latents")
    assert copied.done("hq").step == 3
    fewer = write_clips(tmp_path / "fewer", clips(20))
    with pytest.raises(RunError, match="stage image was begun on other clips than these: choose another --out"):
        train(grown, [str(fewer)], copied.root, resume=True)


def test_stopped_anywhere_and_resumed_it_is_the_same_run(run, curated, tmp_path):
    """Asked to stop after every step: codec, latents, stages and what starts from them come from the disk each time."""
    for _ in range(20):
        try:
            train(config(), [str(curated)], tmp_path / "run", resume=True, stop=lambda: True)
            break
        except Interrupted:
            continue
    else:
        raise AssertionError("never done")
    for name in ("image", "video", "hq"):
        one, other = average(run, name), average(Run.open(tmp_path / "run"), name)
        assert all(torch.equal(one[key], other[key]) for key in one), name


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def test_what_helps_against_want_of_memory_may_change_on_resume(run, curated, tmp_path):
    """Cut back to the first video step, and resumed with other keys of memory: the same weights but for rounding."""
    copied = Run(shutil.copytree(run.root, tmp_path / "run"), run.config)
    shutil.rmtree(copied.stage("hq"))
    for step in (2, 3):
        shutil.rmtree(copied.stage("video") / f"checkpoints/step-0000000{step}")
    stages = config().model_dump()["stages"]
    loop = {"log_every": 1, "save_every": 1, "keep": 9}
    changed = config(
        stages=stages | {"video": stages["video"] | {"accumulate": 2}},
        loop=loop | {"checkpointing": True, "strategy": "fsdp", "threads": 1},
    )
    watcher = Notes()
    cache = run.root.parent / "latents"
    train(changed, [str(curated)], copied.root, only="video", resume=True, cache=cache, watcher=watcher)
    one, other = average(run, "video"), average(copied, "video")
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-3
    (line,) = watcher.lines
    assert line.startswith(
        "resumed with stages.video.accumulate 1 -> 2, loop.checkpointing False -> True, loop.strategy"
    )
    assert line.endswith("the same run, but no longer to the bit")
    assert json.loads((copied.root / "config.json").read_text())["stages"]["video"]["accumulate"] == 2
    history = [json.loads(line) for line in (copied.root / "resumed.jsonl").read_text().splitlines()]
    assert history[0].pop("date").startswith("20")
    assert history[0] == {"stage": "video", "step": 1, "key": "stages.video.accumulate", "old": 1, "new": 2}
    train(changed, [str(curated)], copied.root, only="video", resume=True, cache=cache, watcher=watcher)
    assert len(watcher.lines) == 1  # nothing is changed now
    with pytest.raises(RunError, match=r"different: loop\.precision\)"):
        train(
            config(loop=loop | {"precision": "bfloat16"}, stages=changed.model_dump()["stages"]),
            [str(curated)], copied.root, resume=True,
        )  # fmt: skip
    for key in ("batch", "noise", "clip"):
        stage = stages["image"] | {key: {"batch": 2, "noise": {"mean": 3.0}, "clip": 9.0}[key]}
        assert all(
            k.startswith(f"stages.image.{key}") for k in run.differences(config(stages=stages | {"image": stage}))
        )
        assert run.differences(config(stages=stages | {"image": stage}))


def test_runs_share_their_latents(run, curated):
    before = {path: path.stat().st_mtime_ns for path in (run.root.parent / "latents").rglob("*.safetensors")}
    train(config(seed=0, loop={"log_every": 2}), [str(curated)], run.root.parent / "other", only="image")
    assert {path: path.stat().st_mtime_ns for path in (run.root.parent / "latents").rglob("*.safetensors")} == before
    with pytest.raises(RunError, match="stage hq starts from stage video, which is not done"):
        train(config(seed=0, loop={"log_every": 2}), [str(curated)], run.root.parent / "other", only="hq", resume=True)


def test_samples_depend_on_their_seed_and_prompt_alone(run):
    sampler = Sampler(run.root)
    one = sampler(sampler.request(["a", "a", "b"], seed=3))
    assert one.shape == (3, 4, 3, 32, 32) and not torch.equal(one[0], one[1])
    alone = sampler(sampler.request(["a"], seed=4))  # the second of those above
    assert torch.allclose(alone[0], one[1], atol=1e-4)
    first = torch.full((3, 32, 32), 0.5)
    assert not torch.allclose(sampler(sampler.request(["a"], seed=4, first_frame=first)), alone, atol=1e-3)
    with pytest.raises(RunError, match="size 36x32: height and width must be multiples of 8"):
        sampler(sampler.request(["a"], size=(36, 32)))
    with pytest.raises(RunError, match="stage image is an image stage: --frames must be 1"):
        Sampler(run.root, "image").request(["a"], frames=4)
    with pytest.raises(RunError, match="--stage tv: this run's stages are image, video, hq"):
        Sampler(run.root, "tv")


def test_evaluation_uses_unseen_clips_and_says_what_real_ones_score(run, curated, tmp_path):
    found = evaluate(run.root, count=4, steps=1, out=tmp_path)
    stores = Stores(run.config, [str(curated)])
    assert f"{len(stores.parts['hq'][1])} unseen clips" in found["title"]
    names = " ".join(found["metrics"])
    for word in ("loss at sigma 0.05", "Frechet video distance, EfficientNet", "caption similarity", "flicker", "PSNR"):
        assert word in names
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"].keys() == found["metrics"].keys()
    assert (tmp_path / "contact.png").exists()
    for name, row in found["metrics"].items():
        if name.startswith("Frechet"):
            assert row["value"] is None and "needs 64 drawn videos and 128 clips" in row["why"] and row["n"] < 64
        else:
            assert row["low"] <= row["value"] <= row["high"] and row["n"] > 1
    (loss,) = (row["value"] for name, row in found["metrics"].items() if name.startswith("loss at sigma 20 "))
    # At sigma 20 the target is (noise - 20 x0) / sqrt(401), nearly -x0, and eight steps from 0 the output is still small
    pixels, *_ = sample_windows(stores.parts["hq"][1], (32, 32), 4, 8, 64, workers=1)
    power = run.codec().encode(to_float(torch.from_numpy(pixels))).square().mean().item()
    assert loss == pytest.approx((1 + 400 * power) / 401, rel=0.15)
    other = write_clips(tmp_path / "other", clips(30))  # 12 of its 15 videos are those of the run
    seen = set(stores.training.text("video_id").to_pylist())
    found = evaluate(run.root, [str(other)], count=4, steps=1, out=tmp_path)
    fresh = [row for row in clips(30) if row["video_id"] not in seen]
    assert f"{len(fresh)} unseen clips" in found["title"]


def test_what_cannot_be_is_said_before_anything_is_made(curated, tmp_path):
    def reason(changed, sources=(str(curated),), **options):
        with pytest.raises((DataError, RunError)) as caught:
            train(changed, list(sources), tmp_path / "none", **options)
        assert "\n" not in str(caught.value) and not (tmp_path / "none" / "stages").exists()
        return str(caught.value)

    stages = config().model_dump()["stages"]
    assert "stage image: has no data: name a curated folder with --data" in reason(config(), [])
    strict = stages | {"hq": stages["hq"] | {"where": "motion_score > 1e9"}}
    assert "stage hq" in reason(config(stages=strict)) and "keeps none of 24 clips" in reason(config(stages=strict))
    long = stages | {"video": stages["video"] | {"frames": [400]}}
    assert "too short for 400 frames" in reason(config(stages=long))
    assert "--stage tv: the config's stages are image, video, hq" in reason(config(), only="tv")


def test_a_network_that_cannot_be_is_said_before_the_codec_is_trained(curated, tmp_path):
    for changes, reason in (
        ({"network": {"channels": [48]}}, "network: .*channels.* 48 must be divisible by norm_groups 32"),
        ({"codec": {"kind": "own", "factor": 2, "channels": 16}}, "codec: channels must be at most"),
    ):
        with pytest.raises(RunError, match=reason):
            train(config(**changes), [str(curated)], tmp_path / "run")
    stages = config().model_dump()["stages"]
    with pytest.raises(NothingToTrain, match="nose"):
        train(config(stages=stages | {"hq": stages["hq"] | {"train": ["nose"]}}), [str(curated)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_encoders_are_built_as_their_config_says(tmp_path):
    def built(**text):
        return config(text=text).text.make()

    assert built(kind="minilm").dim == 384
    with pytest.raises(WeightsMissing, match=r"w\.safetensors"):
        built(kind="open_clip", model="ViT-B-32", file=str(tmp_path / "w.safetensors")).encode(["a"])
    with pytest.raises(WeightsMissing, match="nowhere"):
        built(kind="t5", folder=str(tmp_path / "nowhere")).encode(["a"])


def test_a_run_that_never_leaves_the_text_out_draws_without_guidance(run):
    sampler = Sampler(run.root)
    always = config(conditioning={"text": 0.0})
    sampler.conditioner = build_conditioner(always, sampler.name, sampler.models)
    assert sampler(sampler.request(["a"], guidance=(3.0, 3.0))).isfinite().all()


def test_a_checkpoint_of_another_network_is_refused(run, tmp_path):
    changed = config(network={"channels": [32], "layers": 1, "head_dim": 8, "groups": 4})
    (run.root / "config.json").rename(tmp_path / "kept.json")
    try:
        (run.root / "config.json").write_text(changed.model_dump_json())
        with pytest.raises(RunError, match="is not of this config's network"):
            Sampler(run.root)
    finally:
        (tmp_path / "kept.json").rename(run.root / "config.json")
