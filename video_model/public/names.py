"""Names of our tensors in public checkpoints: tables of rules, our name in, the public name out.

`diffusers_name` is the layout of diffusers' UNet2DConditionModel and UNetSpatioTemporalConditionModel, `original_name`
that of the files Stable Diffusion 1.x, 2.x and Stable Video Diffusion were released as (`model.diffusion_model.*`).
"""

import re

from video_model.networks.unet_config import UNetConfig

# Within a residual block and within a transformer, ours -> diffusers -> original
_RES = [
    ("emb", "time_emb_proj", "emb_layers.1"),
    ("skip", "conv_shortcut", "skip_connection"),
    ("norm1", "norm1", "in_layers.0"),
    ("conv1", "conv1", "in_layers.2"),
    ("norm2", "norm2", "out_layers.0"),
    ("conv2", "conv2", "out_layers.3"),
]
_TRANSFORMER = [  # the same in both, but for three names
    (r"^time\.mix_factor", "time_mixer.mix_factor", "time_mixer.mix_factor"),
    (r"^time\.position\.0", "time_pos_embed.linear_1", "time_pos_embed.0"),
    (r"^time\.position\.2", "time_pos_embed.linear_2", "time_pos_embed.2"),
    (r"^time\.blocks\.", "temporal_transformer_blocks.", "time_stack."),
    (r"^blocks\.", "transformer_blocks.", "transformer_blocks."),
    (r"\.attention\.([qkv])\.", r".attn1.to_\1.", r".attn1.to_\1."),
    (r"\.attention\.out\.", ".attn1.to_out.0.", ".attn1.to_out.0."),
    (r"\.text\.([qkv])\.", r".attn2.to_\1.", r".attn2.to_\1."),
    (r"\.text\.out\.", ".attn2.to_out.0.", ".attn2.to_out.0."),
    (r"\.(ff|ff_in)\.up\.", r".\1.net.0.proj.", r".\1.net.0.proj."),
    (r"\.(ff|ff_in)\.down\.", r".\1.net.2.", r".\1.net.2."),
]
_ENDS = [
    ("noise_embedding.0", "time_embedding.linear_1", "time_embed.0"),
    ("noise_embedding.2", "time_embedding.linear_2", "time_embed.2"),
    ("vector_embedding.0", "add_embedding.linear_1", "label_emb.0.0"),
    ("vector_embedding.2", "add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "conv_in", "input_blocks.0.0"),
    ("norm_out", "conv_norm_out", "out.0"),
    ("conv_out", "conv_out", "out.2"),
]


def diffusers_name(name: str, config: UNetConfig) -> str:
    """The name in diffusers' layout of a tensor of our network, but for `concat_in`, which is part of `conv_in`."""
    place = _place(name)
    if place is None:
        return _ends(name, 1)
    stage, index, part, rest = place
    block = "mid_block" if stage == "middle" else stage.replace(".", "_blocks.")
    if part == "resize":
        return f"{block}.{'down' if stage.startswith('down') else 'up'}samplers.0.conv.{rest}"
    if part == "attention":
        return f"{block}.attentions.{index}.{_transformer(rest, 1)}"
    if part == "time":
        inner = "time_mixer.mix_factor" if rest == "mix_factor" else f"temporal_res_block.{_res(rest, 1)}"
    else:
        inner = f"spatial_res_block.{_res(rest, 1)}" if config.temporal else _res(rest, 1)
    return f"{block}.resnets.{index}.{inner}"


def original_name(name: str, config: UNetConfig) -> str:
    """The name in the original layout, without the prefix `model.diffusion_model.`."""
    place = _place(name)
    if place is None:
        return _ends(name, 2)
    stage, index, part, rest = place
    if stage == "middle":
        block = f"middle_block.{1 if part == 'attention' else 2 * index}"
    else:
        side, level = stage.split(".")
        block, inner = _original_block(side, int(level), index, part, config)
        block = f"{block}.{inner}"
    if part == "resize":
        return f"{block}.{rest}"
    if part == "attention":
        return f"{block}.{_transformer(rest, 2)}"
    if part == "time":
        return f"{block}.time_mixer.mix_factor" if rest == "mix_factor" else f"{block}.time_stack.{_res(rest, 2)}"
    return f"{block}.{_res(rest, 2)}"


def _place(name: str) -> tuple[str, int, str, str] | None:
    """(stage, layer, part, rest): ("down.0", 1, "res", "conv1.weight"); ("up.2", 0, "resize", "weight"); or None."""
    found = re.match(r"(middle|(?:down|up)\.\d+)\.(?:layers\.(\d+)\.(res|time|attention)|(resize))\.(.+)", name)
    if found is None:
        return None
    stage, index, part, resize, rest = found.groups()
    return stage, int(index or 0), part or resize, rest


def _original_block(side: str, level: int, index: int, part: str, config: UNetConfig) -> tuple[str, str]:
    """Original files count the blocks of all levels through; a level is as long as its layers and its resizing."""
    if side == "down":
        start = 1 + sum(layers + 1 for layers in config.layers[:level])
        if part == "resize":
            return f"input_blocks.{start + config.layers[level]}", "0.op"
        return f"input_blocks.{start + index}", "1" if part == "attention" else "0"
    layers = config.layers[::-1]
    start = sum(count + 1 for count in layers[:level])
    if part == "resize":
        has_attention = config.attention[::-1][level]
        return f"output_blocks.{start + layers[level]}", f"{2 if has_attention else 1}.conv"
    return f"output_blocks.{start + index}", "1" if part == "attention" else "0"


def _res(name: str, layout: int) -> str:
    part, rest = name.split(".", 1)
    return f"{next(rule[layout] for rule in _RES if rule[0] == part)}.{rest}"


def _transformer(name: str, layout: int) -> str:
    for rule in _TRANSFORMER:
        name = re.sub(rule[0], rule[layout], name)
    return name


def _ends(name: str, layout: int) -> str:
    for rule in _ENDS:
        if name.startswith(rule[0] + "."):
            return rule[layout] + name[len(rule[0]) :]
    raise KeyError(f"no rule names {name} in a public checkpoint")
