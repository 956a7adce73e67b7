"""A run measured on clips that it was not trained on: `winnow evaluate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from curate.base.files import write_json
from video_model.config import Noise, TrainConfig, as_rates
from video_model.data.excerpts import sample_windows
from video_model.data.index import Index, join, open_index
from video_model.data.windows import kept_for
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.errors import DataError
from video_model.evaluation import metrics
from video_model.evaluation.features import I3DFeatures
from video_model.latents.batches import BatchSpec
from video_model.latents.live import LiveLatents
from video_model.measures import flicker_error, psnr
from video_model.pictures import strip, write_picture
from video_model.training.held_out import held_out_batches, held_out_loss, loss_of_nothing
from video_model.training.sampler import Sampler
from video_model.training.stores import Stores
from video_model.training.watching import Silent, TrainingWatcher

SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
LOSS_ROWS = 64
AT_ONCE = 8  # videos that are drawn together
PAIRS = 8  # of real and drawn, on the contact sheet


def evaluate(
    root: str | Path,
    data: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    count: int = 64,
    steps: int | None = None,
    seed: int = 0,
    i3d: str | Path | None = None,
    stage: str | None = None,
    watcher: TrainingWatcher | None = None,
    schema: type[TrainConfig] = TrainConfig,
) -> dict[str, Any]:
    """Draw `count` videos for captions of unseen clips, and compare them with those clips.

    data: curated folders; of the run's own, only what it held out is used, of others all that is not of a video it
    trained on. Returns, and writes to OUT/metrics.json, {"title", "folder", "metrics": name -> {"value", "real"}}, where
    "real" is the figure of real videos: the metric of a perfect model. OUT/contact.png shows pairs of
    real and drawn. Raises RunError, DataError, WeightsMissing.
    """
    watcher = watcher or Silent()
    sampler = Sampler(root, stage, "cuda" if torch.cuda.is_available() else "cpu", schema)
    folder = Path(out) if out else Path(root) / "evaluation"
    index = unseen(sampler, list(data))
    chosen = sampler.stage
    found: dict[str, dict[str, float | None]] = {}
    of_run, rates = sampler.config.data, kept_for([as_rates(chosen)] if chosen.temporal else [])
    options = {"rates": rates, "max_frames": of_run.frames_per_clip, "workers": of_run.workers}
    with LiveLatents(sampler.codec, sampler.encoder, **options) as store:  # frames are chosen as in training
        spec = BatchSpec(
            frames=chosen.frames,
            sizes=chosen.sizes,
            rates=as_rates(chosen),
            batch=16,
            seed=seed,
            columns=sampler.config.conditioning.columns,
        )
        batches = held_out_batches(index, store, LOSS_ROWS, spec)
        if not batches:
            raise DataError(f"{root}: none of {len(index)} unseen clips can be used: give more with --data")
        found |= losses(sampler.denoiser, sampler.conditioner, batches, watcher)
    if chosen.temporal:
        found |= _videos(sampler, index, count, steps, seed, i3d, folder, watcher)
    title = f"{root}, stage {sampler.name}, step {sampler.checkpoint.step}, {len(index)} unseen clips"
    result = {"title": title, "folder": str(folder), "metrics": found}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", result)
    return result


def unseen(sampler: Sampler, data: list[str]) -> Index:
    """Clips of videos that the run was not trained on. Raises DataError where there are none."""
    sources = {source for found in sampler.run.facts.get("sources", {}).values() for source in found}
    stores = Stores(sampler.config, sorted(sources))
    held_out = stores.parts[sampler.name][1]
    if data:
        trained = set(stores.training.rows["video_id"].to_pylist())
        captions, columns = sampler.config.data.captions, tuple(sampler.config.conditioning.columns.values())
        given = join(*(open_index([source], captions=captions, numbers=columns) for source in data))
        away = [row for row, video in enumerate(given.rows["video_id"].to_pylist()) if video not in trained]
        held_out = given.select(np.array(away, np.int64))
    if not len(held_out):
        raise DataError(
            f"{sampler.run.root}: no clip is left that it was not trained on: give others with --data, or train with "
            "data.held_out above 0"
        )
    return held_out


def losses(
    denoiser: Denoiser, conditioner: Conditioner, batches: Sequence[Mapping[str, Any]], watcher: TrainingWatcher
) -> dict[str, dict[str, float | None]]:
    """The loss at each of SIGMAS; beside it in the name, that of a network which knows nothing."""
    found: dict[str, dict[str, float | None]] = {}
    for i, sigma in enumerate(SIGMAS):
        watcher.phase("loss by noise level", i, len(SIGMAS))
        level = Noise(mean=math.log(sigma), std=1e-6)
        loss = held_out_loss(denoiser, conditioner, level, batches)["held_out_loss"]
        nothing = loss_of_nothing(denoiser.parametrisation, sigma)
        found[f"loss at sigma {sigma:g} (knowing nothing: {nothing:.3g})"] = {"value": loss, "real": None}
    return found


def draw(sampler: Sampler, captions: Sequence[str], watcher: TrainingWatcher, **options: Any) -> Tensor:
    """[N, T, 3, H, W]: a video for each caption, a few at a time."""
    videos = []
    seed = options.pop("seed", 0)
    for first in range(0, len(captions), AT_ONCE):
        watcher.phase("drawing videos", first, len(captions))
        request = sampler.request(captions[first : first + AT_ONCE], seed=seed + first, **options)
        videos.append(sampler(request))
    return torch.cat(videos)


def _videos(
    sampler: Sampler,
    index: Index,
    count: int,
    steps: int | None,
    seed: int,
    i3d: str | Path | None,
    folder: Path,
    watcher: TrainingWatcher,
) -> dict[str, dict[str, float | None]]:
    request = sampler.request([""], steps=steps)
    rate = request.fps or 8.0
    pixels, captions, fps, *_ = sample_windows(
        index, request.size, request.frames, rate, max(count, 4), seed, sampler.config.data.workers
    )
    real = torch.from_numpy(pixels).float() / 127.5 - 1
    drawn = draw(sampler, captions, watcher, steps=steps, seed=seed, fps=float(np.median(fps)))
    rebuilt = torch.cat([sampler.codec.decode(sampler.codec.encode(part)) for part in real.split(AT_ONCE)]).clamp(-1, 1)
    measured = metrics.evaluate(real, drawn, captions)
    videos = measured["frechet_videos"]
    network = measured["frechet_network"]
    found: dict[str, dict[str, float | None]] = {
        f"Frechet video distance, {network}, {videos} videos": {
            "value": measured["frechet_video_distance"],
            "real": measured["frechet_video_distance_real"],
        },
        f"caption similarity, {measured['similarity_network']} (captions of others: {measured['caption_similarity_chance']:.3f})": {
            "value": measured["caption_similarity"],
            "real": measured["caption_similarity_real"],
        },
        "flicker (frame-difference energy over that of real)": {
            "value": measured["flicker"],
            "real": measured["flicker_real"],
        },
        "codec: PSNR of real videos, dB": {"value": psnr(rebuilt, real), "real": None},
        "codec: flicker error of real videos": {"value": flicker_error(rebuilt, real), "real": 0.0},
    }
    if i3d:
        kinetics = I3DFeatures(i3d)
        half = len(real) // 2
        found[f"Frechet video distance, {kinetics.name}, {len(drawn)} videos"] = {
            "value": metrics.frechet_video_distance(real, drawn, kinetics),
            "real": metrics.frechet_video_distance(real[:half], real[half : 2 * half], kinetics),
        }
    write_picture(folder / "contact.png", contact_sheet(real[:PAIRS], drawn[:PAIRS], captions[:PAIRS]))
    return found


def contact_sheet(real: Tensor, drawn: Tensor, captions: Sequence[str]) -> np.ndarray:
    """[H, W, 3] uint8: for each caption a strip of the real frames, and one of the drawn ones below it."""
    rows = []
    for one, other, caption in zip(real, drawn, captions, strict=True):
        strips = [strip(one), strip(other)]
        label = Image.new("RGB", (strips[0].shape[1], 14), "white")
        ImageDraw.Draw(label).text((2, 1), caption[: strips[0].shape[1] // 6], fill="black")
        rows += [np.asarray(label), *strips]
    return np.concatenate(rows)
