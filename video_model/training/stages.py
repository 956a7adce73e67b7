"""A whole training run: the codec, the latents, and the stages one after the other.

    data -> index -> codec (trained once) -> latents and text states (cached) -> image -> video -> hq

Each stage starts from the average of the one before. Everything is found again by `resume`: finished stages are passed
over, an unfinished one goes on from its last good checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from curate.base.files import write_json
from video_model.codecs.small import Codec
from video_model.config import TrainConfig, as_rates, rates_of
from video_model.data.buckets import usable_sizes
from video_model.data.index import Index, join, open_index
from video_model.diffusion.generate import default_request, generate
from video_model.encoders.text import TextEncoder
from video_model.errors import DataError, RunError
from video_model.latents.batches import Batches
from video_model.latents.build import cache_for
from video_model.latents.live import Live
from video_model.pictures import strip, write_picture, write_video
from video_model.training import checkpoints
from video_model.training.codec_of_run import codec_of
from video_model.training.held_out import held_out_batches, held_out_loss
from video_model.training.loop import Task, train_stage
from video_model.training.run import (
    Run,
    build_conditioner,
    build_encoder,
    check_network,
    first_network,
    inflated,
)
from video_model.training.watching import Silent, Watcher
from video_model.training.workers import Worker, first_goes_ahead

HELD_OUT_ROWS, WINDOWS = 256, 8  # of the loss that is followed, at most: in all, and of one clip


def train(
    config: TrainConfig,
    sources: Sequence[str],
    out: str | Path,
    *,
    only: str | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    worker: Worker | None = None,
    watcher: Watcher | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Run the config's stages on some sources (curated folders, image-text Parquet), or `only` one of them.

    cache: folder of latents and codecs that runs share; default: `latents` beside `out`. Raises RunError, DataError,
    CodecError, WeightsMissing, CheckpointError, NotFinite, Interrupted.
    """
    worker, watcher, out = worker or Worker.here(), watcher or Silent(), Path(out)
    if only is not None and only not in config.stages:
        raise RunError(f"--stage {only}: the config's stages are {', '.join(config.stages)}")
    if worker.device.type == "cpu" and config.loop.threads:
        torch.set_num_threads(config.loop.threads)
    stores = Stores(config, sources)
    chosen = [name for name in config.stages if only is None or name == only]
    for name in chosen:  # what cannot make batches is said now, not when its stage comes
        stores.batches(name, Unread(*stores.thinning))
    encoder = build_encoder(config)
    check_network(config, encoder)
    with first_goes_ahead(worker):
        run = Run.begin(out, config, resume) if worker.first else Run(out, config)
        if worker.first:
            stores.compare(run)
        cache = Path(cache) if cache else out.parent / "latents"
        codec = codec_of(run, stores.training, cache, watcher)
        if isinstance(codec, nn.Module):
            codec.to(worker.device)
    with ExitStack() as stack:
        with first_goes_ahead(worker):
            store = stores.open(codec, encoder, cache, watcher)
            stack.callback(store.close)
        if worker.first:
            write_json(out / "data.json", stores.facts())
        batches = {name: stores.batches(name, store) for name in chosen}
        for name, found in batches.items():
            network = _start(run, name, codec, encoder)
            _run_stage(run, name, network, codec, encoder, stores, store, found, worker, watcher, stop)
    return run


@dataclass(frozen=True)
class Unread:
    """A store of which nothing is read: enough to plan batches."""

    rate: float | None
    max_frames: int

    def why_not(self, key: str, size: tuple[int, int]) -> None:
        return None


