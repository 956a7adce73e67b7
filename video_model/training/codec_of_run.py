"""The codec of a run: the one in its folder, one that another run trained on the same frames, or trained now."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from curate.base.files import whole_folder, write_json
from video_model.codecs.small import Codec, SmallCodec
from video_model.codecs.small_training import train_codec
from video_model.codecs.temporal_decoder import train_temporal_decoder
from video_model.config import OwnCodec, rates_of
from video_model.data.excerpts import sample_frames, sample_windows
from video_model.data.index import Index
from video_model.errors import RunError
from video_model.latents.build import locked
from video_model.training.run import Run, codec_config
from video_model.training.watching import Watcher

TEMPORAL_FRAMES = 8  # of a window that the temporal decoder is trained on, at most


def codec_of(run: Run, index: Index, cache: Path, watcher: Watcher) -> Codec:
    """index: what the run trains on. cache: where runs share codecs. Raises RunError, DataError, CodecError."""
    chosen = run.config.codec
    if chosen.kind == "diffusers" or (run.root / "codec").exists():
        return run.codec()
    window = _window(run)
    text = json.dumps([chosen.model_dump(), index.fingerprint, _size(run), window, run.config.seed], sort_keys=True)
    shared = cache / "codecs" / hashlib.sha256(text.encode()).hexdigest()[:16]
    shared.parent.mkdir(parents=True, exist_ok=True)
    with locked(shared.parent):
        if not shared.exists():
            made, report = _trained(run, chosen, index, window, watcher)
            with whole_folder(shared) as folder:
                made.save(folder)
                write_json(folder / "report.json", report)
    with whole_folder(run.root / "codec") as folder:
        shutil.copytree(shared, folder, dirs_exist_ok=True)
    return run.codec()


def _trained(
    run: Run, chosen: OwnCodec, index: Index, window: tuple[int, float] | None, watcher: Watcher
) -> tuple[SmallCodec, dict[str, Any]]:
    """The codec, and what it reaches on frames that it was not trained on."""
    seed, workers, size = run.config.seed, run.config.data.workers, _size(run)
    watcher.phase("frames for the codec", 0, 1)
    frames = torch.from_numpy(sample_frames(index, size, chosen.frames, seed, workers))
    made = SmallCodec(codec_config(run.config), seed)
    found = train_codec(
        made, frames, chosen.steps, seed, batch=chosen.batch,
        progress=lambda step, steps, loss: watcher.phase("codec", step, steps),
    )  # fmt: skip
    report: dict[str, Any] = {"image": {"psnr_start": found.psnr_start, "psnr": found.psnr, "steps": found.steps}}
    if window is not None:
        windows, *_ = sample_windows(index, size, *window, max(16, chosen.frames // 8), seed, workers)
        made, temporal = train_temporal_decoder(
            made, torch.from_numpy(windows), chosen.temporal_steps, seed,
            progress=lambda step, steps, loss: watcher.phase("temporal decoder", step, steps),
        )  # fmt: skip
        report["temporal"] = temporal.__dict__
    return made, report


def _size(run: Run) -> tuple[int, int]:
    """The largest of all stages: height, width in px."""
    sizes = [size for stage in run.config.stages.values() for size in stage.sizes]
    return max(sizes, key=lambda size: size[0] * size[1])


def _window(run: Run) -> tuple[int, float] | None:
    """Frames and rate of the windows for the temporal decoder; None: it is not wanted. Raises RunError."""
    if not run.config.codec.temporal_steps:
        return None
    video = next((stage for stage in run.config.stages.values() if stage.temporal), None)
    if video is None:
        raise RunError("codec.temporal_steps: no stage has videos: set it to 0")
    return min(TEMPORAL_FRAMES, max(video.frames)), rates_of(video)[0]
