"""The first frame: image to video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from video_model.diffusion.slots.base import Conditions, Models, Slot, rows_like

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUGMENT = 0.02  # sigma of the noise on a picture that a released model is given, where none is asked for


class FirstFrameSlot(Slot):
    """The latent of the first frame beside every frame, and a channel of ones where it is given; null: no image to video.

    Taken from batch["first_frame"] [B, C, h, w] with batch["frames"], or else from batch["latents"] [B, T, C, h, w].
    In training noise of ln(sigma) ~ N(noise_mean, noise_std^2) is added to it (Stable Video Diffusion, appendix D: -3
    and 0.5, there in pixels, here in latents). Outside training batch["augment"] [B] is sigma, and 0 is the default. The
    network embeds sigma as the number "augment". Dropped out, and in rows of images, the frame is zeros, and sigma is not
    given.

    released: exactly as Stable Video Diffusion does it. The noise is added to batch["pixels"] [B, 3, H, W] in [-1, 1],
    which the codec then encodes; its mean is not scaled; there is no channel of ones; where the frame is dropped out,
    sigma is given all the same; sigma is 0.02 where a request names none. It costs one frame that is decoded, and encoded,
    a sample and step.
    """

    name: ClassVar[str] = "first_frame"
    default: ClassVar[bool] = True
    strict: ClassVar[bool] = True
    pictures: ClassVar[int] = 1
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
    released: bool = Field(
        False,
        description="exactly as in Stable Video Diffusion: noise in pixels, the latent unscaled, no channel; needs a codec "
        "that says its scale (a public VAE)",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_channel(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("released"):
            if value.get("mask"):
                raise ValueError("first_frame: released networks have no channel of ones: leave mask out")
            return {**value, "mask": False}
        return value

    @property
    def wants_pixels(self) -> bool:
        return self.released

    @property
    def required(self) -> bool:
        return self.released

    @property
    def kept_numbers(self) -> tuple[str, ...]:
        return self.numbers if self.released else ()

    def concat_channels(self, latent_channels: int) -> int:
        return latent_channels + self.mask

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if self.released:
            return self._pixels(batch, drop, draws)
        if "first_frame" in batch:
            frame, frames = batch["first_frame"], batch["frames"]
        elif "latents" in batch:
            frame, frames = batch["latents"][:, 0], batch["latents"].shape[1]
        else:
            return Conditions()
        import torch

        drop = self._without(batch, drop, frame)
        frame, sigma = self._noisy(batch, frame, draws)
        if self.mask:
            frame = torch.cat([frame, torch.ones_like(frame[:, :1])], 1)
        concat = frame.masked_fill(rows_like(drop, frame), 0)[:, None].expand(-1, frames, -1, -1, -1)
        return Conditions({"concat": concat}, {"augment": sigma.masked_fill(drop, torch.nan)})

    def encoded(self, cond: dict[str, Tensor], models: Models) -> dict[str, Tensor]:
        if "first_frame_pixels" not in cond:
            return cond
        rest = dict(cond)
        pixels, given, frames = (rest.pop(f"first_frame_{name}") for name in ("pixels", "given", "count"))
        unscaled = getattr(models.codec, "unscaled", None)
        if unscaled is None:
            raise ValueError("first_frame: released needs a codec that says its scale: codec.kind diffusers")
        latent = pixels.new_zeros(
            len(pixels), models.codec.channels, *(side // models.codec.factor for side in pixels.shape[2:])
        )
        if given.any():
            device = getattr(models.codec, "device", "cpu")
            latent[given] = unscaled(models.codec.encode(pixels[given][:, None].to(device))[:, 0]).to(latent)
        rest["concat"] = latent[:, None].expand(-1, int(frames[0]), -1, -1, -1)
        return rest

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.released:
            return {"first_frame_given": cond["first_frame_given"] & False} if "first_frame_given" in cond else {}
        return {"concat": cond["concat"].new_zeros(cond["concat"].shape)} if "concat" in cond else {}

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        """Its value: [3, H, W] pixels in [-1, 1], the same for all prompts, or [N, 3, H, W]."""
        pixels = request.conditions.get(self.name)
        if pixels is None:
            return {}
        pixels = (pixels if pixels.ndim == 4 else pixels[None]).float()
        count = len(request.prompts)
        if self.released:
            import torch

            augment = request.conditions.get("augment")
            augment = AUGMENT if augment is None else float(augment)
            return {"pixels": pixels.expand(count, -1, -1, -1), "augment": torch.full((count,), augment)}
        latents = models.codec.encode(pixels[:, None].to(getattr(models.codec, "device", "cpu")))
        return {self.name: latents[:, 0].cpu().expand(count, -1, -1, -1)}

    def shown(self, windows: Tensor) -> Tensor | None:
        return windows[:, 0]

    def guides(self, prompted: bool) -> bool:
        """Where there is no prompt, which would lead by itself; in a released network always."""
        return self.released or not prompted

    def _pixels(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if "pixels" not in batch:
            return Conditions()
        import torch

        pixels = batch["pixels"]
        frames = batch["latents"].shape[1] if "latents" in batch else batch["frames"]
        noisy, sigma = self._noisy(batch, pixels, draws)
        given = ~self._without(batch, drop, pixels)
        count = torch.full((len(pixels),), int(frames))
        return Conditions(
            {"first_frame_pixels": noisy, "first_frame_given": given, "first_frame_count": count}, {"augment": sigma}
        )

    @staticmethod
    def _without(batch: Mapping[str, Any], drop: Tensor, like: Tensor) -> Tensor:
        """[B] bool: rows without the frame."""
        drop = drop.to(like.device)
        return drop | batch["images"].to(like.device) if "images" in batch else drop

    def _noisy(self, batch: Mapping[str, Any], value: Tensor, draws: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """value [B, ...] with noise on it, and its sigma [B]."""
        import torch

        sigma = self._sigma(batch, len(value), draws)
        if sigma.any():
            if draws is None:  # the same in all rows: none depends on what it is drawn with
                noise = torch.randn(value.shape[1:], generator=torch.Generator().manual_seed(0)).expand(value.shape)
            else:
                noise = torch.randn(value.shape, generator=draws)
            value = value + (rows_like(sigma, noise) * noise).to(value)
        return value, sigma.to(value.device)

    def _sigma(self, batch: Mapping[str, Any], count: int, draws: torch.Generator | None) -> Tensor:
        """[B] of the noise on the frame."""
        import torch

        if draws is None:
            return batch.get("augment", torch.zeros(count)).cpu().float()
        if self.noise_mean is None:
            return torch.zeros(count)
        return torch.exp(self.noise_mean + self.noise_std * torch.randn(count, generator=draws))
