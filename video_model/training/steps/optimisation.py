"""What a step does to the weights: which of them, at what rate, and their running average."""

from __future__ import annotations

import fnmatch
import math

import torch
from torch import Tensor, nn

from video_model.config import TrainingStage
from video_model.tensor_files import TensorFiles, piece_of
from video_model.training.steps.workers import read_like


class NothingToTrain(Exception):
    """A stage's `train` that matches no parameter. One line, with names that exist."""


def choose_trained(network: nn.Module, train: str | list[str]) -> list[str]:
    """Freeze what a stage does not train; the names of what it does.

    train: `all`, `temporal`, `time_embedding` (see networks.VideoNetwork), or patterns such as `down.*attention*`.
    """
    names = [name for name, _ in network.named_parameters()]
    if train == "all":
        chosen = set(names)
    elif train == "temporal":
        chosen = set(network.temporal_names())
    elif train == "time_embedding":
        chosen = set(network.time_embedding_names())
    else:
        chosen = {name for name in names for pattern in train if fnmatch.fnmatchcase(name, pattern)}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)
    if not chosen:
        raise NothingToTrain(f"train: {train} matches no parameter; there are for example {', '.join(names[:4])}")
    return [name for name in names if name in chosen]


def learning_rate(stage: TrainingStage, step: int) -> float:
    """At step 0, 1, ...: linear warm-up, then even, or a cosine to 1% at the last step."""
    rate = stage.lr * min(1.0, (step + 1) / max(stage.warmup, 1))
    if stage.decay == "cosine":
        done = max(0.0, (step - stage.warmup) / max(1, stage.steps - stage.warmup))
        rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return rate


def adamw(network: nn.Module, stage: TrainingStage) -> torch.optim.AdamW:
    """AdamW over what is trained; matrices and convolutions decay, biases, norms and blends do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr, betas=stage.betas)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Its state by parameter name, spread as the parameters are: `<parameter>.<exp_avg | exp_avg_sq | step>`."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        f"{names[id(parameter)]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, files: TensorFiles) -> None:
    """The inverse of `optimizer_tensors`: each worker reads what it holds."""
    parameters = dict(network.named_parameters())
    for key in files.shapes:
        name, _, what = key.rpartition(".")
        if name in parameters:
            optimizer.state[parameters[name]][what] = read_like(files, key, parameters[name])


class Average:
    """Exponential moving average of a network's weights, in a network of its own: `average.network`.

    After step n (from 0) the decay is min(decay, (1 + n) / (10 + n)), so that the start is forgotten.
    """

    def __init__(self, network: nn.Module, copy: nn.Module, decay: float) -> None:
        self.network = copy.requires_grad_(False).eval()
        self.decay = decay
        self._pairs = list(zip(copy.parameters(), network.parameters(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        kept, new = [piece_of(a) for a, _ in self._pairs], [piece_of(b) for _, b in self._pairs]
        torch._foreach_lerp_(kept, new, weight)
