"""Configs of public UNets, to and from ours."""

import warnings
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from video_model.networks.unet_config import UNetConfig

IMAGE, VIDEO = "UNet2DConditionModel", "UNetSpatioTemporalConditionModel"
PUBLIC_VECTORS = ("fps", "motion", "augment")  # Stable Video Diffusion's numbers, in its order

# Settings of UNet2DConditionModel that we have one value for; a checkpoint with another is another network
_FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}


class WeightsError(ValueError):
    """A checkpoint that does not fit: the message names the tensor or the setting, and the fix."""


def config_from_diffusers(settings: dict[str, Any], source: Path) -> UNetConfig:
    """Our config for a config.json of diffusers. Raises WeightsError where that describes a network not known here."""
    try:
        return _config_from_diffusers(settings, source)
    except KeyError as error:
        raise WeightsError(f"{source}: config.json has no {error}: get the checkpoint again") from error


def config_to_diffusers(config: UNetConfig, frames: int) -> dict[str, Any]:
    """The config.json that makes diffusers build this network."""
    kind = VIDEO if config.temporal else IMAGE
    suffix = "SpatioTemporal" if config.temporal else "2D"
    wanted = {
        "context_dim": config.context_dim is not None,
        "middle_attention": config.middle_attention,
        "ff_multiple": config.ff_multiple == 4,
        "pooled_text": not config.pooled_text,
    }
    fix = "train a network of the default"
    if config.temporal:
        wanted["frame_index"] = not config.frame_index
        wanted["norm_groups"] = config.norm_groups == 32
        wanted["up_transformer_layers"] = config.up_transformer_layers is None
        wanted["conv_mixing"] = config.conv_mixing in ("alpha", "residual")
        wanted["attention_mixing"] = config.attention_mixing in ("alpha", "residual")
        wanted["vectors"] = set(config.vectors) <= set(PUBLIC_VECTORS)
    else:
        wanted["vectors"] = not config.vectors
    for name, fits in wanted.items():
        if not fits:
            raise WeightsError(
                f"diffusers' {kind} has no {name} {getattr(config, name)!r}: {fix}, or keep our own format"
            )
    if config.epsilon != ("svd" if config.temporal else "sd"):
        warnings.warn(
            f"diffusers' {kind} adds another epsilon in some group norms than this network (epsilon={config.epsilon!r}): "
            "its results differ by about 1e-5",
            stacklevel=3,
        )
    down = [f"{'CrossAttn' if on else ''}DownBlock{suffix}" for on in config.attention]
    up = [f"{'CrossAttn' if on else ''}UpBlock{suffix}" for on in reversed(config.attention)]
    settings = {
        "_class_name": kind,
        "_diffusers_version": "0.32.0",
        "sample_size": None,
        "in_channels": config.in_channels + config.concat_channels,
        "out_channels": config.out_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(config.channels),
        "layers_per_block": _one_or_list(config.layers),
        "cross_attention_dim": config.context_dim,
        "transformer_layers_per_block": _one_or_list(config.transformer_layers),
    }
    if config.up_transformer_layers:
        settings["transformer_layers_per_block"] = list(config.transformer_layers)
        settings["reverse_transformer_layers_per_block"] = list(config.up_transformer_layers[::-1])
    if config.temporal:
        settings["num_attention_heads"] = list(config.heads)
        settings["addition_time_embed_dim"] = config.vector_width
        settings["projection_class_embeddings_input_dim"] = 3 * config.vector_width
        settings["num_frames"] = frames
    else:
        settings["attention_head_dim"] = _one_or_list(config.heads)
        settings["norm_num_groups"] = config.norm_groups
        settings["use_linear_projection"] = config.linear_projection
    return settings


