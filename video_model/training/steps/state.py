"""What a stage of training changes: the network, the average of its weights, and the optimizer."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from video_model.config import Loop, TrainingStage
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.parametrisations import Parametrisation
from video_model.errors import first_line
from video_model.training.steps.adapters import another_base, lora_facts
from video_model.training.steps.average import Average, to_average
from video_model.training.steps.compiling import compiled
from video_model.training.steps.optimisation import (
    choose_trained,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
)
from video_model.training.steps.rows import Batch, draws, in_parts, moved, parts_of
from video_model.training.steps.workers import gradients_stay_here, load_network, named_tensors, spread, whole
from video_model.training.storage.checkpoints import Checkpoint, CheckpointError
from video_model.training.storage.saving import Saver
from video_model.workers import TrainingWorker


class TrainingState:
    """A network that is trained, spread over the workers, and the two denoisers of it: trained and averaged."""

    def __init__(
        self, network: Any, parametrisation: Parametrisation, stage: TrainingStage, loop: Loop, worker: TrainingWorker
    ) -> None:
        self.stage, self.loop, self.worker = stage, loop, worker
        spreads = worker.several and loop.strategy == "fsdp"  # which moves the network to the device block by block
        self.network = network if spreads else network.to(worker.device)
        self.network.checkpointing = loop.checkpointing
        self.trained = choose_trained(network, stage.train)
        averaged = to_average(network, stage.ema, share=not spreads)
        self.called = spread(compiled(network, loop.compile), worker, loop.strategy, loop.precision)
        if loop.strategy == "fsdp":
            spread(averaged, worker, loop.strategy)
        kept = torch.device("cpu") if stage.ema_device == "cpu" and worker.device.type != "meta" else None
        self.average = Average(network, averaged, stage.ema, stage.ema_every, kept)
        self.optimizer = make_optimizer(network, stage)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.denoiser = Denoiser(self.called, parametrisation, loop.precision)
        self.denoiser.weighting = stage.weighting
        # Of no weighting, so that losses on held-out clips compare between runs
        self._averaged = Denoiser(averaged, parametrisation, loop.precision)
        self.micro_batch = None if stage.micro_batch == "probe" else stage.micro_batch  # rows; a probe sets it
        self.preparing = 0.0

    @property
    def averaged(self) -> Denoiser:
        """Of the average, on the worker's device until the next update."""
        self.average.here()
        return self._averaged

    @property
    def at_once(self) -> int:
        """Rows of one forward pass."""
        rows = max(1, self.stage.batch // self.worker.world)
        return -(-rows // parts_of(rows, self.stage.accumulate, self.micro_batch))

    def load(self, start: Checkpoint) -> None:
        """Raises CheckpointError where it is not of this network."""
        if problem := another_base(self.network, start.facts):
            raise CheckpointError(f"{start.path}: {problem}")
        try:
            load_network(self.network, start.part("network"))
            load_network(self.average.network, start.part("ema"))
            load_optimizer(self.optimizer, self.network, start.part("optimizer"))
        except (KeyError, RuntimeError) as error:
            why = first_line(error)
            raise CheckpointError(f"{start.path}: is not of this network ({why}): choose another --out") from None

    def gradients(self, name: str, conditioner: Conditioner, step: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and sigma [B] of a step's rows; their gradients are left in the network, exchanged once.

        name: of the seed and the stage, see `draws`. `preparing` is then the seconds that drawing noise and conditions and
        moving them took, which measured .1 to 1.5% of a step on a CPU: not worth a thread of its own. A GPU works on the
        part before meanwhile.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.preparing = 0.0
        rows, losses, sigmas = len(batch["latents"]), [], []
        parts = list(in_parts(batch, parts_of(rows, self.stage.accumulate, self.micro_batch)))
        for i, (offset, part) in enumerate(parts):
            began = time.perf_counter()
            first_row = self.worker.rank * rows + offset
            given = moved(draws(name, self.stage.noise, conditioner, step, first_row, part), self.worker.device)
            cond = conditioner.encoded(given[3])
            self.preparing += time.perf_counter() - began
            with nullcontext() if i == len(parts) - 1 else gradients_stay_here(self.called):
                loss = self.denoiser.loss(*given[:3], cond)
                if loss.requires_grad:  # of images alone it does not, where a stage trains temporal layers
                    (loss.sum() / rows).backward()  # parts may differ by a row
            losses.append(loss.detach())
            sigmas.append(given[2])
        return torch.cat(losses), torch.cat(sigmas)

    def clip(self) -> Tensor:
        """Clip the gradients; the norm that they had."""
        return whole(nn.utils.clip_grad_norm_(self.parameters, self.stage.clip))

    def update(self, step: int) -> None:
        """The optimizer's step, at the rate of this step of the stage; the average follows, the gradients go."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stage, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # evaluation and samples come next, and need the room
        self.average.update(step, last=step + 1 == self.stage.steps)

    def save(self, saver: Saver, step: int, facts: dict[str, Any]) -> Checkpoint:
        """Begin a checkpoint. The first worker writes it; or each what it holds, where the weights are spread."""
        parts = {
            "network": named_tensors(self.network),
            "ema": named_tensors(self.average.network),
            "optimizer": optimizer_tensors(self.optimizer, self.network),
        }
        facts = facts | {"trained": len(self.trained)} | lora_facts(self.network)
        return saver.save(step, parts, facts)
