"""LoRA: a frozen network whose layers have a small trained addition to their weights (Hu et al. 2021).

    weight + alpha / rank * up @ down        up [out, rank], zeros when fresh; down [rank, in, *kernel]

A layer with LoRA is the layer it was, of a class in which `weight` is that sum: whatever reads a layer's weight, packs or
scales it (Attention.within, TimeConv), reads the sum. Its own tensors keep their names, beside `<layer>.lora.down` and
`<layer>.lora.up`. As weights are summed, rather than outputs, there is no dropout on a layer's input.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from curate.base.section import Section
from video_model.networks.layers import Attention

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # of layers that can have LoRA


class LoraSection(Section):
    """LoRA: the network of `start` stays as it is, and each stage trains a small addition to some of its layers. Checkpoints hold
    that addition alone."""

    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0, description="the addition is scaled by alpha / rank; unset: rank, so by 1")
    targets: list[str] = Field(
        ["attention"],
        min_length=1,
        description="layers: attention (queries, keys, values and outputs, over space and time), temporal (all that know "
        "time, convolutions too), or patterns of names, e.g. down.*.ff.up",
    )
    file: str | None = Field(
        None, description="LoRA in diffusers' layout to start from; rank, alpha and targets are then those of the file"
    )

    @model_validator(mode="after")
    def _from_file(self) -> LoraSection:
        fields = type(self).model_fields
        if self.file and any(getattr(self, name) != fields[name].default for name in ("rank", "alpha", "targets")):
            raise ValueError("lora.file: rank, alpha and targets are those of the file: leave them out")
        return self


class LoraShape(NamedTuple):
    """Of one layer's LoRA."""

    rank: int
    alpha: float


class LowRank(nn.Module):
    """The addition to one weight [out, in, *kernel]."""

    def __init__(self, weight: Tensor, shape: LoraShape):
        super().__init__()
        self.rank, self.alpha = shape
        self.down = nn.Parameter(weight.new_empty(self.rank, *weight.shape[1:]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], self.rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as a fresh linear layer has

    def plus(self, weight: Tensor) -> Tensor:
        added = (self.up @ self.down.flatten(1)).view(weight.shape)
        return weight + added * (self.alpha / self.rank)


class WithLora:
    """What a class of layers becomes with LoRA: its `weight` is the sum."""

    lora: LowRank
    _parameters: dict[str, Any]

    @property
    def weight(self) -> Tensor:
        return self.lora.plus(self._parameters["weight"])


def layers_for(network: nn.Module, targets: list[str]) -> list[str]:
    """Names of the layers that `targets` of a config means, in the network's order."""
    modules = dict(network.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, KINDS)]
    temporal = {name.rpartition(".")[0] for name in network.temporal_names()}

    def meant(name: str, target: str) -> bool:
        if target == "attention":
            return isinstance(modules[name.rpartition(".")[0]], Attention)
        return name in temporal if target == "temporal" else fnmatch.fnmatchcase(name, target)

    return [name for name in layers if any(meant(name, target) for target in targets)]


def add_lora(network: nn.Module, shapes: Mapping[str, LoraShape]) -> None:
    """Give layers LoRA that has no effect yet; all other tensors of the network are frozen. shapes: by name of the layer.

    Raises KeyError for a layer that the network does not have.
    """
    network.requires_grad_(False)
    modules = dict(network.named_modules())
    for name, shape in shapes.items():
        layer = modules[name]
        if not isinstance(layer, KINDS) or getattr(layer, "groups", 1) != 1:
            raise KeyError(f"{name}, which is no linear layer or convolution")
        layer.lora = LowRank(layer.weight, shape)
        # A subclass made here, as torch's own parametrisations do: names and types of the layer stay
        layer.__class__ = type(f"{type(layer).__name__}WithLora", (WithLora, type(layer)), {})


def lora_shapes(network: nn.Module) -> dict[str, LoraShape]:
    """The layers that have LoRA; {} for a network without."""
    return {
        name.removesuffix(".lora"): LoraShape(module.rank, module.alpha)
        for name, module in network.named_modules()
        if isinstance(module, LowRank)
    }


def kept_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What a checkpoint of a network holds, by name: all parameters, or its LoRA alone where it has some."""
    own = {f"{name}.lora.{part}" for name in lora_shapes(network) for part in ("down", "up")}
    return ((name, value) for name, value in network.named_parameters() if not own or name in own)


@torch.no_grad()
def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors with the additions in the weights, and named as without LoRA."""
    state, adapted = network.state_dict(), lora_shapes(network)
    for name in adapted:
        layer = network.get_submodule(name)
        state[f"{name}.weight"] = layer.weight.detach()
        del state[f"{name}.lora.down"], state[f"{name}.lora.up"]
    return state


def merge(network: nn.Module) -> nn.Module:
    """The same network, in which the additions are part of the weights and LoRA is gone."""
    if not (adapted := lora_shapes(network)):
        return network
    state = merged_state(network)
    for name in adapted:
        layer = network.get_submodule(name)
        layer.__class__ = type(layer).__mro__[2]
        del layer.lora
    network.load_state_dict(state)
    return network
