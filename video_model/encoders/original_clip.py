"""CLIP's towers out of original single files: names and shapes as in transformers' CLIPTextModel and CLIPVisionModel.

Stable Diffusion 1.x has transformers' own names behind a prefix; 2.x and Stable Video Diffusion have open_clip's, where
queries, keys and values are one matrix and the text is read off before the last block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_model.published import TEXT_1, TEXT_2, VISION, NotPublished, placed, tensors_of

_BLOCK = [  # transformers -> open_clip, within a block
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
]
_TEXT = [
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
]
_VISION = [
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding", "conv1"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm", "ln_pre"),  # transformers' own spelling
    ("post_layernorm", "ln_post"),
    ("visual_projection.weight", "proj"),
]


def text_of_file(file: Path) -> tuple[Any, bool]:
    """transformers' CLIPTextModel of an original file, float32; and whether its padding is the end mark (1.x) or 0 (2.x).

    Raises NotPublished.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    tensors, first = tensors_of([file], TEXT_1), True
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    if not tensors:
        tensors, first = _split(tensors_of([file], TEXT_2)), False
    token, position = (tensors.get(_TEXT[i][1 - first]) for i in (0, 1))
    if token is None or position is None:
        raise NotPublished(
            f"{file} has no text encoder of Stable Diffusion 1.x ({TEXT_1}*) or 2.x ({TEXT_2}*): give such a checkpoint, "
            "or a pipeline's folder"
        )
    layers = _count(tensors, r"encoder\.layers\.(\d+)\." if first else r"transformer\.resblocks\.(\d+)\.")
    inner = "encoder.layers.0.mlp.fc1.weight" if first else "transformer.resblocks.0.mlp.c_fc.weight"
    width = token.shape[1]
    config = CLIPTextConfig(
        vocab_size=token.shape[0], hidden_size=width, max_position_embeddings=position.shape[0],
        intermediate_size=tensors[inner].shape[0] if inner in tensors else 4 * width, num_attention_heads=max(1, width // 64),
        num_hidden_layers=layers if first else layers - 1,  # 2.x was trained on the states before the last block
        hidden_act="quick_gelu" if first else "gelu", bos_token_id=0, eos_token_id=token.shape[0] - 1,
    )  # fmt: skip
    return _filled(CLIPTextModel, config, tensors, None if first else _TEXT, file), first


def vision_of_file(file: Path) -> Any:
    """transformers' CLIPVisionModelWithProjection of Stable Video Diffusion's original file, float32. Raises NotPublished."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    tensors = _split(tensors_of([file], VISION))
    if "conv1.weight" not in tensors or "proj" not in tensors:
        raise NotPublished(
            f"{file} has no image encoder ({VISION}*): give an original Stable Video Diffusion checkpoint"
        )
    tensors["proj"] = tensors["proj"].T
    width, _, patch, _ = tensors["conv1.weight"].shape
    side = round((tensors["positional_embedding"].shape[0] - 1) ** 0.5) * patch
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=tensors["proj"].shape[0], num_hidden_layers=_count(tensors, r"transformer\.resblocks\.(\d+)\."),
        num_attention_heads=max(1, width // (80 if width == 1280 else 64)),  # ViT-H's heads are wider than all others'
        image_size=side, patch_size=patch, hidden_act="gelu",
    )  # fmt: skip
    return _filled(CLIPVisionModelWithProjection, config, tensors, _VISION, file)


def _filled(kind: Any, config: Any, tensors: Mapping[str, Tensor], rules: Any, file: Path) -> Any:
    """A model with the tensors in it; rules: None where they have transformers' names."""
    model = kind(config)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if "position_ids" not in name}
    names = {name: _original(re.sub(r"^(text|vision)_model\.", "", name), rules) for name in wanted}
    model.load_state_dict(placed(wanted, names, tensors, file), strict=False)
    return model.eval()


def _original(name: str, rules: list[tuple[str, str]] | None) -> str:
    if rules is None:
        return name
    block = re.match(r"encoder\.layers\.(\d+)\.(.+)", name)
    prefix, rest, table = ("", name, rules)
    if block:
        prefix, rest, table = f"transformer.resblocks.{block[1]}.", block[2], _BLOCK
    for new, old in table:
        if rest == new or rest.startswith(f"{new}."):
            return prefix + old + rest[len(new) :]
    return prefix + rest


def _split(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values apart, under transformers' names within a block."""
    found = {}
    for name, tensor in tensors.items():
        packed = re.match(r"(.+)\.attn\.in_proj_(weight|bias)$", name)
        if packed is None:
            found[name] = tensor
            continue
        for letter, part in zip("qkv", torch.chunk(tensor, 3), strict=True):
            found[f"{packed[1]}.self_attn.{letter}_proj.{packed[2]}"] = part
    return found


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)
