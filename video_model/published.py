"""Public models as they are published: which files of a folder hold a part's weights, and what of a single file is whose.

Nothing but safetensors is read: a .ckpt or .bin is a pickle, which can run code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
VARIANTS = ("", "fp16")  # full precision first
VAE = "first_stage_model."  # prefixes of an original single file
TEXT_1, TEXT_2 = "cond_stage_model.transformer.", "cond_stage_model.model."  # Stable Diffusion 1.x and 2.x
VISION = "conditioner.embedders.0.open_clip.model.visual."  # Stable Video Diffusion


class NotPublished(ValueError):
    """Weights that are not there, or not in a form that is read. One line: the thing, the reason, the fix."""


def part_folder(root: Path, part: str) -> Path:
    """The folder of a part with its config.json: ROOT/part of a pipeline's folder, or ROOT itself. Raises NotPublished."""
    for folder in (root / part, root):
        if (folder / "config.json").is_file():
            return folder
    if (root / "model_index.json").is_file():
        raise NotPublished(f"{root}: this pipeline has no {part}/config.json: get its folder {part} too")
    if not root.exists():
        raise NotPublished(f"{root}: there is no such folder: give a pipeline's folder, or its {part}")
    raise NotPublished(
        f"{root} has no config.json, nor a folder {part} with one: give a pipeline's folder, or its {part}"
    )


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors of a part, one file or shards, in full precision or as the fp16 variant. Raises NotPublished.

    stem: "diffusion_pytorch_model" or "model".
    """
    for variant in VARIANTS:
        dot = f".{variant}" if variant else ""
        for name in (f"{stem}.safetensors.index{dot}.json", f"{stem}{dot}.safetensors.index.json"):
            if (folder / name).is_file():
                return _shards(folder / name)
        if (folder / f"{stem}{dot}.safetensors").is_file():
            return [folder / f"{stem}{dot}.safetensors"]
    found = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if found:
        raise NotPublished(
            f"{folder} has its weights as a pickle alone ({found[0]}), which is not read as it can run code: convert its "
            "weights to safetensors (save_pretrained of the library that reads it), or get the published safetensors"
        )
    raise NotPublished(
        f"{folder} has no {stem}.safetensors, whole, in shards or as {stem}.fp16.safetensors: get the weights too"
    )


def tensors_of(files: Iterable[Path], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of safetensors files whose names begin with `prefix`, by the rest of their names. Raises NotPublished."""
    tensors = {}
    for file in files:
        refuse_pickle(file)
        try:
            with safe_open(file, "pt") as content:
                names = [name for name in content.keys() if name.startswith(prefix)]  # noqa: SIM118
                tensors.update({name.removeprefix(prefix): content.get_tensor(name) for name in names})
        except (SafetensorError, OSError) as error:
            raise NotPublished(
                f"{file} cannot be read as safetensors ({error}): get it again, or convert it"
            ) from error
    return tensors


def refuse_pickle(file: Path) -> None:
    if file.suffix in PICKLES:
        raise NotPublished(
            f"{file} is a pickle, which is not read as it can run code: get the .safetensors of this checkpoint, or convert "
            'it where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True)["state_dict"], OUT)'
        )


def placed(
    wanted: Mapping[str, Tensor], names: Mapping[str, str], tensors: Mapping[str, Tensor], source: Path
) -> dict[str, Tensor]:
    """float32 tensors for the places `wanted`, each found under names[place], in the place's shape. Raises NotPublished.

    1x1 convolutions are linear layers: ones at the end of a shape do not count.
    """
    found = {}
    for place, like in wanted.items():
        name = names[place]
        if name not in tensors:
            raise NotPublished(f"{source}: {name} {list(like.shape)} is missing: is it another model's, or damaged?")
        if tensors[name].numel() != like.numel() or squeezed(tensors[name].shape) != squeezed(like.shape):
            raise NotPublished(
                f"{source}: {name} is {list(tensors[name].shape)}, and {list(like.shape)} is needed: is it another model's?"
            )
        found[place] = tensors[name].float().reshape(like.shape).clone()
    return found


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Without ones at the end: a 1x1 convolution is a linear layer, [O, I, 3, 1, 1] is [O, I, 3, 1]."""
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotPublished(f"{index} cannot be read as an index of shards ({error}): get it again") from error
    for name in names:
        if not (index.parent / name).is_file():
            raise NotPublished(f"{index.parent / name} is missing, which {index.name} names: get the checkpoint again")
    return [index.parent / name for name in names]
