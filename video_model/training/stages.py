"""A whole training run: the codec, the latents, and the stages one after the other.

    data -> index -> codec (trained once) -> latents and text states (cached) -> image -> video -> hq

Each stage starts from the average of the one before. Everything is found again by `resume`: finished stages are passed
over, an unfinished one is resumed from its last good checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.base.files import write_json
from curate.base.store import is_remote
from video_model.codecs import placed
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.generate import Request, generate
from video_model.diffusion.slots import Models, shown_to
from video_model.errors import RunError
from video_model.latents.batches import Batches
from video_model.pictures import strip, write_picture, write_video
from video_model.precision import frozen_dtype
from video_model.training.build import build_conditioner, check_network, first_network, frames_as_given, inflated
from video_model.training.codec_of_run import codec_of
from video_model.training.held_out import held_out_loss
from video_model.training.journal import Journal
from video_model.training.loop import StageTask, train_stage
from video_model.training.planning.probe import Probe
from video_model.training.run import Run
from video_model.training.sampler import default_request
from video_model.training.steps.adapters import add_chosen_lora
from video_model.training.storage import checkpoints
from video_model.training.storage.mirror import Mirror, default_cache
from video_model.training.stores import Stores, Unread
from video_model.training.watching import Silent, TrainingWatcher
from video_model.workers import TrainingWorker, first_goes_ahead


def train(
    config: TrainConfig,
    sources: Sequence[str],
    out: str | Path,
    *,
    only: str | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    worker: TrainingWorker | None = None,
    watcher: TrainingWatcher | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Run the config's stages on some sources (curated folders, image-text Parquet; paths or URLs), or `only` one of them.

    out: a folder, or the URL of one in a store: then it is worked on in a local folder, and put there as it goes (see
    mirror.py). cache: folder of latents and codecs that runs share; default: `latents` beside `out`, or below `scratch`. Raises
    RunError, DataError, CodecError, WeightsMissing, CheckpointError, NotFinite, Interrupted, StoreError.
    """
    worker, watcher = worker or TrainingWorker.here(), watcher or Silent()
    mirror = Mirror(str(out)) if is_remote(out) else None
    folder = mirror.fetch() if mirror else Path(out)
    shared = Path(cache) if cache else default_cache(out)
    worker.wait()  # all have fetched what was there
    with mirror if mirror and worker.first else nullcontext():
        return _train(config, sources, Run(folder, config, mirror), only, resume, shared, worker, watcher, stop)


def _train(
    config: TrainConfig,
    sources: Sequence[str],
    place: Run,
    only: str | None,
    resume: bool,
    cache: Path,
    worker: TrainingWorker,
    watcher: TrainingWatcher,
    stop: Callable[[], bool],
) -> Run:
    """place: of the run, which may not be there yet."""
    if only is not None and only not in config.stages:
        raise RunError(f"--stage {only}: the config's stages are {', '.join(config.stages)}")
    if worker.device.type == "cpu" and config.loop.threads:
        torch.set_num_threads(config.loop.threads)
    stores = Stores(config, sources, cache, worker)
    config = stores.config
    chosen = [name for name in config.stages if only is None or name == only]
    with first_goes_ahead(worker):  # which keeps the buckets for the others
        for name in chosen:  # what cannot make batches is an error now, not when its stage comes
            stores.batches(name, Unread(*stores.thinning, cache))
    frozen = frozen_dtype(config.loop.frozen_precision, worker.device)
    encoder = config.text.make(worker.device, frozen)
    check_network(config, encoder)
    for stage in config.stages.values():
        stage.optimizer.check(worker.device.type)
    with first_goes_ahead(worker):
        run = replace(place, config=config)
        if worker.first:
            Run.begin(run.root, config, resume, watcher, run.mirror)
            stores.compare(run)
    codec = placed(codec_of(run, stores.training, cache, watcher, worker), worker.device, frozen)
    with ExitStack() as stack:
        store = stores.open(codec, encoder, cache, watcher, worker)
        stack.callback(store.close)
        if config.data.cache:  # the few prompts of samples are encoded on the CPU: its memory is the network's now
            encoder.move(torch.device("cpu"))
        if worker.first:
            write_json(run.root / "data.json", stores.facts())
        trainer = StageTrainer(run, Models(codec, encoder, frozen), stores, store, worker, watcher, stop)
        with first_goes_ahead(worker):
            every = {name: stores.batches(name, store) for name in chosen}
        for name, batches in every.items():
            trainer.train(name, batches)
    return run


