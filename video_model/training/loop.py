"""The training loop of one stage. It reads from top to bottom, and resuming is stateless.

What a step sees and draws is a function of (seed, stage, step, row): the batch, the noise and its level, and what is dropped
of the conditions. So a run that was killed and goes on from its last checkpoint is the same run, to the bit, and a batch
is the same however it is spread over workers or parts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from video_model.config import Loop, Noise, Stage
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser, lognormal
from video_model.diffusion.parametrisations import Parametrisation
from video_model.errors import first_line
from video_model.training import checkpoints
from video_model.training.checkpoints import Checkpoint, CheckpointError
from video_model.training.journal import Journal
from video_model.training.optimisation import (
    Average,
    adamw,
    choose_trained,
    learning_rate,
    load_optimizer,
    optimizer_tensors,
)
from video_model.training.workers import Worker, gradients_stay_here, load_whole, spread, whole, whole_state

Batch = Mapping[str, Any]


class NotFinite(Exception):
    """A loss or gradient that is no number. One line: the step, the clips, where the batch is kept, the fix."""


class Interrupted(KeyboardInterrupt):
    """Asked to stop; everything up to this step is in a checkpoint."""


class Batches(Protocol):
    def iterate(self, first: int, last: int, rank: int, world: int) -> Iterator[Batch]:
        """This worker's rows of the batches of steps first..last - 1."""


@dataclass
class Task:
    """What one stage needs. network: as the stage starts, e.g. the last one's average.

    evaluate(denoiser) -> numbers, of the average. draw(denoiser, step, journal): samples are drawn and stored.
    tell(step, numbers): progress. stop(): whether to stop now.
    """

    name: str
    stage: Stage
    loop: Loop
    seed: int
    folder: Path
    board: Path
    network: nn.Module
    conditioner: Conditioner
    parametrisation: Parametrisation
    batches: Batches
    worker: Worker = field(default_factory=Worker)
    evaluate: Callable[[Denoiser], dict[str, float]] | None = None
    draw: Callable[[Denoiser, int, Journal | None], None] | None = None
    draw_every: int = 0
    tell: Callable[[int, dict[str, float]], None] = lambda step, numbers: None
    stop: Callable[[], bool] = lambda: False


def train_stage(task: Task, start: Checkpoint | None = None) -> Checkpoint:
    """Train until `stage.steps`; the last checkpoint, whose fact `done` is true, holds the stage's result as `ema`.

    It is saved before it is evaluated and drawn from, so that what fails then, or is killed, costs no step: gone on with,
    the stage is done. Raises NotFinite, Interrupted, CheckpointError, DataError.
    """
    stage, loop, worker = task.stage, task.loop, task.worker
    network = task.network.to(worker.device)
    network.checkpointing = loop.checkpointing
    average_network = copy.deepcopy(network)
    trained = choose_trained(network, stage.train)
    called = spread(torch.compile(network) if loop.compile else network, worker, loop.strategy)
    if loop.strategy == "fsdp":
        spread(average_network, worker, loop.strategy)
    average = Average(network, average_network, stage.ema)
    optimizer = adamw(network, stage)
    first = 0
    if start:
        first = start.step
        try:
            load_whole(network, start.tensors("network"))
            load_whole(average.network, start.tensors("ema"))
            load_optimizer(optimizer, network, start.tensors("optimizer"))
        except (KeyError, RuntimeError) as error:
            why = first_line(error)
            raise CheckpointError(f"{start.path}: is not of this network ({why}): choose another --out") from None
    denoiser = Denoiser(called, task.parametrisation)
    judged = Denoiser(average.network, task.parametrisation)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    journal = Journal(task.folder, task.board, first, _wandb(task)) if worker.first else None
    everyone = worker.first or loop.strategy == "fsdp"  # who evaluates and draws: a spread network needs all
    saved = start

    def save(step: int, done: bool) -> Checkpoint | None:
        parts = {
            "network": whole_state(network),
            "ema": whole_state(average.network),
            "optimizer": optimizer_tensors(optimizer, network),
        }
        facts = {"stage": task.name, "done": done, "seed": task.seed, "trained": len(trained)}
        made = checkpoints.save(task.folder / "checkpoints", step, parts, facts, loop.keep) if worker.first else None
        worker.wait()
        return made

    try:
        before = time.perf_counter()
        batches = task.batches.iterate(first, stage.steps, worker.rank, worker.world)
        for step, batch in enumerate(batches, first):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(stage, step)
            optimizer.zero_grad(set_to_none=True)
            losses, sigmas = [], []
            parts = list(_parts(batch, stage.accumulate))
            for i, (offset, part) in enumerate(parts):
                last = i == len(parts) - 1
                first_row = worker.rank * len(batch["latents"]) + offset
                given = draws(f"{task.seed}/{task.name}", stage.noise, task.conditioner, step, first_row, part)
                given = moved(given, worker.device)
                with nullcontext() if last else gradients_stay_here(called), _autocast(loop, worker):
                    loss = denoiser.loss(*given)
                losses.append(loss.detach())
                sigmas.append(given[2])
                with nullcontext() if last else gradients_stay_here(called):
                    (loss.sum() / len(batch["latents"])).backward()  # parts may differ by a row
            loss, sigma = torch.cat(losses), torch.cat(sigmas)
            norm = whole(nn.utils.clip_grad_norm_(parameters, stage.clip))
            if worker.any(not bool(torch.isfinite(loss).all() & torch.isfinite(norm))):
                raise _not_finite(task, step, batch, sigma, loss, norm)
            optimizer.step()
            average.update(step)
            done = step + 1
            if done % loop.log_every == 0 or done == stage.steps:
                now = time.perf_counter()
                numbers = {
                    "loss": float(worker.mean(loss.mean())),
                    "gradient_norm": float(norm),
                    "learning_rate": learning_rate(stage, step),
                    "step_seconds": now - before,
                    "waiting_share": (began - before) / (now - before),
                }
                if journal:
                    journal.numbers(done, numbers)
                task.tell(done, numbers)
            stopping = worker.any(task.stop())
            if done % loop.save_every == 0 or done == stage.steps or stopping:
                saved = save(done, done == stage.steps) or saved
            # After saving: whatever fails here, for want of memory or disk, costs no step
            if everyone and task.evaluate and _due(done, loop.evaluate_every, stage.steps):
                numbers = task.evaluate(judged)
                if journal:
                    journal.numbers(done, numbers)
            if everyone and task.draw and _due(done, task.draw_every, stage.steps):
                task.draw(judged, done, journal)
            if stopping and done < stage.steps:
                raise Interrupted(
                    f"stopped after step {done} of stage {task.name}, which is saved: go on with --resume"
                )
            before = time.perf_counter()
    finally:
        if journal:
            journal.close()
    return saved if worker.first else checkpoints.latest(task.folder / "checkpoints")


