"""The training loop of one stage. It reads from top to bottom, and resuming is stateless.

What a step sees and draws is a function of (seed, stage, step, row): the batch, the noise and its level, and which conditions
are dropped out. So a run that was killed and resumed from its last checkpoint is the same run, to the bit, and a batch is the
same however it is spread over workers or parts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_model.config import Loop, TrainingStage
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.parametrisations import Parametrisation
from video_model.memory import memory_for
from video_model.training.journal import Journal
from video_model.training.steps.optimisation import learning_rate
from video_model.training.steps.rows import Batch, parts_of
from video_model.training.steps.state import TrainingState
from video_model.training.storage.checkpoints import Checkpoint
from video_model.training.storage.mirror import Mirror
from video_model.training.storage.saving import Saver
from video_model.workers import TrainingWorker


class NotFinite(Exception):
    """A loss or gradient that is no number. One line: the step, the clips, where the batch is kept, the fix."""


class Interrupted(KeyboardInterrupt):
    """Asked to stop; everything up to this step is in a checkpoint."""


class BatchSource(Protocol):
    def iterate(self, first: int, last: int, rank: int, world: int) -> Iterator[Batch]:
        """This worker's rows of the batches of steps first..last - 1."""


@dataclass
class StageTask:
    """What one stage needs. network: as the stage starts, e.g. the last one's average. mirror: of a run in a store.

    evaluate(denoiser, rows) -> numbers, of the average, that many rows at once. draw(denoiser, step, journal): samples are drawn and stored.
    probe(state) -> rows of a forward pass that fit, for `micro_batch: probe`. report(step, numbers): progress. stop(): whether to stop now.
    """

    name: str
    stage: TrainingStage
    loop: Loop
    seed: int
    folder: Path
    board: Path
    network: Any
    conditioner: Conditioner
    parametrisation: Parametrisation
    batches: BatchSource
    worker: TrainingWorker = field(default_factory=TrainingWorker)
    mirror: Mirror | None = None
    evaluate: Callable[[Denoiser, int], dict[str, float]] | None = None
    draw: Callable[[Denoiser, int, Journal | None], None] | None = None
    draw_every: int = 0
    probe: Callable[[TrainingState], int] | None = None
    report: Callable[[int, dict[str, float]], None] = lambda step, numbers: None
    stop: Callable[[], bool] = lambda: False


def train_stage(task: StageTask, start: Checkpoint | None = None) -> Checkpoint:
    """Train until `stage.steps`; the last checkpoint, whose fact `done` is true, holds the stage's result as `ema`.

    It is saved while it is evaluated and drawn from, so that what fails then costs no step: resumed, the stage is done. Raises NotFinite, Interrupted, CheckpointError, DataError.
    """
    stage, loop, worker = task.stage, task.loop, task.worker
    state = TrainingState(task.network, task.parametrisation, stage, loop, worker)
    if start:
        state.load(start)
    first, saved = start.step if start else 0, start
    journal = Journal(task.folder, task.board, first, _wandb(task)) if worker.first else None
    if stage.micro_batch == "probe" and task.probe:
        state.micro_batch = _probed(task, state, start)
        if journal:
            journal.numbers(first, {"micro_batch": state.micro_batch})
    saver = Saver(task.folder / "checkpoints", loop.keep, worker, background=loop.background_saves, mirror=task.mirror)
    everyone = worker.first or loop.strategy == "fsdp"  # who evaluates and draws: a spread network needs all
    try:
        before = time.perf_counter()
        batches = task.batches.iterate(first, stage.steps, worker.rank, worker.world)
        for step, batch in enumerate(batches, first):
            began, done = time.perf_counter(), step + 1
            loss, norm = _step(task, state, step, batch)
            if done % loop.log_every == 0 or done == stage.steps:
                now = time.perf_counter()
                numbers = {
                    "loss": float(worker.mean(loss.mean())),
                    "gradient_norm": float(norm),
                    "learning_rate": learning_rate(stage, step),
                    "step_seconds": now - before,
                    "waiting_share": (began - before + state.preparing) / (now - before),
                }
                if journal:
                    journal.numbers(done, numbers)
                task.report(done, numbers)
            stopping = saver.heard(task.stop())
            if done % loop.save_every == 0 or done == stage.steps or stopping:
                facts = {"stage": task.name, "done": done == stage.steps, "seed": task.seed}
                if stage.micro_batch == "probe":
                    facts |= {"micro_batch": state.micro_batch, "probed_for": _probed_for(task)}
                saved = state.save(saver, done, facts)
            # Being saved already: whatever fails here, for want of memory or disk, costs no step
            if everyone and task.evaluate and _due(done, loop.evaluate_every, stage.steps):
                with memory_for(f"the loss on held-out clips of stage {task.name}", *_helps(task, "evaluate")):
                    numbers = task.evaluate(state.averaged, state.at_once)
                if journal:
                    journal.numbers(done, numbers)
            if everyone and task.draw and _due(done, task.draw_every, stage.steps):
                with memory_for(f"samples of stage {task.name}", *_helps(task, "draw")):
                    task.draw(state.averaged, done, journal)
            if stopping and done < stage.steps:
                saver.finish()
                raise Interrupted(f"stopped after step {done} of stage {task.name}, which is saved: use --resume")
            before = time.perf_counter()
        saver.finish()
    finally:
        saver.leave()
        if journal:
            journal.close()
    return saved


