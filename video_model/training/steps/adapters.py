"""LoRA of a run: what it is added to, and what a checkpoint of it says of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from video_model.encoders.fingerprint import digest
from video_model.errors import RunError
from video_model.networks import NetworkSection
from video_model.networks.lora import LoraSection, LoraShape, add_lora, layers_for, lora_shapes
from video_model.public.formats import format_of
from video_model.public.lora import PublicLora


def chosen_lora(network: nn.Module, section: LoraSection, kind: NetworkSection) -> PublicLora:
    """What a config's `lora` means for a network: of a file; or of some of its layers, without tensors. Raises RunError,
    WeightsError."""
    if section.file:
        return format_of(kind).load_lora(section.file, network)
    names = layers_for(network, section.targets)
    if not names:
        known = layers_for(network, ["*"])
        raise RunError(
            f"lora.targets: {section.targets} matches no layer; there are for example {', '.join(known[:4])}"
        )
    shape = LoraShape(section.rank, section.alpha or section.rank)
    return PublicLora(dict.fromkeys(names, shape), {})


def add_chosen_lora(network: nn.Module, section: LoraSection, kind: NetworkSection, base: str) -> nn.Module:
    """The network of `base` with the LoRA that a run starts from."""
    found = chosen_lora(network, section, kind)
    _add(network, found.shapes, base)
    network.load_state_dict(found.tensors, strict=False)
    return network


def add_saved_lora(network: nn.Module, facts: Mapping[str, Any], base: str, what: str) -> nn.Module:
    """The network of `base` with LoRA shaped as a checkpoint's. what: the checkpoint. Raises RunError for another base."""
    said = facts.get("lora")
    if not said:
        raise RunError(f"{what}: holds no LoRA, but this run has `lora`: choose another --out")
    _add(network, {name: LoraShape(*shape) for name, shape in said["layers"].items()}, base)
    if problem := another_base(network, facts):
        raise RunError(f"{what}: {problem}")
    return network


def lora_facts(network: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of the LoRA that it holds; {} for a network without."""
    base = getattr(network, "lora_base", None)
    return {"lora": base | {"layers": lora_shapes(network)}} if base else {}


def another_base(network: nn.Module, facts: Mapping[str, Any]) -> str | None:
    """Why a checkpoint with these facts does not belong to a network: its LoRA was trained on other weights, or is none."""
    said, here = facts.get("lora"), getattr(network, "lora_base", None)
    if bool(said) != bool(here):
        return f"is {'' if said else 'not '}of a run with `lora`: choose another --out"
    if said and said["fingerprint"] != here["fingerprint"]:
        return (
            f"its LoRA was trained on {said['base']} ({said['fingerprint']}), and {here['base']} holds other weights "
            f"({here['fingerprint']}): name the former in start"
        )
    return None


def _add(network: nn.Module, shapes: Mapping[str, LoraShape], base: str) -> None:
    network.lora_base = {"base": base, "fingerprint": digest(network.state_dict())}
    add_lora(network, shapes)