class Stores:
    """The data of all stages: their indices, split into clips to train on and clips held out, the same in all stages."""

    def __init__(self, config: TrainConfig, sources: Sequence[str]) -> None:
        self.config = config
        self.sources = {
            name: [
                str(Path(source).absolute()) for source in ([] if stage.only_sources else [*sources]) + stage.sources
            ]
            for name, stage in config.stages.items()
        }
        for name, found in self.sources.items():
            if not found:
                raise DataError(
                    f"stage {name}: has no data: name a curated folder with --data, or stages.{name}.sources"
                )
        captions = config.data.captions
        opened: dict[tuple[str, ...], Index] = {}
        for found in self.sources.values():
            opened.setdefault(tuple(found), open_index(found, captions=captions))
        self.whole = join(*opened.values())
        _, held_out = self.whole.split(config.data.held_out, config.seed)
        apart = set(held_out.rows["video_id"].to_pylist())
        self.parts: dict[str, tuple[Index, Index]] = {}
        for name, stage in config.stages.items():
            try:
                index = opened[tuple(self.sources[name])]
                index = open_index(self.sources[name], stage.where, captions) if stage.where else index
            except DataError as error:
                raise DataError(f"stage {name}: {error}") from None
            away = np.array([video in apart for video in index.rows["video_id"].to_pylist()], bool)
            if away.all():
                raise DataError(
                    f"stage {name}: all of its {len(index)} clips are held out for evaluation: loosen stages.{name}.where, "
                    f"or lower data.held_out ({config.data.held_out:g})"
                )
            self.parts[name] = index.select(np.flatnonzero(~away)), index.select(np.flatnonzero(away))

    @property
    def training(self) -> Index:
        """All clips that some stage trains on."""
        return join(*(train for train, _ in self.parts.values()))

    def open(self, codec: Codec, encoder: TextEncoder, cache: Path, watcher: Watcher) -> Any:
        """Latents and text states of all that the stages need: cached, or made as they are asked for."""
        data = self.config.data
        rate, most = self.thinning
        options = {"rate": rate, "max_frames": most, "workers": data.workers, "timeout": data.decode_seconds}
        if not data.cache:
            return Live(codec, encoder, **options)

        def tell(what: str, done: int, total: int, skipped: int) -> None:
            watcher.phase(f"latents of {what}" + (f", {skipped} skipped" if skipped else ""), done, total)

        needs = [(part, self.sizes(name)) for name, parts in self.parts.items() for part in parts if len(part)]
        return cache_for(needs, codec, encoder, cache, dtype=data.cache_dtype, progress=tell, **options)

    @property
    def thinning(self) -> tuple[float | None, int]:
        """The highest frame rate that a stage wants, and the most frames of a clip."""
        rates = [rate for stage in self.config.stages.values() if stage.temporal for rate in rates_of(stage)]
        return (max(rates) if rates else None), self.config.data.frames_per_clip

    def sizes(self, name: str) -> list[tuple[int, int]]:
        """A stage's sizes; without those of too few clips, where the config merges small buckets."""
        stage = self.config.stages[name]
        if self.config.data.small_buckets == "error":
            return stage.sizes
        return usable_sizes(self.parts[name][0].shape, stage.sizes, min(stage.batch, stage.image_batch or stage.batch))

    def batches(self, name: str, store: Any) -> Batches:
        stage = self.config.stages[name]
        try:
            return Batches(
                self.parts[name][0],
                store,
                frames=stage.frames,
                sizes=self.sizes(name),
                rates=as_rates(stage),
                batch=stage.batch,
                images=stage.images,
                image_batch=stage.image_batch,
                seed=_seed(self.config, name),
                merge=self.config.data.small_buckets == "merge",
            )
        except DataError as error:
            raise DataError(f"stage {name}: {error}") from None

    def held_out(self, name: str, store: Any, rows: int = HELD_OUT_ROWS) -> list[Any]:
        stage = self.config.stages[name]
        index = self.parts[name][1]
        if not len(index):
            return []
        options = {"frames": stage.frames, "sizes": self.sizes(name), "rates": as_rates(stage)}
        return held_out_batches(index, store, min(rows, WINDOWS * len(index)), batch=stage.batch, seed=0, **options)

    def compare(self, run: Run) -> None:
        """Raise RunError where the run was begun on other clips: it would not be the same run."""
        before = run.facts.get("fingerprints", {})
        for name, (now, _) in self.parts.items():
            if before.get(name, now.fingerprint) != now.fingerprint:
                raise RunError(f"{run.root}: stage {name} was begun on other clips than these: choose another --out")

    def facts(self) -> dict[str, Any]:
        """What data.json says."""
        motion = self.whole.motion[np.isfinite(self.whole.motion)]
        quantiles = np.quantile(motion, (0.1, 0.5, 0.9)).tolist() if len(motion) else None
        return {
            "sources": self.sources,
            "fingerprints": {name: train.fingerprint for name, (train, _) in self.parts.items()},
            "clips": {name: {"train": len(a), "held_out": len(b)} for name, (a, b) in self.parts.items()},
            "motion_10_50_90": quantiles,
        }


