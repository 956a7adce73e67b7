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
from curate.base.store import is_remote
from video_model.config import Noise, TrainConfig, as_rates
from video_model.data.excerpts import sample_windows
from video_model.data.index import Index, join, open_index
from video_model.data.windows import kept_for
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.slots import shown_to
from video_model.errors import DataError
from video_model.evaluation import metrics
from video_model.evaluation.features import EfficientNetFeatures, I3DFeatures, VideoFeatures
from video_model.evaluation.intervals import Estimate, mean_of
from video_model.evaluation.similarity import CaptionSimilarity
from video_model.latents.batches import BatchSpec
from video_model.latents.live import LiveLatents
from video_model.pictures import strip, write_picture
from video_model.training.build import build_conditioner
from video_model.training.held_out import held_out_batches, loss_of_nothing, losses_by_row
from video_model.training.sampler import Sampler
from video_model.training.storage.mirror import Mirror
from video_model.training.stores import Stores
from video_model.training.watching import Silent, TrainingWatcher

SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
LOSS_ROWS = 64
AT_ONCE = 8  # videos that are drawn together
PAIRS = 8  # of real and drawn, on the contact sheet
Found = dict[str, tuple[Estimate, Estimate | None]]  # by name: of what was drawn, and of real videos


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
    trained on. Returns, and writes to OUT/metrics.json, {"title", "folder", "metrics": name -> {"value", "low", "high", "n",
    "real"}}: a figure, its 95% interval (see intervals.py) and over how many clips; "real" is the like of real videos, the
    metric of a perfect model, or null. A figure that so few videos cannot tell has the value null and a "why".
    OUT/contact.png shows pairs of real and drawn. Raises RunError, DataError, WeightsMissing.
    """
    watcher = watcher or Silent()
    sampler = Sampler(root, stage, "cuda" if torch.cuda.is_available() else "cpu", schema)
    folder = Path(out) if out else sampler.run.root / "evaluation"
    index = unseen(sampler, list(data))
    found = held_out_losses(sampler, index, seed, watcher)
    if sampler.stage.temporal:
        found |= _videos(sampler, index, count, steps, seed, i3d, folder, watcher)
    title = f"{root}, stage {sampler.name}, step {sampler.checkpoint.step}, {len(index)} unseen clips"
    figures = {name: ours.facts() | {"real": real and real.facts()} for name, (ours, real) in found.items()}
    result = {"title": title, "folder": str(folder), "metrics": figures}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", result)
    if is_remote(root) and not out:
        mirror = Mirror(str(root))
        for file in folder.iterdir():
            mirror.put(file, mirror.name(file))
    return result


def unseen(sampler: Sampler, data: list[str]) -> Index:
    """Clips of videos that the run was not trained on. Raises DataError where there are none."""
    sources = {source for found in sampler.run.facts.get("sources", {}).values() for source in found}
    if not sources and not data:
        raise DataError(
            f"{sampler.run.root}: was not trained here, so that nothing is held out: give clips with --data"
        )
    stores = Stores(sampler.config, sorted(sources)) if sources else None
    held_out = stores.parts[sampler.name][1] if stores else ()
    if data:
        trained = set(stores.training.text("video_id").unique().to_pylist()) if stores else ()
        captions, columns = sampler.config.data.captions, tuple(sampler.config.columns)
        given = join(*(open_index([source], captions=captions, numbers=columns) for source in data))
        away = [row for row, video in enumerate(given.text("video_id").to_pylist()) if video not in trained]
        held_out = given.select(np.array(away, np.int64))
    if not len(held_out):
        raise DataError(
            f"{sampler.run.root}: no clip is left that it was not trained on: give others with --data, or train with "
            "data.held_out above 0"
        )
    return held_out


def held_out_losses(
    sampler: Sampler, index: Index, seed: int, watcher: TrainingWatcher, rows: int = LOSS_ROWS
) -> Found:
    """The losses of some windows of unseen clips. Raises DataError where none can be used."""
    chosen, data = sampler.stage, sampler.config.data
    # What a run that was not trained here never learned of clips, it learns of these
    conditioner = build_conditioner(sampler.config.fitted(index.number), sampler.name, sampler.models)
    spec = BatchSpec(
        frames=chosen.frames,
        sizes=chosen.sizes,
        rates=as_rates(chosen),
        batch=16,
        seed=seed,
        columns=sampler.config.conditioning_of(sampler.name).columns,
        pixels=any(slot.wants_pixels for slot in conditioner.slots),
        workers=data.workers,
        timeout=data.decode_seconds,
    )
    rates = kept_for([as_rates(chosen)] if chosen.temporal else [])  # frames are chosen as in training
    options = {"rates": rates, "max_frames": data.frames_per_clip}
    with LiveLatents(
        sampler.codec, sampler.encoder, workers=data.workers, timeout=data.decode_seconds, **options
    ) as store:
        batches = held_out_batches(index, store, rows, spec)
    if not batches:
        raise DataError(f"{sampler.run.root}: none of {len(index)} unseen clips can be used: give more with --data")
    return losses(sampler.denoiser, conditioner, batches, watcher, sampler.at_once)


def losses(
    denoiser: Denoiser,
    conditioner: Conditioner,
    batches: Sequence[Mapping[str, Any]],
    watcher: TrainingWatcher,
    at_once: int | None = None,
) -> Found:
    """The loss at each of SIGMAS that the network can be told of; beside it in the name, that of knowing nothing."""
    found: Found = {}
    low, high = denoiser.parametrisation.known_range
    sigmas = [sigma for sigma in SIGMAS if low <= sigma <= high]
    for i, sigma in enumerate(sigmas):
        watcher.phase("loss by noise level", i, len(sigmas))
        level = Noise(mean=math.log(sigma), std=1e-6)
        rows = losses_by_row(denoiser, conditioner, level, batches, at_once)
        nothing = loss_of_nothing(denoiser.parametrisation, sigma)
        found[f"loss at sigma {sigma:g} (knowing nothing: {nothing:.3g})"] = mean_of(rows.losses, rows.clips), None
    return found


def draw(sampler: Sampler, captions: Sequence[str], real: Tensor, watcher: TrainingWatcher, **options: Any) -> Tensor:
    """[N, T, 3, H, W]: a video for each caption, a few at a time.

    real: the videos of these captions and perhaps more, [M,  T, 3, H, W] in [-1, 1], of which a stage that cannot do without pictures gets them.
    """
    slots = [slot for slot in sampler.conditioner.slots if slot.required]
    videos = []
    seed = options.pop("seed", 0)
    most = min(AT_ONCE, sampler.at_once or AT_ONCE)
    for first in range(0, len(captions), most):
        watcher.phase("drawing videos", first, len(captions))
        now = slice(first, min(first + most, len(captions)))
        request = sampler.request(captions[now], seed=seed + first, **options, **shown_to(slots, real[now]))
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
) -> Found:
    request = sampler.request([""], steps=steps)
    rate = request.fps or 8.0
    of = sampler.config.data
    pixels, captions, fps, _, clips = sample_windows(
        index, request.size, request.frames, rate, 2 * max(count, 4), seed, of.workers, of.decode_seconds
    )
    real = torch.from_numpy(pixels).float() / 127.5 - 1
    drawn = draw(sampler, captions[:count], real, watcher, steps=steps, seed=seed, fps=float(np.median(fps)))
    rebuilt = torch.cat([sampler.codec.decode(sampler.codec.encode(part)) for part in real.split(AT_ONCE)]).clamp(-1, 1)
    watcher.phase("comparing videos", 0, 1)
    found = compared(real, drawn, captions, clips, CaptionSimilarity(), [EfficientNetFeatures(), *i3d_features(i3d)])
    found |= {
        "codec: PSNR of real videos, dB": (metrics.psnr_estimate(rebuilt, real, clips), None),
        "codec: flicker error of real videos": (metrics.flicker_error_estimate(rebuilt, real, clips), Estimate(0.0)),
    }
    write_picture(
        folder / "contact.png", contact_sheet(real[: len(drawn)][:PAIRS], drawn[:PAIRS], captions[: len(drawn)][:PAIRS])
    )
    return found


def compared(
    real: Tensor,
    drawn: Tensor,
    captions: Sequence[str],
    clips: Sequence[str],
    similarity: CaptionSimilarity,
    networks: Sequence[VideoFeatures],
) -> Found:
    """Drawn videos [M, ...] beside real ones [N, ...], N >= M, of which the first M have the captions that were drawn.

    clips: ids of the real videos. Windows of one clip count as one in the intervals, and once in a Frechet distance.
    """
    found: Found = {}
    count = len(drawn)
    once = torch.tensor([at for at, clip in enumerate(clips) if clip not in clips[:at]])
    for network in networks:
        found[f"Frechet video distance, {network.name}"] = metrics.frechet_estimates(
            drawn[once[once < count]], real[once], network
        )
    groups = (clips[:count], clips)
    ours, theirs, chance = metrics.similarity_estimates(drawn, captions[:count], real, captions, similarity, groups)
    found[f"caption similarity, {similarity.name} (captions of others: {chance:.3f})"] = ours, theirs
    half = len(real) // 2
    found["flicker (frame-difference energy over that of real)"] = (
        metrics.flicker_estimate(drawn, real, groups),
        metrics.flicker_estimate(real[:half], real[half:], (clips[:half], clips[half:])),
    )
    return found


def i3d_features(file: str | Path | None) -> list[VideoFeatures]:
    return [I3DFeatures(file)] if file else []


def contact_sheet(real: Tensor, drawn: Tensor, captions: Sequence[str]) -> np.ndarray:
    """[H, W, 3] uint8: for each caption a strip of the real frames, and one of the drawn ones below it."""
    rows = []
    for one, other, caption in zip(real, drawn, captions, strict=True):
        strips = [strip(one), strip(other)]
        label = Image.new("RGB", (strips[0].shape[1], 14), "white")
        ImageDraw.Draw(label).text((2, 1), caption[: strips[0].shape[1] // 6], fill="black")
        rows += [np.asarray(label), *strips]
    return np.concatenate(rows)
