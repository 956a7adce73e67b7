"""The first frame as CLIP sees it: one token to attend to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from video_model.diffusion.slots.base import Conditions, Models, Slot
from video_model.diffusion.slots.text import with_tokens

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ImageSlot(Slot):
    """The CLIP embedding of the first frame, without noise, as one token beside those of the text, or alone where
    conditioning.text is null (Stable Video Diffusion, appendix D); null: none. Dropped out together with first_frame: at
    equal rates in the same samples; then it is zeros.

    Taken from batch["pixels"] [B, 3, H, W] in [-1, 1]. folder: a CLIPVisionModelWithProjection in transformers' layout, or
    the pipeline's folder that holds it as image_encoder/.
    """

    name: ClassVar[str] = "image"
    strict: ClassVar[bool] = True
    pictures: ClassVar[int] = 1
    option: ClassVar[str] = "--image"
    drops_with: ClassVar[str | None] = "first_frame"

    folder: str = Field(description="CLIPVisionModelWithProjection in transformers' layout, or a pipeline's folder")

    @property
    def wants_pixels(self) -> bool:
        return True

    @property
    def required(self) -> bool:
        return True

    @property
    def context_dim(self) -> int | None:
        return _tower(self.folder).dim

    @property
    def frozen_parameters(self) -> int:
        return _tower(self.folder).parameters

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if "pixels" not in batch:
            return Conditions()
        given = ~drop.to(batch["pixels"].device)
        if "images" in batch:  # a picture is not told what it is to become
            given = given & ~batch["images"].to(given.device)
        return Conditions({"image_pixels": batch["pixels"], "image_given": given})

    def encoded(self, cond: dict[str, Tensor], models: Models) -> dict[str, Tensor]:
        if "image_pixels" not in cond:
            return cond
        rest = dict(cond)
        pixels, given = rest.pop("image_pixels"), rest.pop("image_given")
        tower = _tower(self.folder, models.precision)
        token = pixels.new_zeros(len(pixels), 1, tower.dim)
        if given.any():
            token[given] = tower.encode(pixels[given])[:, None]
        return with_tokens(rest, token)

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image_given": cond["image_given"] & False} if "image_given" in cond else {}

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        """Its value: [3, H, W] pixels in [-1, 1] or [N, 3, H, W]; unset: that of first_frame."""
        pixels = request.conditions.get(self.name, request.conditions.get("first_frame"))
        if pixels is None:
            return {}
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        return {"pixels": pixels.float().expand(len(request.prompts), -1, -1, -1)}

    def shown(self, windows: Tensor) -> Tensor | None:
        return windows[:, 0]

    def guides(self, prompted: bool) -> bool:
        return True


@lru_cache(maxsize=2)
def _tower(folder: str, precision: torch.dtype | None = None) -> Any:
    """One tower, however many conditioners ask for it; its weights are loaded when it first encodes."""
    from video_model.encoders.clip_vision import ClipVision

    return ClipVision(folder, precision)