def _start(run: Run, name: str, codec: Codec, encoder: TextEncoder) -> nn.Module:
    """The network as a stage starts: the average of the stage before, inflated where time comes in."""
    names = list(run.config.stages)
    torch.manual_seed(run.config.seed)
    before = names[names.index(name) - 1] if name != names[0] else None
    if before is None:
        return first_network(run.config, codec, encoder)
    found = run.done(before)
    if found is None:
        raise RunError(f"{run.root}: stage {name} starts from stage {before}, which is not done: train that one first")
    network = run.network(before, found, codec, encoder)
    if run.config.stages[name].temporal and not network.config.temporal:
        network = inflated(network, run.config)
    return network.train()


def _run_stage(run, name, network, codec, encoder, stores, store, batches, worker, watcher, stop) -> None:
    config, folder, stage = run.config, run.stage(name), run.config.stages[name]
    if run.done(name) and checkpoints.latest(folder / "checkpoints").step >= stage.steps:
        return
    start = checkpoints.latest(folder / "checkpoints")
    conditioner = build_conditioner(config, stage.temporal)
    held_out = stores.held_out(name, store)
    watcher.stage(name, start.step if start else 0, stage.steps, batches.report)
    if worker.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "data.json", batches.report)
    request = default_request(config, name, _prompts(config, stores, name))

    told = dict(batches.report)

    def tell(step: int, numbers: dict[str, float]) -> None:
        if worker.first and batches.report["substituted"] != told["substituted"]:
            told.update(batches.report)
            write_json(folder / "data.json", batches.report)
        watcher.step(name, step, numbers)

    def draw(denoiser, step, journal) -> None:
        videos = generate(denoiser, conditioner, codec, encoder, request)
        if journal is None:
            return
        rows = np.concatenate([strip(video) for video in videos])
        journal.picture(step, "samples", rows)
        for i, video in enumerate(videos):
            path = folder / "samples" / f"step-{step:08d}-{i}"
            write_picture(path.with_suffix(".png"), strip(video))
            if len(video) > 1:
                write_video(path.with_suffix(".mp4"), video, request.fps or 8)
        write_json(folder / "samples" / "prompts.json", list(request.prompts))

    task = Task(
        name=name,
        stage=stage,
        loop=config.loop,
        seed=config.seed,
        folder=folder,
        board=run.root / "tensorboard",
        network=network,
        conditioner=conditioner,
        parametrisation=config.denoiser,
        batches=batches,
        worker=worker,
        evaluate=(lambda denoiser: held_out_loss(denoiser, conditioner, stage.noise, held_out)) if held_out else None,
        draw=draw if request.prompts else None,
        draw_every=config.samples.every,
        tell=tell,
        stop=stop,
    )
    train_stage(task, start)


def _prompts(config: TrainConfig, stores: Stores, name: str) -> list[str]:
    """The config's, or captions of held-out clips (of the training ones, where none are held out)."""
    if config.samples.prompts:
        return list(config.samples.prompts)
    train, held_out = stores.parts[name]
    index = held_out if len(held_out) else train
    captions = dict.fromkeys(index.caption(row, 0.0) for row in range(min(len(index), 64 * config.samples.count)))
    return [caption for caption in captions if caption][: config.samples.count]


def _seed(config: TrainConfig, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{config.seed}/{name}".encode()).digest()[:4], "little")
