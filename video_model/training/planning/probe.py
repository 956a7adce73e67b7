"""`micro_batch: probe`: how many rows of a stage fit into one worker's memory, found at the start of the stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from video_model.config import TrainConfig
from video_model.diffusion.slots import Models
from video_model.encoders.protocol import TextOutline
from video_model.memory import OutOfMemory, is_out_of_memory
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.simulate import SimulatedStep, largest_shape
from video_model.training.steps.state import TrainingState
from video_model.training.steps.workers import gradients_stay_here

MARGIN = 0.9  # of what is free, that activations may fill: batches differ, and allocators waste


@dataclass(frozen=True)
class Probe:
    """`probe(state)` -> rows. The models are those of the run, loaded, so that nothing has to be assumed."""

    config: TrainConfig
    name: str
    models: Models

    def __call__(self, state: TrainingState) -> int:
        """The most rows of the stage's largest window, up to the worker's share of a batch; the same on all workers.

        On a GPU by forward and backward passes of zeros. On a CPU, where running out ends the process, by the plan, into
        loop.memory_gb or what is free. Raises OutOfMemory where not one row fits.
        """
        share = max(1, self.config.stages[self.name].batch // state.worker.world)
        outlines = self._outlines()
        if state.worker.device.type == "cuda":
            rows = largest(lambda count: self._peak(state, outlines, count), self._room(state), share)
        else:
            step = SimulatedStep(self.config, self.name, outlines, "cpu")
            free = self.config.loop.memory_gb
            room = free * 1e9 if free else psutil.virtual_memory().available / state.worker.world + step.weights * 2
            stays = step.weights + step.average + step.moments + step.gradients + step.largest_gradient
            rows = step.most_rows(int(MARGIN * (room - stays)), share)
        rows = min(int(told) for told in state.worker.told(str(rows)))
        if rows < 1:
            raise OutOfMemory(
                f"out of memory: not one row of stage {self.name} fits: loop.checkpointing=true, loop.strategy=fsdp on "
                "several GPUs, a larger loop.memory_gb, or smaller stages.*.sizes; winnow train --dry-run tells by how much"
            )
        return rows

    def _outlines(self) -> Outlines:
        text, codec = self.models.encoder, self.models.codec
        found = Outlines.of(self.config)
        return Outlines(self.config, TextOutline(text.dim, found.tokens, 0), codec.channels, found.contexts)

    def _room(self, state: TrainingState) -> int:
        """Bytes that passes may reach on the GPU: less what the optimizer is yet to take."""
        free, _ = torch.cuda.mem_get_info(state.worker.device)
        held = torch.cuda.memory_allocated(state.worker.device)
        limit = free + torch.cuda.memory_reserved(state.worker.device)
        if self.config.loop.memory_gb:
            limit = min(limit, int(self.config.loop.memory_gb * 1e9))
        local = [p.to_local() if hasattr(p, "to_local") else p for p in state.parameters]
        moments = 0 if state.optimizer.state else 2 * sum(p.numel() * p.element_size() for p in local)
        return int(MARGIN * (limit - held - moments)) + held

    def _peak(self, state: TrainingState, outlines: Outlines, rows: int) -> int | None:
        """Bytes allocated at most in a pass of so many rows on some worker; None: one ran out."""
        frames, height, width = largest_shape(self.config, self.name)
        size, device = (height // outlines.factor, width // outlines.factor), state.worker.device
        torch.cuda.reset_peak_memory_stats(device)
        try:
            with torch.device(device):
                clean, noise = (torch.zeros(rows, frames, outlines.channels, *size) for _ in range(2))
                cond = {
                    key: torch.zeros_like(value) for key, value in outlines.cond(self.name, rows, frames, size).items()
                }
                sigma = torch.ones(rows)
            with gradients_stay_here(state.called):
                state.denoiser.loss(clean, noise, sigma, cond).sum().backward()
            peak = torch.cuda.max_memory_allocated(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            peak = -1
        state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        peaks = [int(told) for told in state.worker.told(str(peak))]
        return None if min(peaks) < 0 else max(peaks)


def largest(peak: Callable[[int], int | None], room: int, most: int) -> int:
    """The most rows, up to `most`, whose peak is within the room; 0: not one. peak(rows): bytes, or None: ran out.

    Rows are doubled while twice as many should still fit by what is known; then those that should fit at most are tried, so
    that it seldom runs out.
    """
    known: dict[int, int] = {}
    rows, too_many = 1, most + 1
    while rows < too_many:
        found = peak(rows)
        if found is None or found > room:
            too_many = rows
        else:
            known[rows] = found
        if not known:
            return 0
        best = max(known)
        if len(known) > 1:
            before = sorted(known)[-2]
            each = max(1, (known[best] - known[before]) // (best - before))
            fitting = best + (room - known[best]) // each
        else:
            fitting = 2 * best
        rows = min(2 * best, int(fitting), too_many - 1)
        if rows <= best:
            return best
    return max(known, default=0)
