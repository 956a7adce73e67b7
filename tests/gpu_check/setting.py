"""Where checks run, and the networks that they run with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.training import load_config
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.slots import Models
from video_model.training.build import build_conditioner
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.simulate import largest_shape
from video_model.training.steps.state import TrainingState
from video_model.workers import TrainingWorker

SIZES = {"video_large": (320, 576), "hq": (576, 1024)}  # the stages of svd.yaml that are measured
TINY = [
    "network.channels=[16]", "network.layers=1", "network.attention=[true]", "network.head_dim=8", "network.groups=4",
    *(f"stages.{name}.{key}" for name in SIZES for key in ("sizes=[[32,32]]", "frames=[2]")),
]  # fmt: skip
OUTER = ["network.channels=[320,640]", "network.layers=1", "network.attention=[true,true]"]  # svd's two outer levels


@dataclass(frozen=True)
class Setting:
    """device: cuda or cpu. small: everything as small as it can be. folder: for what is written."""

    device: str
    small: bool
    folder: Path

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def place(self) -> torch.device:
        return torch.device(self.device, 0) if self.gpu else torch.device("cpu")

    @property
    def worker(self) -> TrainingWorker:
        return TrainingWorker(0, 1, self.place)

    def svd(self, *overrides: str) -> TrainConfig:
        """svd.yaml on one device: all weights on it, one row at once; tiny, where all is small."""
        usual = ["loop.strategy=ddp", *(f"stages.{name}.micro_batch=1" for name in SIZES)]
        config = load_config("svd", [*usual, *overrides, *(TINY if self.small else [])])
        stages = {name: config.stages[name].model_copy(update={"after": None}) for name in SIZES}
        return config.model_copy(update={"stages": stages}).fitted(lambda column: np.linspace(0, 10, 101))

    def sync(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Any) -> float:
        self.sync()
        began = time.perf_counter()
        function()
        self.sync()
        return time.perf_counter() - began

    def reset_peak(self) -> None:
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def allocated(self) -> float:
        return float(torch.cuda.memory_allocated()) if self.gpu else 0.0

    def peak(self) -> tuple[float, float]:
        """Bytes of tensors at most, and of what the allocator took for them, since `reset_peak`; 0 on a CPU."""
        return (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if self.gpu else (0.0, 0.0)


def gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number else "-"


class Step:
    """A stage of a config with random weights, and steps of it on random rows, as `winnow train` takes them."""

    def __init__(self, setting: Setting, config: TrainConfig, name: str, worker: TrainingWorker | None = None) -> None:
        self.setting, self.config, self.name, self.stage = setting, config, name, config.stages[name]
        self.outlines = Outlines.of(config)
        torch.manual_seed(0)
        with setting.place:
            network = self.outlines.network(name).train()
            with torch.no_grad():
                for parameter in network.parameters():  # fresh layers are zeros, which would hide what is behind them
                    if not parameter.any() and not config.lora:
                        torch.nn.init.normal_(parameter, std=0.02)
        self.state = TrainingState(network, config.denoiser, self.stage, config.loop, worker or setting.worker)
        self.conditioner: Conditioner = build_conditioner(config, name, Models(None, None))
        self.done = 0

    def batch(self, rows: int, name: str | None = None) -> dict[str, Any]:
        """name: of the stage whose size they have."""
        frames, height, width = largest_shape(self.config, name or self.name)
        factor, draw = self.outlines.factor, torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw)

        return {
            "latents": drawn(rows, frames, self.outlines.channels, height // factor, width // factor),
            "text": drawn(rows, self.outlines.tokens, self.outlines.dim),
            "text_mask": torch.ones(rows, self.outlines.tokens, dtype=torch.bool),
            "fps": torch.full((rows,), 8.0),
            "motion": torch.ones(rows),
            "images": torch.zeros(rows, dtype=torch.bool),
        }

    def take(self, batch: dict[str, Any]) -> float:
        """A whole step; its loss. Raises ArithmeticError for one that is not finite."""
        loss, _ = self.state.gradients("gpu-check", self.conditioner, self.done, batch)
        norm = self.state.clip()
        self.state.update(self.done)
        self.done += 1
        value = float(loss.mean())
        if not (torch.isfinite(loss).all() and torch.isfinite(norm)):
            raise ArithmeticError(f"step {self.done}: the loss is {value}, the gradient's norm {float(norm)}")
        return value

    def timed(self, batch: dict[str, Any], steps: int = 3) -> tuple[float, float]:
        """Seconds of the first step, and the median of the others."""
        took = [self.setting.seconds(lambda: self.take(batch)) for _ in range(1 + steps)]
        return took[0], sorted(took[1:])[steps // 2]
