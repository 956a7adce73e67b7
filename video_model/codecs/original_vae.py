"""The VAE of an original single file (Stable Diffusion 1.x, 2.x, Stable Video Diffusion), by rules of names and shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_model.published import VAE, NotPublished, placed, tensors_of

SCALE = 0.18215  # of all three
_RULES = [  # in diffusers' layout -> in the original one; what no rule names is named alike
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r".up.\1.block.\2."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.spatial_res_block\.", "."),
    (r"\.temporal_res_block\.norm1\.", ".time_stack.in_layers.0."),
    (r"\.temporal_res_block\.conv1\.", ".time_stack.in_layers.2."),
    (r"\.temporal_res_block\.norm2\.", ".time_stack.out_layers.0."),
    (r"\.temporal_res_block\.conv2\.", ".time_stack.out_layers.3."),
    (r"\.time_mixer\.mix_factor", ".mix_factor"),
    (r"decoder\.time_conv_out\.", "decoder.conv_out.time_mix_conv."),
]


def original_vae_name(name: str, levels: int) -> str:
    """The name in the original layout, without its prefix; there the levels of the decoder are counted from the finest."""
    for pattern, new in _RULES:
        name = re.sub(pattern, new, name)
    return re.sub(r"^decoder\.up\.(\d+)", lambda found: f"decoder.up.{levels - 1 - int(found[1])}", name)


def vae_of_file(file: Path) -> Any:
    """diffusers' AutoencoderKL, or AutoencoderKLTemporalDecoder where the file's decoder knows time, in float32.

    Raises NotPublished: no VAE in the file, tensors missing, of other shapes or without a place.
    """
    import diffusers

    tensors = tensors_of([file], VAE)
    if "encoder.conv_in.weight" not in tensors:
        raise NotPublished(
            f"{file} has no {VAE}encoder.conv_in.weight: give an original checkpoint of Stable Diffusion 1.x, 2.x or Stable "
            "Video Diffusion, or a folder in diffusers' layout"
        )
    channels, layers = _widths(tensors), _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.")
    temporal = "decoder.conv_out.time_mix_conv.weight" in tensors
    latents = tensors["decoder.conv_in.weight"].shape[1] if "decoder.conv_in.weight" in tensors else 4
    shape = {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "layers_per_block": layers,
        "latent_channels": latents,
        "scaling_factor": SCALE,
    }
    with torch.device("meta"):
        if temporal:
            vae = diffusers.AutoencoderKLTemporalDecoder(**shape)
        else:
            vae = diffusers.AutoencoderKL(**shape, up_block_types=("UpDecoderBlock2D",) * len(channels))
    _identities(tensors, latents, temporal)
    wanted = vae.state_dict()
    names = {place: original_vae_name(place, len(channels)) for place in wanted}
    unused = set(tensors) - set(names.values())
    if unused:
        raise NotPublished(
            f"{file}: {len(unused)} tensors of {VAE}* have no place in a public VAE, the first is {min(unused)}: give an "
            "original checkpoint"
        )
    vae.load_state_dict(placed(wanted, names, tensors, file), assign=True)
    return vae


def _identities(tensors: dict[str, Tensor], latents: int, temporal: bool) -> None:
    """The convolutions between encoder, latents and decoder, where a file does not have them: they change nothing.

    The public temporal decoder takes latents as they are.
    """
    if temporal:
        tensors.pop("post_quant_conv.weight", None), tensors.pop("post_quant_conv.bias", None)
    wanted = {"quant_conv": 2 * latents} | ({} if temporal else {"post_quant_conv": latents})
    for name, width in wanted.items():
        if f"{name}.weight" not in tensors:
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.eye(width), torch.zeros(width)


def _widths(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    return tuple(tensors[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels))


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    """One more than the highest number that stands at the pattern's place."""
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)
