"""What a step does to the weights: which of them, at what rate, and with which optimiser."""

from __future__ import annotations

import fnmatch
import math

import torch
from torch import Tensor, nn

from video_model.config import TrainingStage
from video_model.networks.lora import kept_parameters, lora_shapes
from video_model.tensor_files import TensorFiles
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
    if lora_shapes(network):  # the rest is frozen whatever a stage trains
        chosen &= {name for name, _ in kept_parameters(network)}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)
    if not chosen:
        names = [name for name, _ in kept_parameters(network)]
        raise NothingToTrain(f"train: {train} matches no parameter; there are for example {', '.join(names[:4])}")
    return [name for name in names if name in chosen]


def learning_rate(stage: TrainingStage, step: int) -> float:
    """At step 0, 1, ...: linear warm-up, then even, or falling to `decay_to` of it at the last step.

    cosine, linear: from the end of the warm-up on. wsd (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395): even until
    the last `decay_share` of the steps, in which it falls linearly.
    """
    rate = stage.lr * min(1.0, (step + 1) / max(stage.warmup, 1))
    if stage.decay == "none":
        return rate
    first = max(stage.warmup, stage.steps * (1 - stage.decay_share)) if stage.decay == "wsd" else stage.warmup
    done = min(1.0, max(0.0, (step - first) / max(1, stage.steps - first)))
    left = (1 + math.cos(math.pi * done)) / 2 if stage.decay == "cosine" else 1 - done
    return rate * (stage.decay_to + (1 - stage.decay_to) * left)


def make_optimizer(network: nn.Module, stage: TrainingStage) -> torch.optim.Optimizer:
    """The stage's optimiser over what is trained; matrices and convolutions decay, biases, norms and blends do not."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return stage.optimizer.make([g for g in groups if g["params"]], stage.lr, stage.betas)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Its state by parameter name, spread as the parameters are: `<parameter>.<exp_avg | exp_avg_sq | step>` of AdamW.

    Tensors of any type and shape, and whole numbers.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        f"{names[id(parameter)]}.{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, files: TensorFiles) -> None:
    """The inverse of `optimizer_tensors`: each worker reads what it holds. A step counter is where its optimiser has it."""
    parameters = dict(network.named_parameters())
    beside = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for key in files.shapes:
        name, _, what = key.rpartition(".")
        if name in parameters:
            value = read_like(files, key, parameters[name])
            if value.ndim or beside:
                value = value.to(parameters[name].device)
            elif not value.is_floating_point():
                value = value.item()
            optimizer.state[parameters[name]][what] = value
