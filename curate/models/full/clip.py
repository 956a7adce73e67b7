"""CLIP through open_clip: pictures and sentences in one space (Radford et al. 2021; Ilharco et al. 2021).

Weights come from a local folder that open_clip itself wrote (`open_clip_config.json` and a checkpoint), from a bare
checkpoint of one of its named architectures, or from the hub's cache of the repository behind `pretrained`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from curate.models import Image, hub
from curate.models.adapter import Adapter, HubOptions, Precision
from curate.models.full.loading import batches, placement
from curate.models.roles import EMBEDDER
from curate.weights import Weights

if TYPE_CHECKING:
    import torch

CHECKPOINTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class OpenClipOptions(HubOptions):
    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-L-14"
    pretrained: str = "openai"
    dtype: Precision = "float32"
    batch: int = Field(32, ge=1)


class OpenClipEmbedder(Adapter):
    """Embedder: the picture and text towers of an open_clip model, rows scaled to unit length.

    model, pretrained: open_clip's names, e.g. "ViT-L-14" and "openai" (the pair that the LAION aesthetic heads were
    trained on). folder: local folder or checkpoint, searched instead of the hub. batch: pictures or texts at a time.
    Pictures go through open_clip's own preprocessing (PIL bicubic resize, centre crop, the tag's mean and deviation).
    MissingWeights if they are not on this machine; ValueError for an unknown model.
    """

    roles = (EMBEDDER,)
    Options = OpenClipOptions
    gpu = True
    memory = 1.0e9
    gpu_flops = 0.5e12  # three stills through ViT-L/14
    sizes = {"ViT-L-14": 0.428e9}  # noqa: RUF012

    def __init__(
        self,
        *,
        model: str = "ViT-L-14",
        pretrained: str = "openai",
        folder: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        import open_clip

        self.device, self.dtype = placement(device, dtype)
        self.batch = batch
        self.model, self.preprocess, self.tokenizer = load_open_clip(
            "image_embedding", model, pretrained, folder, self.device, dtype, allow_download
        )
        self.dim = int(self.texts([""]).shape[1])
        self.name = f"CLIP {hub.label(f'{model} {pretrained}', folder)} (open_clip {open_clip.__version__})"

    @classmethod
    def weights(
        cls,
        *,
        model: str = "ViT-L-14",
        pretrained: str = "openai",
        folder: str | None = None,
        allow_download: bool = False,
        **_: object,
    ) -> list[Weights]:
        return [open_clip_weights("image_embedding", model, pretrained, folder, allow_download)]

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """[N, dim] float32, unit length"""
        return self._rows(images, lambda part: self.model.encode_image(self.pixels(part), normalize=True))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] float32, unit length; a text longer than the context (77 tokens in CLIP) is cut there."""
        return self._rows(
            texts, lambda part: self.model.encode_text(self.tokenizer(list(part)).to(self.device), normalize=True)
        )

    def pixels(self, images: Sequence[Image]) -> torch.Tensor:
        """[N, 3, size, size] in the model's precision"""
        return stack(images, self.preprocess, self.device, self.dtype)

    def _rows(self, items: Sequence, encode: Callable[[Sequence], torch.Tensor]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            parts = [encode(part).float().cpu().numpy() for part in batches(items, self.batch)]
        if not parts:
            return np.zeros((0, self.dim), np.float32)
        rows = np.concatenate(parts)
        # Normalised again in float32: a row normalised in bfloat16 is only within 1% of unit length.
        return rows if self.dtype == torch.float32 else rows / np.linalg.norm(rows, axis=1, keepdims=True)


def stack(images: Sequence[Image], preprocess: Callable, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Pictures through open_clip's transform, which takes PIL: [N, 3, size, size]."""
    import PIL.Image
    import torch

    return torch.stack([preprocess(PIL.Image.fromarray(image)) for image in images]).to(device, dtype)


def open_clip_weights(role: str, model: str, pretrained: str, folder: str | None, allow_download: bool) -> Weights:
    """Where the checkpoint is, without loading it."""
    repo, names = hub_place(model, pretrained)
    found = hub.weights_of_file(
        role=role, model=f"{model} {pretrained}", repo=repo, names=names, folder=folder, allow_download=allow_download
    )
    if (
        found.path is not None
        and folder is not None
        and (Path(folder).expanduser() / "open_clip_config.json").is_file()
    ):
        return Weights(role, found.model, Path(folder).expanduser(), found.source, found.get)
    return found


def hub_place(model: str, pretrained: str) -> tuple[str | None, tuple[str, ...]]:
    """The hub repository of open_clip's tag, and the checkpoint names to look for, safetensors first."""
    place = published(model, pretrained).get("hf_hub", "")
    repo, _, file = place.rpartition("/")  # "org/repo/" or "org/repo/file"
    if not file:
        return repo or None, CHECKPOINTS
    return repo, (str(Path(file).with_suffix(".safetensors")), file) if Path(file).suffix in (".bin", ".pth") else (
        file,
    )


def published(model: str, pretrained: str) -> dict:
    """open_clip's config of a tag (mean, std, interpolation, activation, location); empty for an unknown one."""
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(model, pretrained) or {}


def load_open_clip(
    role: str,
    model: str,
    pretrained: str,
    folder: str | None,
    device: torch.device,
    dtype: str,
    allow_download: bool,
) -> tuple[torch.nn.Module, Callable, Callable]:
    """(model, preprocess, tokenizer), all from local files."""
    import open_clip

    repo, names = hub_place(model, pretrained)
    found = open_clip_weights(role, model, pretrained, folder, allow_download)
    path = hub.obtain(found, repo=repo, names=names, allow_download=allow_download)
    shared = {"precision": PRECISION[dtype], "device": device}
    if path.is_dir():
        name = f"local-dir:{path}"
        network, preprocess = open_clip.create_model_from_pretrained(name, **shared)
        return network.eval(), preprocess, open_clip.get_tokenizer(name)
    if model not in open_clip.list_models():
        raise ValueError(
            f"{role}: open_clip has no architecture {model!r}; put its open_clip_config.json beside {path.name} "
            "and name that folder, or use a name of open_clip.list_models()"
        )
    text = open_clip.get_model_config(model)["text_cfg"]
    if "siglip" in model.lower() or text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        # open_clip would fetch these parts from the hub by itself, whatever was allowed.
        raise ValueError(
            f"{role}: {model} takes its tokenizer from the hub, a bare checkpoint is not enough; put "
            "open_clip_config.json, the checkpoint and the tokenizer's files in one folder and name it in `folder`"
        )
    tag = published(model, pretrained)
    network, preprocess = open_clip.create_model_from_pretrained(
        model,
        pretrained=str(path),
        # Given a path, open_clip forgets what it knows of the tag. OpenAI's weights in particular were trained with
        # QuickGELU, which the plain "ViT-L-14" architecture lacks: the embeddings would be slightly, silently wrong.
        force_quick_gelu=bool(tag.get("quick_gelu", False)),
        image_mean=tag.get("mean"),
        image_std=tag.get("std"),
        image_interpolation=tag.get("interpolation"),
        image_resize_mode=tag.get("resize_mode"),
        **shared,
    )
    return network.eval(), preprocess, open_clip.get_tokenizer(model)
