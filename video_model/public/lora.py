"""LoRA in and out, in the layout of diffusers and peft: one file of safetensors, with rank and alpha in its metadata.

    unet.<diffusers' name of a layer>.lora_A.weight [rank, in, *kernel]     lora_B.weight [out, rank, *ones]

In: that, and the older `unet.<layer>.lora.down.weight` and `lora.up.weight`; where no metadata say otherwise, alpha is rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from video_model.networks.lora import KINDS, LoraShape, lora_shapes
from video_model.networks.mixers.convolution import TimeConv
from video_model.networks.unet import SpaceTimeUNet
from video_model.public.configs import WeightsError
from video_model.public.names import diffusers_name

NAME = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
PREFIX = "unet."
_SUFFIXES = {".lora_A.weight": "down", ".lora.down.weight": "down", ".lora_B.weight": "up", ".lora.up.weight": "up"}
_UNLIKE = ("conv_in", "concat_in", "vector_embedding.0")  # layers that the public network has in another form


class PublicLora(NamedTuple):
    """By name of our layers: its shape; and the tensors `<layer>.lora.down`, `<layer>.lora.up` as our network has them."""

    shapes: dict[str, LoraShape]
    tensors: dict[str, Tensor]


def export_lora(network: SpaceTimeUNet, folder: str | Path) -> Path:
    """Writes FOLDER/pytorch_lora_weights.safetensors; the file. Raises WeightsError where diffusers has no such layer."""
    shapes = lora_shapes(network)
    if not shapes:
        raise WeightsError("this network has no LoRA: leave --lora out")
    tensors, public = {}, {}
    for name in shapes:
        theirs = public[name] = _public_layer(name, network)
        layer = network.get_submodule(name)
        ones = (1,) * (_dimensions(layer, name, network) - 2)
        down, up = layer.lora.down.detach().cpu(), layer.lora.up.detach().cpu()
        kernel = tuple(down.shape[2:]) + (1,) * (len(ones) - (down.ndim - 2))
        tensors[f"{PREFIX}{theirs}.lora_A.weight"] = down.reshape(*down.shape[:2], *kernel).contiguous()
        tensors[f"{PREFIX}{theirs}.lora_B.weight"] = up.reshape(*up.shape, *ones).contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {f"{PREFIX}{key}": value for key, value in _settings(shapes, public).items()}
    metadata = {"format": "pt", METADATA: json.dumps(settings, indent=2, sort_keys=True)}
    save_file(tensors, folder / NAME, metadata=metadata)
    return folder / NAME


def import_lora(source: str | Path, network: SpaceTimeUNet) -> PublicLora:
    """The LoRA of a file, or of a folder that holds one, for a network that it fits. Raises WeightsError, which names the tensor."""
    file = Path(source) / NAME if Path(source).is_dir() else Path(source)
    try:
        with safe_open(file, "pt") as content:
            found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            settings = json.loads((content.metadata() or {}).get(METADATA, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors ({error}): get it again, or convert it") from None
    settings = {key.removeprefix(PREFIX): value for key, value in settings.items() if key.startswith(PREFIX)}
    for option in ("use_dora", "lora_bias", "use_rslora"):
        if settings.get(option):
            raise WeightsError(f"{file}: was made with {option}, which is not known here: use another file")
    ours = _layers_by_public_name(network)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in found.items():
        suffix = next((suffix for suffix in _SUFFIXES if key.endswith(suffix)), None)
        layer = ours.get(key.removeprefix(PREFIX).removesuffix(suffix)) if suffix and key.startswith(PREFIX) else None
        if layer is None:
            raise WeightsError(
                f"{file}: {key} has no place in this network (names are {PREFIX}<layer>.lora_A.weight and lora_B.weight, of "
                "diffusers' layers): is it a LoRA of another model?"
            )
        pairs.setdefault(layer, {})[_SUFFIXES[suffix]] = tensor
    if not pairs:
        raise WeightsError(f"{file}: holds no LoRA: give {NAME} as diffusers writes it")
    shapes, tensors = {}, {}
    for layer, pair in pairs.items():
        weight = dict(network.get_submodule(layer).named_parameters(recurse=False))["weight"]
        down, up = _fitting(pair, layer, weight, file)
        shapes[layer] = LoraShape(len(down), _alpha(settings, _public_layer(layer, network), len(down)))
        tensors |= {f"{layer}.lora.down": down, f"{layer}.lora.up": up}
    return PublicLora({layer: shapes[layer] for layer in ours.values() if layer in shapes}, tensors)


def _fitting(pair: Mapping[str, Tensor], layer: str, weight: Tensor, file: Path) -> tuple[Tensor, Tensor]:
    """down [rank, in, *kernel] and up [out, rank] as ours are shaped."""
    if len(pair) < 2:
        raise WeightsError(f"{file}: {layer} has no {'lora_B' if 'down' in pair else 'lora_A'}: get the file again")
    down, up = pair["down"].float(), pair["up"].float()
    rank = len(down)
    if down.numel() != rank * weight[0].numel() or up.numel() != len(weight) * rank:
        raise WeightsError(
            f"{file}: {layer} has LoRA {list(up.shape)} x {list(down.shape)}, and its weight is {list(weight.shape)}: is it a "
            "LoRA of another model?"
        )
    return down.reshape(rank, *weight.shape[1:]), up.reshape(len(weight), rank)


def _public_layer(name: str, network: SpaceTimeUNet) -> str:
    appended = network.config.concat_channels or network.config.vectors
    try:
        if name in _UNLIKE and appended:
            raise KeyError(name)
        return diffusers_name(f"{name}.weight", network.config).removesuffix(".weight")
    except KeyError:
        raise WeightsError(
            f"{name}: diffusers has this layer in another form, so its LoRA has no public layout: export the merged network "
            "(without --lora), or leave it out of lora.targets"
        ) from None


def _layers_by_public_name(network: SpaceTimeUNet) -> dict[str, str]:
    """diffusers' name of each layer that can have public LoRA -> ours."""
    found = {}
    for name, layer in network.named_modules():
        if isinstance(layer, KINDS):
            try:
                found[_public_layer(name, network)] = name
            except WeightsError:
                continue
    return found


def _dimensions(layer: nn.Module, name: str, network: SpaceTimeUNet) -> int:
    """Of the public layer's weight: convolutions over time are three-dimensional there, and some projections are 1x1 ones."""
    if isinstance(layer, TimeConv):
        return 5
    convolution = not network.config.temporal and not network.config.linear_projection
    return 4 if convolution and re.search(r"\.attention\.proj_(in|out)$", name) else layer.lora.down.ndim


def _settings(shapes: Mapping[str, LoraShape], public: Mapping[str, str]) -> dict[str, Any]:
    """What peft's LoraConfig is made of. Those of one layer are the rule, the others are named."""
    rule = next(iter(shapes.values()))
    return {
        "peft_type": "LORA",
        "r": rule.rank,
        "lora_alpha": rule.alpha,
        "rank_pattern": {public[name]: shape.rank for name, shape in shapes.items() if shape.rank != rule.rank},
        "alpha_pattern": {public[name]: shape.alpha for name, shape in shapes.items() if shape.alpha != rule.alpha},
        "target_modules": [public[name] for name in shapes],
        "lora_dropout": 0.0,
        "lora_bias": False,
        "use_dora": False,
        "use_rslora": False,
    }


def _alpha(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """As peft looks it up: a pattern matches the end of a name."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return float(alpha)
    return float(settings.get("lora_alpha", rank))
