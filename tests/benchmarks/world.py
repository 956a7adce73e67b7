"""What curation is worth: the same training on a spoiled world as it came, and on what `winnow select` kept of it.

    python -m tests.benchmarks.world OUT [--clips 800] [--contaminate 0.5] [--seeds 0 1 2] [--config tiny] [--share 1.0]

A world of which half is spoiled (shapes that rest, writing, hidden cuts, wrong captions) goes through `winnow annotate` and
`winnow select` twice: raw (a file is a clip, nothing is filtered) and selected (the selection of pipelines/configs/world.yaml). The
first table says what survives. Then both train for the same steps, with the same codec (trained on raw) and seeds, and
draw the same prompts; the second table says how much of what the prompts name is read in the videos, and the loss on
clean clips that neither has seen. Given again, the command resumes in OUT.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipelines.typed_yaml import SHIPPED, find, read
from video_model.config import TrainConfig
from video_model.data.excerpts import sample_windows
from video_model.data.index import Index, open_index
from video_model.latents.batches import BatchSpec
from video_model.latents.live import LiveLatents
from video_model.pictures import write_video
from video_model.training.held_out import held_out_batches, held_out_loss
from video_model.training.run import Run
from video_model.training.sampler import Sampler
from video_model.training.stages import train
from video_model.world.reader import read as read_video
from video_model.world.reader import score
from video_model.world.world import Scene, make_world

ARMS = ("raw", "selected")
CAPTION = {"source_caption": 1.0}
MEASURES = ("colour", "shape", "direction", "speed", "background", "all", "held_out_loss")
LOWER = ("held_out_loss",)  # is better
CLEAN_SEED, PROMPT_SEED = 7001, 7002
HELD_OUT = 160  # clean clips
BATCH = 32  # videos drawn at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=800)
    parser.add_argument("--contaminate", type=float, default=0.5)
    parser.add_argument("--world-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", default="tiny", help="of training: a file, or one of pipelines/configs/train")
    parser.add_argument("--share", type=float, default=1.0, help="of the config's steps in each stage")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-train", action="store_true", help="stop after the first table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    curated = curate(options.out, options.clips, options.world_seed, options.contaminate)
    console.print(survival(curated))
    if options.no_train:
        return
    config = training_config(options.config, options.share, options.threads)
    prompts = prompts_of(options.prompts)
    clean = open_index([curated["clean"]], captions=CAPTION)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    codec: Path | None = None
    for seed in options.seeds:
        for arm in ARMS:
            began = time.perf_counter()
            run = options.out / "runs" / f"{arm}-{seed}"
            train_arm(config.model_copy(update={"seed": seed}), curated[arm], run, codec)
            codec = codec or run / "codec"
            found[arm].append(judge(run, prompts, clean))
            console.print(f"{arm}, seed {seed}: {time.perf_counter() - began:.0f} s, {_shown(found[arm][-1])}")
    console.print(gain(found, real_clips(codec.parent, clean), options))


def curate(out: Path, clips: int, seed: int, contaminate: float) -> dict[str, Path]:
    """Make the worlds and run the commands on them; where the curated shards of each arm are."""
    spoiled, clean = out / "spoiled", out / "clean"
    if not (spoiled / "list.jsonl").exists():
        make_world(spoiled, clips, seed, contaminate)
    if not (clean / "list.jsonl").exists():
        make_world(clean, HELD_OUT, CLEAN_SEED)
    for source, name, annotating, selecting in (
        (spoiled, "selected", [], []),
        (spoiled, "raw", ["--set", "shots.detector=whole"], ["--preset", "none"]),
        (clean, "clean", ["--set", "shots.detector=whole"], ["--preset", "none"]),
    ):
        annotated = str(out / "annotated" / name)
        winnow("annotate", str(source / "list.jsonl"), "--out", annotated, "--config", "world", *annotating)
        winnow("select", annotated, "--out", str(out / "curated" / name), "--workers", "1", *selecting)
    return {name: out / "curated" / name for name in ("selected", "raw", "clean")}


def winnow(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pipelines.cli.app", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"winnow {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def survival(curated: dict[str, Path]) -> Table:
    """How many clips of each kind go in, and how many of them the selection keeps."""
    kind = "source_columns->>'contamination'"
    counts = {}
    for arm in ARMS:
        shards = str(curated[arm] / "data" / "*.parquet")
        sql = f"SELECT {kind}, count(DISTINCT video_id) FROM read_parquet(?) GROUP BY 1"
        counts[arm] = dict(duckdb.execute(sql, [shards]).fetchall())
    table = Table(title="what the selection keeps", title_justify="left")
    for heading in ("clips", "raw", "selected", "kept"):
        table.add_column(heading, justify="left" if heading == "clips" else "right")
    names = {
        "none": "clean",
        "static": "shape rests",
        "text": "covered with text",
        "cut": "hidden cut",
        "caption": "wrong caption",
    }
    for name, words in names.items():
        before, after = (counts[arm].get(name, 0) for arm in ARMS)
        table.add_row(words, str(before), str(after), f"{after / max(1, before):.1%}")
    table.add_section()
    spoiled = {arm: 1 - counts[arm].get("none", 0) / sum(counts[arm].values()) for arm in ARMS}
    table.add_row("spoiled, of all", *(f"{spoiled[arm]:.1%}" for arm in ARMS), "")
    return table


def training_config(name: str, share: float, threads: int) -> TrainConfig:
    """The named config, learning from the captions of the source list, with a share of its steps."""
    path = find(name, SHIPPED / "train")
    changes = [
        f"data.captions={json.dumps(CAPTION)}",
        "samples.every=0",
        "loop.evaluate_every=0",
        f"loop.threads={threads}",
    ]
    for stage, chosen in read(TrainConfig, path, changes).stages.items():
        changes.append(f"stages.{stage}.steps={max(1, round(chosen.steps * share))}")
        changes.append(f"stages.{stage}.where=null")  # a condition would curate the raw arm too
    return read(TrainConfig, path, changes)


def train_arm(config: TrainConfig, data: Path, out: Path, codec: Path | None) -> None:
    """All stages of a config on one arm's shards, from where they stopped the last time. codec: one to take over."""
    if codec and not (out / "codec").exists():
        Run.begin(out, config, resume=True)
        shutil.copytree(codec, out / "codec")
    train(config, [str(data)], out, resume=True, cache=out.parent / "latents")


