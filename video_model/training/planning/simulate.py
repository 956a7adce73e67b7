"""A step of training and a drawing of samples, run with tensors that have no numbers: what memory and work they take.

The run's own TrainingState, network and sampler are called, so what they do is what is counted. The tensors are on the meta
device, where DeviceRules make up for what a GPU or a CPU does otherwise.
"""

from __future__ import annotations

import torch

from video_model.codecs import placed
from video_model.config import TrainConfig
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.guidance import guided
from video_model.optimizers import AdamW
from video_model.precision import DTYPES, frozen_dtype
from video_model.training.planning.ledger import Ledger, bytes_of
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.rules import DeviceRules
from video_model.training.sampler import default_request
from video_model.training.steps.state import TrainingState
from video_model.workers import TrainingWorker

META = torch.device("meta")


def largest_shape(config: TrainConfig, name: str) -> tuple[int, int, int]:
    """Frames, height and width in px of a stage's largest window."""
    stage = config.stages[name]
    height, width = max(stage.sizes, key=lambda size: size[0] * size[1])
    return max(stage.frames), height, width


class SimulatedStep:
    """What a step of a stage takes of one worker that has everything on it: bytes, counts, operations.

    parameters, trained: counts. weights, average, moments, gradients: what stays. largest_gradient: of one parameter. update:
    most that the optimizer's step needs beside all these. flops: of a row, recomputation and all. root, block: parameters
    outside of the blocks that FSDP gathers, and of the largest of those. kind: of device, cuda or cpu. gathered: fsdp, whose
    weights come in the low precision, and are not cast.
    """

    def __init__(self, config: TrainConfig, name: str, outlines: Outlines, kind: str, gathered: bool = False) -> None:
        stage, self._given = config.stages[name], (config, name, outlines)
        low = DTYPES[config.loop.precision] if config.loop.precision != "float32" else None
        eight_bits = stage.optimizer.kind == "adamw_8bit"  # whose kernels, as fused ones, are for real GPUs alone
        one_kernel = eight_bits or getattr(stage.optimizer, "fused", False)
        stage = stage.model_copy(update={"optimizer": AdamW()}) if one_kernel else stage
        loop = config.loop.model_copy(
            update={"compile": False, "precision": "float32"}
        )  # DeviceRules do as autocast does
        self._ledger, self._passes = Ledger(), dict[int, int]()
        with META, self._ledger as ledger:
            network = outlines.network(name).train()
            self._state = state = TrainingState(network, config.denoiser, stage, loop, TrainingWorker(device=META))
            self.weights = bytes_of(state.network.parameters())
            begun = ledger.now
            self.average = 0 if stage.ema_device == "cpu" and kind != "cpu" else begun - self.weights
            if kind != "cpu":
                _all_at_once(state)
            sizes = [bytes_of([parameter]) for parameter in state.parameters]
            _update(state, 0, ledger)
            self.moments = ledger.now - begun
            self.update = _update(state, 1, ledger)
            if one_kernel:
                self.moments, self.update = self.moments // (4 if eight_bits else 1), 0
            self.gradients, self.largest_gradient = sum(sizes), max(sizes, default=0)
            DeviceRules(kind, low).apply(state.network)
            if gathered and low:
                state.network.to(low)
        self.trained = sum(p.numel() for p in state.parameters)
        self.parameters = sum(p.numel() for p in state.network.parameters())
        blocks = [m for m in state.network.modules() if isinstance(m, getattr(state.network, "blocks", ()))]
        counts = [sum(p.numel() for p in block.parameters()) for block in blocks]
        self.root, self.block = self.parameters - sum(counts), max(counts, default=0)
        self.activations(1)
        self.flops = ledger.flops

    def activations(self, rows: int) -> int:
        """Most bytes of a forward and backward pass of some rows, beside what stays."""
        if rows not in self._passes:
            with META, self._ledger as ledger:
                self._passes[rows] = _pass(self._state, self._given, rows, ledger)
        return self._passes[rows]

    def most_rows(self, room: int, most: int) -> int:
        """The most rows whose activations fit into so many bytes, up to `most`; 0: not one. Found by a few passes."""
        if self.activations(1) > room:
            return 0
        low, high = 1, most + 1  # fits; does not, or is not wanted
        while high - low > 1:
            if high in self._passes:  # between the two: the more rows, the more each takes, so this is seldom too many
                taken = self._passes[low], self._passes[high]
                guess = low + (room - taken[0]) * (high - low) // (taken[1] - taken[0])
            else:
                guess = 2 if low == 1 else most
                before = [rows for rows in self._passes if rows < low]
                if before and (each := (self._passes[low] - self._passes[max(before)]) // (low - max(before))) > 0:
                    guess = low + (room - self._passes[low]) // each
            guess = min(max(guess, low + 1), high - 1)
            low, high = (guess, high) if self.activations(guess) <= room else (low, guess)
        return low


def simulate_samples(config: TrainConfig, name: str, outlines: Outlines, kind: str) -> int:
    """Bytes that drawing the samples of a stage takes at its peak, beside the network's weights; the codec's are among them."""
    count = len(config.samples.prompts) or config.samples.count
    request = default_request(config, name, ["a"] * count)
    low = DTYPES[config.loop.precision] if config.loop.precision != "float32" else None
    height, width = (side // outlines.factor for side in request.size)
    with META, torch.no_grad(), Ledger() as ledger:
        network = outlines.network(name).eval().requires_grad_(False)
        before = ledger.now
        codec = placed(outlines.codec(), META, frozen_dtype(config.loop.frozen_precision, torch.device(kind)))
        DeviceRules(kind, low).apply(network)
        first = ledger.mark()
        cond, null = (outlines.cond(name, count, request.frames, (height, width)) for _ in range(2))
        x = torch.empty(count, request.frames, outlines.channels, height, width)
        scale = request.guidance if set(request.guidance) != {1.0} else None
        denoise = guided(Denoiser(network, config.denoiser), cond, null if scale else None, 2.0 if scale else 1.0)
        sampler = next(one for one in config.parts.samplers if one.__name__ == request.sampler)
        x = sampler(denoise, x, [1.0, 0.5, 0.0])
        DeviceRules(kind, None).within(codec.decode)(x)
        return ledger.peak(first, ledger.mark()) - before


def _pass(state: TrainingState, given: tuple[TrainConfig, str, Outlines], rows: int, ledger: Ledger) -> int:
    """Forward and backward of some rows of a stage's largest window; the most that it takes beside what is there and the
    gradients that it leaves."""
    config, name, outlines = given
    frames, height, width = largest_shape(config, name)
    size = height // outlines.factor, width // outlines.factor
    state.optimizer.zero_grad(set_to_none=True)
    first, held = ledger.mark(), ledger.now
    clean, noise = (torch.empty(rows, frames, outlines.channels, *size) for _ in range(2))
    cond = outlines.cond(name, rows, frames, size)
    loss = state.denoiser.loss(clean, noise, torch.empty(rows), cond)
    (loss.sum() / rows).backward()
    left = ledger.of(p.grad for p in state.network.parameters() if p.grad is not None)
    return ledger.peak(first, ledger.mark(), left) - held


def _all_at_once(state: TrainingState) -> None:
    """As on a GPU, where all parameters are updated together."""
    for group in state.optimizer.param_groups:
        if group.get("foreach") is None and not group.get("fused"):
            group["foreach"] = True


def _update(state: TrainingState, step: int, ledger: Ledger) -> int:
    """The optimizer's step; the most that it takes beside what is there and the gradients."""
    for parameter in state.parameters:
        parameter.grad = torch.empty_like(parameter)
    first, held = ledger.mark(), ledger.now
    state.clip()
    state.update(step)
    return max(0, ledger.peak(first, ledger.mark()) - held)