def _probed(task: StageTask, state: TrainingState, start: Checkpoint | None) -> int:
    """Rows of a forward pass: those of the checkpoint where nothing changed that they depend on, so that it is the same run."""
    if start and start.facts.get("probed_for") == _probed_for(task):
        return start.facts["micro_batch"]
    return task.probe(state)


def _probed_for(task: StageTask) -> dict[str, Any]:
    keys = {"memory_gb", "checkpointing", "compile", "strategy"}
    return {"workers": task.worker.world, "device": task.worker.device.type, **task.loop.model_dump(include=keys)}


def _step(task: StageTask, state: TrainingState, step: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """The losses [B] of this worker's rows, and the gradient's norm. Raises NotFinite, OutOfMemory."""
    with memory_for(lambda: _pass(task, state, batch), *_helps(task, "pass")):
        loss, sigma = state.gradients(f"{task.seed}/{task.name}", task.conditioner, step, batch)
        norm = state.clip()
    if task.worker.any(not bool(torch.isfinite(loss).all() & torch.isfinite(norm))):
        raise _not_finite(task, step, batch, sigma, loss, norm)
    with memory_for(f"the optimizer's step of stage {task.name}", *_helps(task, "update")):
        state.update(step)
    return loss, norm


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _not_finite(task: StageTask, step: int, batch: Batch, sigma: Tensor, loss: Tensor, norm: Tensor) -> NotFinite:
    """Keeps the batch beside the checkpoints, and names its clips."""
    keys = list(batch.get("keys", []))
    bad = [i for i, value in enumerate(loss) if not torch.isfinite(value)] or list(range(len(loss)))
    path = task.folder / f"not-finite-step-{step}-worker-{task.worker.rank}"
    named = [keys[i] if i < len(keys) else f"row {i}" for i in bad]
    facts = {
        "step": step,
        "rows": [
            {"clip_id": keys[i] if i < len(keys) else None, "sigma": float(sigma[i]), "loss": str(float(loss[i]))}
            for i in range(len(loss))
        ],
        "captions": list(batch.get("captions", [])),
        "gradient_norm": str(float(norm)),
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1))
    tensors = {key: value.contiguous() for key, value in batch.items() if isinstance(value, Tensor)}
    save_file(tensors, path.with_suffix(".safetensors"))
    return NotFinite(
        f"stage {task.name}, step {step}: the loss or its gradient is not finite, first for {', '.join(named[:4])}; the "
        f"batch is kept in {path}.json and .safetensors; look at these clips, or lower the learning rate: --resume --set "
        f"stages.{task.name}.lr={task.stage.lr / 2:g}"
    )


def _pass(task: StageTask, state: TrainingState, batch: Batch) -> str:
    """The part of a step that takes most memory, in words."""
    rows, *shape = batch["latents"].shape
    at_once = -(-rows // parts_of(rows, task.stage.accumulate, state.micro_batch))
    return (
        f"the forward and backward pass of stage {task.name}, {at_once} rows of {'x'.join(map(str, shape))} "
        f"(frames, channels, height, width of latents), on {task.worker.device}"
    )


def _helps(task: StageTask, part: str) -> list[str]:
    """Keys that a part of a stage needs less memory with, and their values; the checkpoints so far stay, for --resume."""
    stage, loop, key = task.stage, task.loop, f"stages.{task.name}"
    if part == "draw":
        return ["--resume --set samples.count or samples.frames lower", "samples.every=0"]
    whole = [] if loop.strategy == "fsdp" else ["loop.strategy=fsdp on several GPUs (now ddp)"]
    if part == "update":
        return [*whole, f"train less ({key}.train, now {stage.train})", "--resume"]
    kept = [] if loop.checkpointing else ["loop.checkpointing=true (now false)"]
    smaller = (
        f"--resume --set {key}.micro_batch lower (now {'unset' if stage.micro_batch is None else stage.micro_batch})"
    )
    if part == "evaluate":
        return [f"{smaller}, which bounds the rows of this as well"]
    return [smaller, *kept, *whole]


def _wandb(task: StageTask) -> dict[str, Any] | None:
    if not task.loop.wandb:
        return None
    root = task.folder.parent.parent
    config = root / "config.json"
    return {
        "project": task.loop.wandb,
        "name": root.name,
        "config": json.loads(config.read_text()) if config.exists() else task.stage.model_dump(),
    }