def prompts_of(count: int) -> list[str]:
    rng = np.random.default_rng(PROMPT_SEED)
    return [Scene.draw(rng).caption for _ in range(count)]


def judge(run: Path, prompts: list[str], clean: Index) -> dict[str, float]:
    """What is read in the videos that a run draws of some prompts, and its loss on clean clips. Kept beside the run."""
    kept = run / "world.json"
    sampler = Sampler(run)
    if kept.exists():
        made = json.loads(kept.read_text())
        if made["prompts"] == prompts and made["step"] == sampler.checkpoint.step:
            return made["found"]
    readings = []
    for first in range(0, len(prompts), BATCH):
        request = sampler.request(prompts[first : first + BATCH], seed=1000 + first)
        videos = sampler(request)
        readings += [read_video(video, request.fps or 8.0) for video in videos]
        for i, video in enumerate(videos[:4] if first == 0 else []):
            write_video(run / "world" / f"{i}.mp4", video, request.fps or 8.0)
    found = score(readings, prompts) | {"held_out_loss": clean_loss(sampler, clean)}
    kept.write_text(json.dumps({"prompts": prompts, "step": sampler.checkpoint.step, "found": found}))
    return found


def clean_loss(sampler: Sampler, clean: Index) -> float:
    """Loss on clips of a world that was never trained on, with the noise of the run's last stage."""
    stage = sampler.stage
    rate = stage.rates[0] if isinstance(stage.rates, list) else stage.rates.max
    with LiveLatents(sampler.codec, sampler.encoder, rates=[rate], workers=1) as store:
        spec = BatchSpec(
            frames=stage.frames,
            sizes=stage.sizes,
            rates=[rate],
            batch=stage.batch,
            columns=sampler.config.conditioning_of(sampler.name).columns,
        )
        batches = held_out_batches(clean, store, 2 * len(clean), spec)
        return held_out_loss(sampler.denoiser, sampler.conditioner, stage.noise, batches)["held_out_loss"]


def real_clips(run: Path, clean: Index) -> dict[str, float]:
    """What is read in clean clips after a run's codec: what a perfect generator would get."""
    sampler = Sampler(run)
    frames, size = max(sampler.stage.frames), sampler.stage.sizes[0]
    windows, captions, fps, *_ = sample_windows(clean, size, frames, 8.0, min(len(clean), 96), workers=1)
    with torch.no_grad():
        pixels = torch.from_numpy(windows).float() / 127.5 - 1
        rebuilt = torch.cat([sampler.codec.decode(sampler.codec.encode(part)) for part in pixels.split(BATCH)])
    return score([read_video(video, rate) for video, rate in zip(rebuilt.clamp(-1, 1), fps, strict=True)], captions)


def gain(found: dict[str, list[dict[str, float]]], real: dict[str, float], options: argparse.Namespace) -> Table:
    """Mean and range over the seeds of each arm, their difference, and in how many seeds selected is better."""
    title = (
        f"{options.clips} clips, {options.contaminate:.0%} spoiled; {options.config}, {options.share:g} of its steps; "
    )
    table = Table(title=title + f"{options.prompts} prompts, seeds {options.seeds}", title_justify="left")
    for heading in ("read right", "real clips", *ARMS, "selected - raw", "better in"):
        table.add_column(heading, justify="left" if heading == "read right" else "right")
    for name in MEASURES:
        values = {arm: [result[name] for result in found[arm] if name in result] for arm in ARMS}
        if not values["raw"]:
            continue
        percent = name not in LOWER
        pairs = list(zip(values["raw"], values["selected"], strict=True))
        better = sum((b < a) if name in LOWER else (b > a) for a, b in pairs)
        table.add_row(
            name.replace("_", " "),
            f"{real[name]:.1%}" if name in real else "",
            *(_range(values[arm], percent) for arm in ARMS),
            f"{100 * statistics.mean(b - a for a, b in pairs):+.1f} points"
            if percent
            else f"{statistics.mean(b / a for a, b in pairs) - 1:+.1%}",
            f"{better} of {len(pairs)} seeds",
        )
    return table


def _range(values: list[float], percent: bool) -> str:
    low, mean, high = min(values), statistics.mean(values), max(values)
    form = ".1%" if percent else ".4f"
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def _shown(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items())


if __name__ == "__main__":
    main()
