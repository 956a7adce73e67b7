"""Whether the stages of a config fit a machine, and what they take: memory of one GPU by part, time, disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from video_model.config import TrainConfig, rates_of
from video_model.precision import DTYPES, frozen_dtype
from video_model.training.planning.cards import Machine
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.simulate import SimulatedStep, largest_shape, simulate_samples

CUDA_CONTEXT = 1.2e9  # driver, kernels of torch and cuDNN, cuBLAS and NCCL buffers
CPU_LIBRARIES = 60e6  # code that oneDNN makes, its buffers and MKL's: measured, see tests/benchmarks/memory.py
FRAGMENTS = {"cuda": 0.06, "cpu": 0.08}  # of the activations, which an allocator holds without using
CLIP_SECONDS = 10  # of the clip that latents on disk are told for


@dataclass(frozen=True)
class StagePlan:
    """memory: part -> bytes on one worker. peak: their sum at the worst moment, with its name. seconds: of a step.

    most_rows: the largest micro_batch that fits; 0: none does. fixes: changes that make it fit, or that give room.
    """

    name: str
    shape: tuple[int, int, int]
    parameters: int
    trained: int
    rows: int
    parts: int
    memory: dict[str, float]
    samples: float
    peak: float
    moment: str
    room: float
    most_rows: int
    flops: float
    seconds: float
    steps: int
    fixes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.peak <= self.room


@dataclass(frozen=True)
class Plan:
    machine: Machine
    mfu: float
    assumed: list[str]
    stages: list[StagePlan]
    latents: dict[str, float]  # size -> bytes of a clip of CLIP_SECONDS
    texts: float  # bytes of a caption's states

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        stages = [asdict(stage) | {"fits": stage.fits} for stage in self.stages]
        return asdict(self) | {"stages": stages, "fits": self.fits}


def plan(
    config: TrainConfig, machine: Machine, mfu: float = 0.4, report: Callable[[str, int, int], None] = lambda *_: None
) -> Plan:
    """Nothing is read or trained; a few seconds a stage. mfu: the share of the machine's peak that training reaches."""
    outlines = Outlines.of(config)
    stages = []
    for i, name in enumerate(config.stages):
        report(f"planning stage {name}", i, len(config.stages))
        stages.append(_Planner(config, name, outlines, machine, mfu).plan())
    return Plan(machine, mfu, outlines.assumed, stages, *on_disk(config, outlines))


