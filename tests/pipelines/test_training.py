"""`winnow train`, `sample`, `evaluate` and `weights` as a person runs them; killed, and spread by Ray Train."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from curate.base.store import store_of
from pipelines.cli.app import app
from pipelines.training import load_config
from tests.video_model.clips import clips, write_clips
from tests.video_model.test_stages import config
from video_model.training.journal import read_log
from video_model.training.storage import checkpoints
from video_model.training.storage.mirror import Mirror

WINNOW = [sys.executable, "-m", "pipelines.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "curated", clips(24))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    made = config(loop={"log_every": 1, "save_every": 1, "keep": 2, "threads": 1}).model_dump(mode="json")
    made["stages"]["video"]["steps"] = 12
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(json.dumps(made))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def whole(recipe, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    done = winnow("train", recipe, "--data", data, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def winnow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def average(out: Path, stage: str) -> dict[str, torch.Tensor]:
    return checkpoints.latest(out / "stages" / stage / "checkpoints").tensors("ema")


def test_killed_in_the_middle_of_a_step_and_resumed_it_is_the_same_run(whole, recipe, data, tmp_path):
    command = [*WINNOW, "train", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]
    log = tmp_path / "run" / "stages" / "video" / "log.jsonl"
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (log.exists() and len(read_log(log)) >= 3):
            time.sleep(0.005)
        time.sleep(0.013)  # somewhere within a step, an evaluation or a checkpoint
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    done = winnow("train", recipe, "--data", data, "--out", tmp_path / "run", "--resume")
    assert done.exit_code == 0, done.output
    assert "stage video: resumed after step" in done.output
    for stage in ("image", "video", "hq"):
        one, other = average(whole, stage), average(tmp_path / "run", stage)
        assert all(torch.equal(one[key], other[key]) for key in one), stage
    losses = [
        [line["loss"] for line in read_log(out / "stages/video/log.jsonl") if "loss" in line]
        for out in (whole, tmp_path / "run")
    ]
    assert losses[0] == losses[1]


def test_in_a_bucket_that_fails_now_and_then_it_is_the_same_run_killed_and_resumed_elsewhere(
    whole, recipe, data, tmp_path, storage, monkeypatch
):
    bucket = storage.bucket()
    store = store_of(f"{bucket}/curated")
    for path in data.rglob("*.parquet"):
        store.put(path.relative_to(data).as_posix(), path.read_bytes())
    storage.faults(seed=11, share=0.05)
    command = ["train", str(recipe), "--data", f"{bucket}/curated", "--out", f"{bucket}/run"]
    environment = ENVIRONMENT | storage.environment | {"WINNOW_SCRATCH": str(tmp_path / "one")}
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen([*WINNOW, *command], env=environment, stdout=said, stderr=said)
    run = store_of(f"{bucket}/run")
    try:
        while process.poll() is None and not any(
            entry.name.endswith("state.json") for entry in run.list("stages/video/checkpoints/step-")
        ):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
    monkeypatch.setattr("pipelines.dataset.lock.LEASE", 2.0)  # the killed one's
    monkeypatch.setenv("WINNOW_SCRATCH", str(tmp_path / "two"))
    done = winnow(*command, "--resume")
    assert done.exit_code == 0, done.output
    assert "stage video: resumed after step" in done.output
    found = Mirror(f"{bucket}/run").folder
    for stage in ("image", "video", "hq"):
        one, other = average(whole, stage), average(found, stage)
        assert all(torch.equal(one[key], other[key]) for key in one), stage
    losses = [
        [line["loss"] for line in read_log(out / "stages/video/log.jsonl") if "loss" in line] for out in (whole, found)
    ]
    assert losses[0] == losses[1]
    assert storage.counts()["faults"]


def test_an_interruption_saves_and_names_the_way_to_resume(recipe, data, tmp_path):
    command = [
        *WINNOW,
        "train",
        str(recipe),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "stages.video.steps=5000",
    ]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "run" / "stages" / "video" / "log.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "which is saved: use --resume" in " ".join(output.split())


def test_two_workers_of_ray_train_take_the_same_steps(whole, recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.ray_training.ATTEMPTS", 0)  # a worker that fails is not to be helped
    done = winnow("train", recipe, "--data", data, "--out", tmp_path / "run", "--workers", 2)
    assert done.exit_code == 0, done.output
    assert "video" in done.output and "s a step" in done.output
    for stage in ("image", "video", "hq"):
        one, other = average(whole, stage), average(tmp_path / "run", stage)
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < 2e-3, stage
        log = read_log(tmp_path / "run" / "stages" / stage / "log.jsonl")
        assert log[0]["loss"] == pytest.approx(read_log(whole / "stages" / stage / "log.jsonl")[0]["loss"], rel=1e-3)


def test_a_cluster_or_data_that_is_not_there_is_said_at_once(recipe, data, tmp_path):
    done = winnow(
        "train", recipe, "--data", data, "--out", tmp_path / "run", "--workers", 2, "--address", "127.0.0.1:1"
    )
    assert done.exit_code == 2 and "Ray at 127.0.0.1:1 cannot be reached" in done.output
    done = winnow("train", recipe, "--data", tmp_path / "none", "--out", tmp_path / "run2", "--workers", 2)
    assert done.exit_code == 2 and "none" in done.output and not (tmp_path / "run2").exists()


def test_samples_are_written_and_the_same_seed_gives_the_same_video(whole, tmp_path):
    for name in ("one.mp4", "two.mp4"):
        done = winnow(
            "sample", whole, "--prompt", "a", "--steps", 2, "--seed", 5, "--out", tmp_path / name, "--scale", 2
        )
        assert done.exit_code == 0 and name in done.output.replace("\n", ""), done.output
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    import av

    with av.open(str(tmp_path / "one.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4 and frames[0].shape == (64, 64, 3)
    from PIL import Image

    Image.new("RGB", (90, 50), "red").save(tmp_path / "first.png")
    done = winnow(
        "sample",
        whole,
        "--image",
        tmp_path / "first.png",
        "--guidance",
        "1:2.5",
        "--steps",
        2,
        "--out",
        tmp_path / "i.mp4",
    )
    assert done.exit_code == 0, done.output
    done = winnow(
        "sample", whole, "-p", "a", "-p", "b", "--stage", "image", "--steps", 2, "--out", tmp_path / "still.png"
    )
    assert done.exit_code == 0 and (tmp_path / "still-1.png").exists(), done.output


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ((), "--prompt or --image: name what to draw"),
        (("-p", "a", "--guidance", "high"), "--guidance high: write a number, or two"),
        (("-p", "a", "--size", "60"), "--size 60: write HEIGHTxWIDTH in px"),
        (("-p", "a", "--sampler", "magic"), "--sampler magic: choose from euler, heun, dpmpp_2m, ddim"),
        (("-p", "a", "--condition", "motion"), "--condition motion: write NAME=NUMBER, e.g. motion=4"),
        (
            ("-p", "a", "--condition", "mood=4"),
            "mood: no conditioning slot has this name: choose from text, fps, motion",
        ),
        (("-p", "a", "--out", "x.gif"), "--out x.gif: videos are written as .mp4"),
        (("-p", "a", "--image", __file__), "is neither a picture nor a video that can be read"),
    ],
)
def test_wishes_that_cannot_be_are_one_line(whole, arguments, reason):
    done = winnow("sample", whole, *arguments)
    assert done.exit_code == 2 and reason in " ".join(done.output.split()), done.output


def test_evaluation_prints_every_figure_beside_that_of_real_videos(whole, tmp_path):
    done = winnow("evaluate", whole, "--count", 4, "--steps", 1, "--out", tmp_path)
    assert done.exit_code == 0 and "Frechet video distance" in " ".join(done.output.split()), done.output
    assert (tmp_path / "contact.png").exists()


def test_weights_go_out_and_come_in_again(whole, tmp_path):
    done = winnow("weights", "export", whole, "--stage", "image", "--out", tmp_path / "pipeline")
    assert done.exit_code == 0, done.output
    from diffusers import UNet2DConditionModel

    public = UNet2DConditionModel.from_pretrained(tmp_path / "pipeline" / "unet").eval()
    from video_model.training.sampler import Sampler

    ours = Sampler(whole, "image").denoiser.network
    x, text = torch.randn(1, 1, 2, 4, 4), torch.randn(1, 3, 384)
    with torch.no_grad():
        there = public(x[:, 0], torch.tensor([0.3]), text).sample
    assert torch.allclose(ours(x, torch.tensor([0.3]), {"text": text})[:, 0], there, atol=1e-5)
    done = winnow("weights", "import", tmp_path / "pipeline" / "unet", "--out", tmp_path / "again")
    assert done.exit_code == 0 and "M parameters" in done.output, done.output
    done = winnow("weights", "import", tmp_path, "--out", tmp_path / "none")
    assert done.exit_code == 2 and str(tmp_path) in done.output.replace("\n", "")


def test_shipped_training_configs_load():
    assert list(load_config("tiny", []).stages) == ["image", "video", "hq"]
    paper = load_config("svd", ["stages.hq.steps=5"])
    table = {
        name: (stage.noise.mean, stage.noise.std, stage.steps, stage.batch, stage.lr)
        for name, stage in paper.stages.items()
    }
    assert table == {  # arXiv 2311.15127, appendix D and E; batch and lr of the image stages are ours
        "image_time": (-1.2, 1.0, 1_000, 1536, 1e-4),
        "image": (-1.2, 1.0, 30_000, 1536, 1e-4),
        "video": (-1.2, 1.2, 150_000, 1536, 1e-4),
        "video_large": (0.0, 1.2, 100_000, 768, 1e-4),
        "hq": (0.5, 1.4, 5, 768, 3e-5),
        "image_to_video_small": (0.7, 1.6, 50_000, 768, 3e-5),
        "image_to_video": (1.0, 1.6, 50_000, 768, 3e-5),
        "image_to_video_long": (1.0, 1.6, 50_000, 768, 3e-5),
        "interpolation": (1.0, 1.2, 10_000, 256, 1e-4),
    }
    assert [paper.before(name) for name in paper.stages][5:] == [
        "video_large",
        "image_to_video_small",
        "image_to_video",
        "hq",
    ]
    assert load_config("svd-lora", []).lora.rank == 16 and load_config("sd21-image", []).denoiser.kind == "v"
    assert paper.stages["hq"].steps == 5 and paper.conditioning.text.dropout == 0.15


def test_parts_of_ones_own_train_and_sample(recipe, data, tmp_path):
    plugin = ["--plugin", Path(__file__).parents[2] / "docs" / "examples" / "training_parts.py"]
    chosen = ["--set", "denoiser={kind: clean}", "--set", "samples.sampler=midpoint"]
    out = tmp_path / "run"
    refused = winnow("train", recipe, "--data", data, "--out", out, *chosen)
    assert refused.exit_code == 2 and "denoiser" in refused.output and not out.exists()
    done = winnow("train", recipe, "--data", data, "--out", out, *chosen, *plugin)
    assert done.exit_code == 0, done.output
    assert json.loads((out / "config.json").read_text())["denoiser"] == {"kind": "clean"}
    drawn = winnow("sample", out, "-p", "a", "--steps", 3, "--out", tmp_path / "video.mp4", *plugin)
    assert drawn.exit_code == 0 and (tmp_path / "video.mp4").stat().st_size > 500
    without = winnow("sample", out, "-p", "a", "--out", tmp_path / "video.mp4")
    assert without.exit_code == 2 and "does not fit this version" in without.output
    unknown = winnow("sample", out, "-p", "a", "--sampler", "middle", "--out", tmp_path / "video.mp4", *plugin)
    assert unknown.exit_code == 2 and "ddim, midpoint" in " ".join(unknown.output.split())