def draws(
    name: str, noise: Noise, conditioner: Conditioner, step: int, first_row: int, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """clean and noise [B, T, C, h, w], sigma [B], cond: what rows `first_row` and on of a step's batch are trained with.

    Each row has a generator of its own, seeded by name, step and row, so that neither other rows nor the number of
    workers or parts matter. name: of the seed and the stage.
    """
    drawn, sigma, conds = [], [], []
    for row in range(len(batch["latents"])):
        text = f"{name}/{step}/{first_row + row}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(seed)
        sigma.append(lognormal(noise.mean, noise.std, 1, generator))
        drawn.append(torch.randn(batch["latents"].shape[1:], generator=generator))
        one = {key: value[row : row + 1] for key, value in batch.items() if isinstance(value, Tensor)}
        conds.append(conditioner(one, generator, train=True))
    cond = {key: torch.cat([found[key] for found in conds]) for key in conds[0]}
    return batch["latents"].float(), torch.stack(drawn), torch.cat(sigma), cond


def moved(given: tuple[Tensor, Tensor, Tensor, dict[str, Tensor]], device: torch.device) -> tuple[Any, ...]:
    """What `draws` gave, on a device."""
    *tensors, cond = given
    return *(value.to(device) for value in tensors), {key: value.to(device) for key, value in cond.items()}


def _parts(batch: Batch, parts: int) -> Iterator[tuple[int, Batch]]:
    """Slices of a batch, each with the row that it begins at; the last may be shorter."""
    rows = len(batch["latents"])
    size = -(-rows // parts)
    for first in range(0, rows, size):
        yield (
            first,
            {
                key: value[first : first + size] if isinstance(value, (Tensor, list)) else value
                for key, value in batch.items()
            },
        )


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _autocast(loop: Loop, worker: Worker) -> Any:
    mixed = loop.precision == "bfloat16"
    return torch.autocast(worker.device.type, torch.bfloat16) if mixed else nullcontext()


def _not_finite(task: Task, step: int, batch: Batch, sigma: Tensor, loss: Tensor, norm: Tensor) -> NotFinite:
    """Keeps the batch beside the checkpoints, and says which clips it was."""
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


def _wandb(task: Task) -> dict[str, Any] | None:
    return {"project": task.loop.wandb, "name": str(task.folder.parent.parent.name)} if task.loop.wandb else None