@dataclass(frozen=True)
class StageTrainer:
    """What the stages of a run have in common: where they are kept, what they see, and who works on them."""

    run: Run
    models: Models
    stores: Stores
    store: Any  # of latents
    worker: TrainingWorker
    watcher: TrainingWatcher
    stop: Callable[[], bool]

    def train(self, name: str, batches: Batches) -> None:
        """Train a stage to its end, from where it stopped the last time; nothing where it is done."""
        run, config, folder = self.run, self.run.config, self.run.stage(name)
        before = config.before(name)
        if run.mirror and before and run.done(before) is None:
            run.mirror.fetch()  # a worker of another machine than the first one's
        stage, start = config.stages[name], checkpoints.latest(folder / "checkpoints")
        seen = self.worker.told(str(start.step if start else 0))
        if len(set(seen)) > 1:
            raise RunError(
                f"{folder}: workers see other checkpoints there ({', '.join(seen)}): use --resume in a minute"
            )
        if run.done(name) and start.step >= stage.steps:
            return
        network = starting_network(run, name, self.models)
        conditioner = build_conditioner(config, name, self.models)
        held_out = self.stores.held_out(name, self.store)
        self.watcher.stage(name, start.step if start else 0, stage.steps, batches.report)
        if self.worker.first:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "data.json", batches.report)
        request = self._request(name)
        task = StageTask(
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
            worker=self.worker,
            mirror=run.mirror,
            evaluate=(lambda denoiser, rows: held_out_loss(denoiser, conditioner, stage.noise, held_out, rows))
            if held_out
            else None,
            draw=self._drawer(folder, conditioner, request) if request.prompts else None,
            draw_every=config.samples.every,
            probe=Probe(config, name, self.models),
            report=self._reporter(name, batches),
            stop=self.stop,
        )
        train_stage(task, start)

    def _request(self, name: str) -> Request:
        """What is drawn on the way; nothing, without prompts, where a stage wants pictures and there are none."""
        request, slots = (
            default_request(self.run.config, name, self.stores.prompts(name)),
            self.run.config.slots_of(name),
        )
        reads = any(slot.name == "text" for slot in slots)
        prompts = (list(request.prompts) if reads else []) or [""]
        windows, captions = self.stores.windows(name, request)
        shown = shown_to(slots, windows) if windows is not None else {}
        if not shown:
            return replace(request, prompts=[]) if any(slot.required for slot in slots) else request
        if reads and not self.run.config.samples.prompts and captions:
            prompts = captions
        prompts = [prompts[i % len(prompts)] for i in range(len(windows))]
        return replace(request, prompts=prompts, conditions={**request.conditions, **shown})

    def _reporter(self, name: str, batches: Batches) -> Callable[[int, dict[str, float]], None]:
        """Progress; and data.json anew whenever clips were replaced by others, as they could not be decoded."""
        written = dict(batches.report)

        def report(step: int, numbers: dict[str, float]) -> None:
            if self.worker.first and batches.report["substituted"] != written["substituted"]:
                written.update(batches.report)
                write_json(self.run.stage(name) / "data.json", batches.report)
            self.watcher.step(name, step, numbers)

        return report

    def _drawer(
        self, folder: Path, conditioner: Conditioner, request: Request
    ) -> Callable[[Denoiser, int, Journal | None], None]:
        """Samples as pictures and videos, and in the journal."""

        def draw(denoiser: Denoiser, step: int, journal: Journal | None) -> None:
            videos = generate(denoiser, conditioner, request, self.run.config.parts.samplers)
            if journal is None:
                return
            journal.picture(step, "samples", np.concatenate([strip(video) for video in videos]))
            written = []
            for i, video in enumerate(videos):
                path = folder / "samples" / f"step-{step:08d}-{i}"
                write_picture(path.with_suffix(".png"), strip(video))
                if len(video) > 1:
                    written.append(path.with_suffix(".mp4"))
                    write_video(written[-1], video, request.fps or 8)
            journal.videos(step, "videos", written, list(request.prompts)[: len(written)])
            write_json(folder / "samples" / "prompts.json", list(request.prompts))

        return draw


def starting_network(run: Run, name: str, models: Models) -> Any:
    """The network as a stage starts: the average of the stage before, inflated where time comes in."""
    torch.manual_seed(run.config.seed)
    before = run.config.before(name)
    if before is None:
        network = first_network(run.config, name, models)
        section = run.config.lora
        return add_chosen_lora(network, section, run.config.network, run.config.start) if section else network
    found = run.done(before)
    if found is None:
        raise RunError(f"{run.root}: stage {name} starts from stage {before}, which is not done: train that one first")
    network = run.network(before, found, models)
    if run.config.stages[name].temporal and not run.config.lora:
        conditions = (run.config.conditioning_of(one) for one in (before, name))
        if run.config.stages[before].temporal:
            frames_as_given(network, *conditions, models.codec)
        network = inflated(network, run.config, name, models.codec.channels)
    return network.train()