def on_disk(config: TrainConfig, outlines: Outlines) -> tuple[dict[str, float], float]:
    """Bytes of the latents of a clip by size, and of the states of a caption, as the cache keeps them."""
    rates = [rates_of(stage)[0] for stage in config.stages.values() if stage.temporal]
    width = DTYPES[config.data.cache_dtype].itemsize
    frames = min(config.data.frames_per_clip, math.ceil(CLIP_SECONDS * max(rates))) if rates else 1
    found = {}
    for stage in config.stages.values():
        for height, wide in stage.sizes:
            latent = outlines.channels * (height // outlines.factor) * (wide // outlines.factor)
            found[f"{height}x{wide}"] = float(latent * frames * width)
    return found, float(outlines.tokens * outlines.dim * width)


class _Planner:
    """One stage on one machine."""

    def __init__(self, config: TrainConfig, name: str, outlines: Outlines, machine: Machine, mfu: float) -> None:
        self.config, self.name, self.outlines, self.machine, self.mfu = config, name, outlines, machine, mfu
        self.stage, self.loop = config.stages[name], config.loop
        self.spread = self.loop.strategy == "fsdp" and machine.workers > 1
        self.step = SimulatedStep(config, name, outlines, machine.kind, self.spread)
        self.share = max(1, self.stage.batch // machine.workers)  # rows of one worker

    def plan(self) -> StagePlan:
        rows, parts = self.rows()
        memory = self.memory(rows, parts)
        stays = {key: value for key, value in memory.items() if key not in ("activations", "optimizer's step")}
        samples = simulate_samples(self.config, self.name, self.outlines, self.machine.kind) * self.slack
        without = sum(stays.values()) - stays["gradients"] - stays.get("codec and encoders", 0)
        moments = {
            "forward and backward": sum(stays.values()) + memory["activations"],
            "optimizer's step": sum(stays.values()) + memory["optimizer's step"],
            "samples": without + samples,
        }
        moment = max(moments, key=lambda key: moments[key])
        room = self.machine.gb * 1e9
        most = self.step.most_rows(int((room - sum(self.memory(0, 2).values())) / self.slack), self.share)
        flops = self.flops()
        return StagePlan(
            name=self.name, shape=largest_shape(self.config, self.name), parameters=self.step.parameters,
            trained=self.step.trained, rows=rows, parts=parts, memory=memory, samples=samples, peak=moments[moment],
            moment=moment, room=room, most_rows=most, flops=flops, steps=self.stage.steps,
            seconds=flops / self.machine.workers / (self.machine.tflops * 1e12 * self.mfu),
            fixes=self.fixes(moments[moment] > room, moment, rows, most),
        )  # fmt: skip

    @property
    def slack(self) -> float:
        return 1 + FRAGMENTS[self.machine.kind]

    def rows(self) -> tuple[int, int]:
        """Rows of a forward pass, and how many passes a worker's share of a batch takes."""
        micro = self.stage.micro_batch
        if micro == "probe":
            room = self.machine.gb * 1e9 - sum(self.memory(0, 2).values())
            micro = max(1, self.step.most_rows(int(0.9 * room / self.slack), self.share))
        parts = max(min(self.stage.accumulate, self.share), math.ceil(self.share / micro) if micro else 1)
        return math.ceil(self.share / parts), parts

    def memory(self, rows: int, parts: int) -> dict[str, float]:
        step, workers = self.step, self.machine.workers if self.spread else 1
        low = DTYPES[self.loop.precision].itemsize
        gradients = step.gradients / workers
        if self.spread and parts > 1:
            gradients += step.gradients  # which stay whole, in float32, until the last part
        elif parts > 1:
            gradients += step.largest_gradient
        found = {
            "weights": step.weights / workers,
            "gradients": gradients,
            "moments": step.moments / workers,
            "average (EMA)": self.average() / workers,
            "codec and encoders": self.frozen(),
        }
        if self.spread:  # the block that is worked on, the next one, and the gradient of one as it is summed
            found["gathered blocks"] = (step.root + 2 * step.block) * low + 2 * step.block * 4
        found["libraries"] = CPU_LIBRARIES if self.machine.kind == "cpu" else CUDA_CONTEXT
        found["activations"] = step.activations(rows) * self.slack if rows else 0.0
        found["optimizer's step"] = step.update / workers if rows else 0.0
        return found

    def average(self) -> int:
        """Spread weights are copied whole, frozen ones too."""
        if self.stage.ema_device == "cpu" and self.machine.kind == "cuda":
            return 0
        return self.step.weights if self.spread else self.step.average

    def frozen(self) -> float:
        """Weights of the codec and of what slots bring; the text encoder's too, where latents are made as they are needed."""
        dtype = frozen_dtype(self.loop.frozen_precision, torch.device(self.machine.kind))
        text = 0 if self.config.data.cache and self.machine.kind == "cuda" else self.outlines.text.parameters
        others = sum(slot.frozen_parameters for slot in self.config.slots_of(self.name))
        return self.outlines.codec_bytes(dtype) + (text + others) * dtype.itemsize

    def flops(self) -> float:
        """Of a step over all workers; an image counts as a frame of a clip."""
        frames = self.step.flops * self.stage.batch
        still = self.step.flops / max(self.stage.frames) * (self.stage.image_batch or self.stage.batch)
        return (1 - self.stage.images) * frames + self.stage.images * still

    def fixes(self, short: bool, moment: str, rows: int, most: int) -> list[str]:
        """Keys that make the stage fit, or that would use the room it leaves."""
        key = f"stages.{self.name}.micro_batch"
        if not short:
            more = most >= 2 * rows and f"{key}={most} would fit as well, in fewer passes"
            return [more] if more else []
        if moment == "samples":
            return ["samples.count, samples.frames or samples.prompts fewer"]
        if most:
            return [f"{key}={most}"]
        found = []
        for change in self._changes():
            config = self.config.model_copy(update={"loop": self.loop.model_copy(update=change)})
            other = _Planner(config, self.name, self.outlines, self.machine, self.mfu)
            room = (self.machine.gb * 1e9 - sum(other.memory(0, 2).values())) / other.slack
            if fitting := other.step.most_rows(int(room), other.share):
                found.append(
                    " and ".join(f"loop.{k}={str(v).lower()}" for k, v in change.items()) + f", {key}={fitting}"
                )
                break
        return found or ["a larger GPU, smaller sizes or fewer frames, or train less (stages.train)"]

    def _changes(self) -> list[dict[str, Any]]:
        kept = {"checkpointing": True} if not self.loop.checkpointing else {}
        spread = {"strategy": "fsdp"} if self.machine.workers > 1 and self.loop.strategy != "fsdp" else {}
        low = {"precision": "bfloat16"} if self.loop.precision == "float32" else {}
        options = [kept, spread, kept | spread, kept | spread | low]
        return [option for i, option in enumerate(options) if option and option not in options[:i]]
