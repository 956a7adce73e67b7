"""The first frame: image to video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from video_model.diffusion.slots.base import Conditions, Models, Slot, rows_like

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class FirstFrameSlot(Slot):
    """The latent of the first frame beside every frame, and a channel of ones where it is given; null: no image to video.

    Taken from batch["first_frame"] [B, C, h, w] with batch["frames"], or else from batch["latents"] [B, T, C, h, w].
    In training noise of ln(sigma) ~ N(noise_mean, noise_std^2) is added to it (Stable Video Diffusion, appendix D: -3
    and 0.5, there in pixels, here in latents). Outside training batch["augment"] [B] is sigma, and 0 is the default. The
    network embeds sigma as the number "augment". Dropped out, and in rows of images, the frame is zeros.
    """

    name: ClassVar[str] = "first_frame"
    default: ClassVar[bool] = True
    strict: ClassVar[bool] = True
    option: ClassVar[str] = "--image"
    numbers: ClassVar[tuple[str, ...]] = ("augment",)

    dropout: float = Field(0.5, ge=0, le=1, description="share of the samples trained without it")
    noise_mean: float | None = Field(
        -3.0, description="ln(sigma) of the noise on it ~ N(mean, std^2), as in the paper; null: none"
    )
    noise_std: float = Field(0.5, ge=0)
    mask: bool = Field(
        True, description="the channel; false: as in the released model, which diffusers' pipeline wants"
    )

    def concat_channels(self, latent_channels: int) -> int:
        return latent_channels + self.mask

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        import torch

        if "first_frame" in batch:
            frame, frames = batch["first_frame"], batch["frames"]
        elif "latents" in batch:
            frame, frames = batch["latents"][:, 0], batch["latents"].shape[1]
        else:
            return Conditions()
        drop = drop.to(frame.device)
        if "images" in batch:
            drop = drop | batch["images"].to(frame.device)
        sigma = self._sigma(batch, len(frame), draws)
        if sigma.any():
            noise = torch.randn(frame.shape, generator=draws or torch.Generator().manual_seed(0))
            frame = frame + (sigma[:, None, None, None] * noise).to(frame)
        if self.mask:
            frame = torch.cat([frame, torch.ones_like(frame[:, :1])], 1)
        concat = frame.masked_fill(rows_like(drop, frame), 0)[:, None].expand(-1, frames, -1, -1, -1)
        return Conditions({"concat": concat}, {"augment": sigma.to(frame.device).masked_fill(drop, torch.nan)})

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"concat": cond["concat"].new_zeros(cond["concat"].shape)} if "concat" in cond else {}

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        """Its value: [3, H, W] pixels in [-1, 1], the same for all prompts."""
        pixels = request.conditions.get(self.name)
        if pixels is None:
            return {}
        latents = models.codec.encode(pixels[None, None].float().to(getattr(models.codec, "device", "cpu")))
        return {self.name: latents[:, 0].cpu().expand(len(request.prompts), -1, -1, -1)}

    def guides(self, prompted: bool) -> bool:
        """Where there is no prompt, which would lead by itself."""
        return not prompted

    def _sigma(self, batch: Mapping[str, Any], count: int, draws: torch.Generator | None) -> Tensor:
        """[B] of the noise on the frame."""
        import torch

        if draws is None:
            return batch.get("augment", torch.zeros(count)).cpu().float()
        if self.noise_mean is None:
            return torch.zeros(count)
        return torch.exp(self.noise_mean + self.noise_std * torch.randn(count, generator=draws))
