"""The first and the last frame: what lies between them is interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from video_model.diffusion.slots.base import Conditions, Models, Slot, rows_like

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class KeyFramesSlot(Slot):
    """The latents of the first and the last frame, each beside its own frame, zeros beside the others, and a channel that
    is 1 where one is given; null: none (Blattmann et al. 2023, Align your Latents, section 3.2; Stable Video Diffusion,
    appendix D: five frames).

    Taken from batch["key_frames"] [B, 2, C, h, w] with batch["frames"], or else from batch["latents"] [B, T, C, h, w].
    Dropped out, and in rows of images, all is zeros.
    """

    name: ClassVar[str] = "key_frames"
    strict: ClassVar[bool] = True
    pictures: ClassVar[int] = 2
    option: ClassVar[str] = "--image and --last-image"

    @property
    def required(self) -> bool:
        return True

    def concat_channels(self, latent_channels: int) -> int:
        return latent_channels + 1

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        import torch

        if self.name in batch:
            ends, frames = batch[self.name], int(batch["frames"])
        elif "latents" in batch:
            ends, frames = batch["latents"][:, [0, -1]], batch["latents"].shape[1]
        else:
            return Conditions()
        drop = drop.to(ends.device)
        drop = drop | batch["images"].to(ends.device) if "images" in batch else drop
        known = torch.cat([ends, torch.ones_like(ends[:, :, :1])], 2).masked_fill(rows_like(drop, ends), 0)
        concat = known.new_zeros(len(known), frames, *known.shape[2:])
        concat[:, 0], concat[:, -1] = known[:, 0], known[:, 1]
        return Conditions({"concat": concat})

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"concat": cond["concat"].new_zeros(cond["concat"].shape)} if "concat" in cond else {}

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        """Its value: [2, 3, H, W] pixels in [-1, 1], the same for all prompts, or [N, 2, 3, H, W]."""
        pixels = request.conditions.get(self.name)
        if pixels is None:
            return {}
        pixels = pixels if pixels.ndim == 5 else pixels[None]
        latents = models.codec.encode(pixels.float().to(getattr(models.codec, "device", "cpu")))
        return {self.name: latents.cpu().expand(len(request.prompts), -1, -1, -1, -1)}

    def shown(self, windows: Tensor) -> Tensor | None:
        return windows[:, [0, -1]]

    def guides(self, prompted: bool) -> bool:
        return not prompted
