"""CLIP vision towers: a picture becomes one vector, the token that image-to-video networks attend to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from curate.base.packaged import WeightsMissing
from video_model.encoders.original_clip import vision_of_file
from video_model.errors import first_line
from video_model.published import NotPublished, weight_files

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP (Radford et al. 2021)
RELEASED_PARAMETERS = 632_000_000  # ViT-H/14
FIX = (
    "give a folder with config.json and model.safetensors of a CLIPVisionModelWithProjection, or the pipeline's folder"
)


class ClipVision:
    """Image embeddings of a CLIPVisionModelWithProjection in transformers' layout, as Stable Video Diffusion uses them.

    path: its folder, or a pipeline's folder with image_encoder/ (and feature_extractor/, whose mean and deviation are
    used; else CLIP's); or an original single file of Stable Video Diffusion. precision: of its weights; None: float32 on a
    CPU, bfloat16 on a GPU. Loaded when it is first used, never downloaded. Raises WeightsMissing.
    """

    at_once = 32

    def __init__(self, path: Path | str, precision: torch.dtype | None = None) -> None:
        self.path, self.precision = Path(path), precision
        self.name = f"CLIP vision tower in {self.path}"

    @cached_property
    def dim(self) -> int:
        """Of an embedding; read from config.json alone, of a single file from the network."""
        if self.path.is_file():
            return int(self._loaded[0].config.projection_dim)
        try:
            return int(json.loads((self.folder / "config.json").read_text())["projection_dim"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsMissing("CLIP vision tower", f"{self.folder}: {first_line(error)}", FIX) from None

    @property
    def parameters(self) -> int:
        """How many it has; from config.json alone. Of a single file, that of the release."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        if not (self.folder / "config.json").is_file():
            return RELEASED_PARAMETERS
        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(self.folder))
        return sum(parameter.numel() for parameter in network.parameters())

    @property
    def folder(self) -> Path:
        return next((p for p in (self.path / "image_encoder", self.path) if (p / "config.json").is_file()), self.path)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """[N, D] float32 on their device, of pictures [N, 3, H, W] in [-1, 1]."""
        network, mean, std = self._loaded
        usual = torch.float32 if pixels.device.type == "cpu" else torch.bfloat16
        network.to(pixels.device, self.precision or usual)
        side, found = network.config.image_size, []
        for part in pixels.float().split(self.at_once):
            seen = (resized(part, (side, side)) + 1) / 2
            seen = (seen - seen.new_tensor(mean).view(3, 1, 1)) / seen.new_tensor(std).view(3, 1, 1)
            found.append(network(seen.to(network.dtype)).image_embeds.float())
        return torch.cat(found).clone()

    @cached_property
    def _loaded(self) -> tuple[Any, Sequence[float], Sequence[float]]:
        from transformers import CLIPVisionModelWithProjection

        if self.path.is_file():
            try:
                return vision_of_file(self.path).requires_grad_(False), MEAN, STD
            except NotPublished as error:
                raise WeightsMissing("CLIP vision tower", str(error), FIX) from None
        if not (self.folder / "config.json").is_file():
            raise WeightsMissing("CLIP vision tower", f"no config.json in {self.folder}", FIX)
        try:
            half = any(".fp16" in file.name for file in weight_files(self.folder, "model"))
            network = CLIPVisionModelWithProjection.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                variant="fp16" if half else None,
            )  # fmt: skip
        except NotPublished as error:
            raise WeightsMissing("CLIP vision tower", str(error), FIX) from None
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsMissing(
                "CLIP vision tower", f"{self.folder} cannot be read ({first_line(error)})", FIX
            ) from None
        stored = self.folder.parent / "feature_extractor" / "preprocessor_config.json"
        about = json.loads(stored.read_text()) if stored.is_file() else {}
        network.requires_grad_(False)
        return network.eval(), about.get("image_mean", MEAN), about.get("image_std", STD)


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, 3, H, W] to [N, 3, *size]: Gaussian blur where it shrinks, then bicubic interpolation between corner pixels.

    As the released image-to-video code does it (after scikit-image): deviation (H / height - 1) / 2 px along each side, in
    a window of four deviations, reflected at the borders.
    """
    for axis, wanted in ((2, size[0]), (3, size[1])):
        deviation = max((pictures.shape[axis] / wanted - 1) / 2, 1e-3)
        width = int(max(4 * deviation, 3)) | 1  # odd
        offsets = torch.arange(width, device=pictures.device, dtype=pictures.dtype) - width // 2
        kernel = torch.exp(-offsets.square() / (2 * deviation**2))
        shape = [1, 1, 1, 1]
        shape[axis] = width
        kernel = (kernel / kernel.sum()).view(shape).expand(pictures.shape[1], 1, -1, -1)
        border = [0, 0, width // 2, width // 2] if axis == 2 else [width // 2, width // 2, 0, 0]
        pictures = F.conv2d(F.pad(pictures, border, mode="reflect"), kernel, groups=pictures.shape[1])
    return F.interpolate(pictures, size, mode="bicubic", align_corners=True)