def config_from_tensors(tensors: dict[str, Tensor], heads: int | tuple[int, ...] | None, source: Path) -> UNetConfig:
    """Our config for the tensors of an original file, from their shapes; heads by convention if not given."""
    try:
        inputs, out = tensors["input_blocks.0.0.weight"].shape[1], tensors["out.2.weight"].shape[0]
    except KeyError as error:
        raise WeightsError(
            f"{source}: {error.args[0]} is missing: is this the UNet of an original checkpoint?"
        ) from error
    channels, layers, attention, depths = [], [0], [False], [1]
    for block in range(1, 1 + sum(1 for name in tensors if _is_input(name))):
        if f"input_blocks.{block}.0.op.weight" in tensors:
            layers.append(0), attention.append(False), depths.append(1)
            continue
        layers[-1] += 1
        channels[len(layers) - 1 :] = [tensors[f"input_blocks.{block}.0.out_layers.3.weight"].shape[0]]
        inner = f"input_blocks.{block}.1.transformer_blocks."
        attention[-1] = f"{inner}0.norm1.weight" in tensors
        depths[-1] = max(1, _depth(tensors, inner))
    if not attention[-1]:  # a depth of its own would have no place; the middle's is told by the last level
        depths[-1] = max(1, _depth(tensors, "middle_block.1.transformer_blocks."))
    context = tensors["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    temporal = any(".time_stack." in name for name in tensors)
    if heads is None:  # 1.x: 8 heads everywhere; 2.x and video: 64 channels a head
        heads = (8,) if context < 1024 else tuple(max(1, count // 64) for count in channels)
    label = tensors.get("label_emb.0.0.weight")
    if label is not None and label.shape[1] % 3:
        raise WeightsError(
            f"{source}: label_emb.0.0.weight {list(label.shape)} must embed three numbers: use another checkpoint"
        )
    return UNetConfig(
        in_channels=min(inputs, out),
        out_channels=out,
        concat_channels=max(inputs - out, 0),
        channels=channels,
        layers=layers,
        attention=attention,
        heads=heads,
        transformer_layers=depths,
        context_dim=context,
        norm_groups=32,
        epsilon="sd",  # as in the original code, where all are 1e-5
        vectors=() if label is None else PUBLIC_VECTORS,
        vector_width=256 if label is None else label.shape[1] // 3,
        temporal=temporal,
        linear_projection=tensors["middle_block.1.proj_in.weight"].ndim == 2,
    )


def _config_from_diffusers(settings: dict[str, Any], source: Path) -> UNetConfig:
    kind = settings.get("_class_name")
    if kind not in (IMAGE, VIDEO):
        raise WeightsError(f"{source}: config.json is that of a {kind}: give a {IMAGE} or a {VIDEO}")
    temporal = kind == VIDEO
    if not temporal:
        for name, value in _FIXED.items():
            if settings.get(name, value) != value:
                raise WeightsError(
                    f"{source}: {name} is {settings[name]!r}, and only {value!r} is known here: use another checkpoint"
                )
    down = settings["down_block_types"]
    attention = tuple(name.startswith("CrossAttn") for name in down)
    if tuple(name.startswith("CrossAttn") for name in settings["up_block_types"]) != attention[::-1]:
        raise WeightsError(f"{source}: up_block_types must mirror down_block_types {down}: use another checkpoint")
    context = settings["cross_attention_dim"]
    if isinstance(context, (list, tuple)):
        if len(set(context)) > 1:
            raise WeightsError(f"{source}: cross_attention_dim {context} differs by level, and only one is known here")
        context = context[0]
    depths, up = settings.get("transformer_layers_per_block", 1), settings.get("reverse_transformer_layers_per_block")
    for name, found in (("transformer_layers_per_block", depths), ("reverse_transformer_layers_per_block", up)):
        if isinstance(found, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in found):
            raise WeightsError(
                f"{source}: {name} {found} differs within a level, and only one depth a level is known here: use another checkpoint"
            )
    # In image UNets attention_head_dim is, by a misnomer that was kept, the number of heads
    heads = settings.get("num_attention_heads") if temporal else settings.get("attention_head_dim", 8)
    inputs, out = settings["in_channels"], settings["out_channels"]
    vectors: tuple[str, ...] = ()
    if temporal:
        count = settings["projection_class_embeddings_input_dim"] // settings["addition_time_embed_dim"]
        vectors = PUBLIC_VECTORS if count == 3 else tuple(f"vector{i}" for i in range(count))
    try:
        return UNetConfig(
            in_channels=min(inputs, out),
            out_channels=out,
            concat_channels=max(inputs - out, 0),
            channels=settings["block_out_channels"],
            layers=settings.get("layers_per_block", 2),
            attention=attention,
            heads=heads,
            transformer_layers=depths,
            up_transformer_layers=None if temporal or up is None else up[::-1],
            context_dim=context,
            norm_groups=settings.get("norm_num_groups", 32),
            epsilon="svd" if temporal else "sd",
            vectors=vectors,
            vector_width=settings.get("addition_time_embed_dim") or 256,
            temporal=temporal,
            linear_projection=temporal or settings.get("use_linear_projection", False),
        )
    except ValidationError as error:
        raise WeightsError(f"{source}: config.json does not describe a network known here: {error}") from error


def _depth(tensors: dict[str, Tensor], blocks: str) -> int:
    return sum(name.startswith(blocks) and name.endswith(".norm1.weight") for name in tensors)


def _is_input(name: str) -> bool:
    return name.startswith("input_blocks.") and name.endswith((".0.op.weight", ".0.out_layers.3.weight"))


def _one_or_list(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)
