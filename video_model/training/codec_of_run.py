"""The codec of a run: the one in its folder, one that another run trained on the same frames, or trained now."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from curate.base.files import atomic_folder, write_json
from video_model.codecs import Codec
from video_model.config import rates_of
from video_model.data.excerpts import sample_frames, sample_windows
from video_model.data.index import Index
from video_model.errors import RunError
from video_model.latents.together import locked
from video_model.training.build import config_of, run_at_start
from video_model.training.run import Run
from video_model.training.watching import TrainingWatcher
from video_model.workers import TrainingWorker, first_goes_ahead

TEMPORAL_FRAMES = 8  # of a window that a temporal decoder is trained on, at most


def codec_of(
    run: Run, index: Index, cache: Path, watcher: TrainingWatcher, worker: TrainingWorker | None = None
) -> Codec:
    """index: what the run trains on. cache: where runs share codecs. worker: of several that all call this, and train it
    together. Raises RunError, DataError, CodecError, WorkerError."""
    chosen, worker = run.config.codec, worker or TrainingWorker()
    if not chosen.trained or worker.any(worker.first and (run.root / "codec").exists()):
        return run.codec()
    if (source := run_at_start(run.config)) and (source / "codec").is_dir():
        if config_of(source, type(run.config)).codec != chosen:
            raise RunError(f"codec: the run in start, {source}, has another one: give the same keys here")
        _copied(source / "codec", run, worker)
        return run.codec()
    of = run.config.data
    data = RunFrames(index, _size(run), _window(run), run.config.seed, of.workers, of.decode_seconds, worker)
    key = [chosen.model_dump(), index.fingerprint, data.size, data.window, run.config.seed]
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    shared = cache / "codecs" / name
    with first_goes_ahead(worker):
        shared.parent.mkdir(parents=True, exist_ok=True)
    with locked(shared.parent, worker):
        if not worker.any(worker.first and shared.exists()):
            made, report = chosen.train(data, run.config.seed, watcher.phase)
            if worker.first:
                with atomic_folder(shared) as folder:
                    made.save(folder)
                    write_json(folder / "report.json", report)
    _copied(shared, run, worker)
    return run.codec()


def _copied(source: Path, run: Run, worker: TrainingWorker) -> None:
    with first_goes_ahead(worker):
        if worker.first:
            with atomic_folder(run.root / "codec") as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
            if run.mirror:
                run.mirror.sync()
    if run.mirror and not (run.root / "codec").exists():
        run.mirror.fetch()  # a worker of another machine than the first one's


@dataclass(frozen=True)
class RunFrames:
    """Pixels of a run's clips, for its codec. size: height, width in px. window: frames and rate of windows.

    Each worker decodes a part, and all get all.
    """

    index: Index
    size: tuple[int, int]
    window: tuple[int, float] | None
    seed: int
    workers: int
    timeout: float
    worker: TrainingWorker

    def frames(self, count: int) -> Tensor:
        options = self.seed, self.workers, self.timeout, self.worker
        return torch.from_numpy(np.ascontiguousarray(sample_frames(self.index, self.size, count, *options)))

    def windows(self, count: int) -> Tensor:
        options = self.seed, self.workers, self.timeout, self.worker
        found = sample_windows(self.index, self.size, *self.window, count, *options)[0]
        return torch.from_numpy(np.ascontiguousarray(found))


def _size(run: Run) -> tuple[int, int]:
    """The largest of all stages."""
    sizes = [size for stage in run.config.stages.values() for size in stage.sizes]
    return max(sizes, key=lambda size: size[0] * size[1])


def _window(run: Run) -> tuple[int, float] | None:
    """Of the first video stage; None: the codec asks for none. Raises RunError."""
    if not run.config.codec.wants_windows:
        return None
    video = next((stage for stage in run.config.stages.values() if stage.temporal), None)
    if video is None:
        raise RunError(
            "codec: it is trained on windows of clips, and no stage has videos: set codec.temporal_steps to 0"
        )
    return min(TEMPORAL_FRAMES, max(video.frames)), rates_of(video)[0]
