"""From a denoiser to videos: a request goes in, pixels come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.guidance import guided, rising
from video_model.diffusion.samplers import SAMPLERS
from video_model.diffusion.schedules import Watch
from video_model.errors import RunError


@dataclass(frozen=True)
class Request:
    """What to draw. size: height, width in px. fps: frames a second; None: not conditioned on.

    conditions: by the name of a conditioning slot, e.g. {"motion": 4.0, "first_frame": pixels [3, H, W] in [-1, 1]}; one
    that is missing or None is not given. guidance: at the first and the last frame; the prompt is what is guided towards.
    seed: sample i is drawn from seed + i, whatever else is drawn with it. sigma_min, sigma_max: None: the parametrisation's.
    """

    prompts: Sequence[str]
    frames: int = 16
    size: tuple[int, int] = (64, 64)
    fps: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "heun"
    steps: int = 20
    sigma_min: float | None = None
    sigma_max: float | None = None
    guidance: tuple[float, float] = (2.0, 2.0)
    seed: int = 0


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    conditioner: Conditioner,
    request: Request,
    samplers: Sequence[Callable[..., Any]] = SAMPLERS,
    watch: Watch | None = None,
) -> Tensor:
    """[N, T, 3, H, W] pixels in [-1, 1], one video a prompt; T = 1: pictures. Raises RunError."""
    codec, network = conditioner.models.codec, denoiser.network
    count, (height, width) = len(request.prompts), request.size
    stride = codec.factor * getattr(network, "stride", 1)
    if height % stride or width % stride:
        raise RunError(f"size {height}x{width}: height and width must be multiples of {stride} for this run")
    device = next(network.parameters()).device
    batch: dict[str, Any] = {"frames": request.frames}
    for slot in conditioner.slots:
        try:
            given = slot.requested(request, conditioner.models)
        except ValueError as error:
            raise RunError(str(error)) from None
        if slot.required and not given:
            raise RunError(f"this stage is not trained to do without {slot.name}: give {slot.option}")
        batch |= given
    cond = conditioner(batch, train=False)
    cond = {key: value.to(device) for key, value in cond.items()}
    scale = rising(*request.guidance, request.frames) if request.frames > 1 else request.guidance[0]
    null = _null(conditioner, cond, request)
    cond, null = conditioner.encoded(cond), null if null is None else conditioner.encoded(null)
    denoise = guided(denoiser, cond, null, scale)
    kind = denoiser.parametrisation
    sigmas = kind.sigmas(request.steps, *kind.sigma_range(request.sigma_min, request.sigma_max))
    shape = (request.frames, codec.channels, height // codec.factor, width // codec.factor)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(request.seed + i)) for i in range(count)]
    sampler = next(sampler for sampler in samplers if sampler.__name__ == request.sampler)
    x = sampler(denoise, torch.stack(noise).to(device) * sigmas[0], sigmas, watch=watch)
    return codec.decode(x.float().to(getattr(codec, "device", "cpu"))).clamp(-1, 1).cpu()


def _null(conditioner: Conditioner, cond: dict[str, Tensor], request: Request) -> dict[str, Tensor] | None:
    """What guidance leads away from: the condition without the slots that lead. None: no guidance."""
    if set(request.guidance) == {1.0}:
        return None
    prompted = any(prompt.strip() for prompt in request.prompts)
    dropped = {slot.name for slot in conditioner.slots if slot.guides(prompted) and slot.dropout > 0}
    if not dropped:  # training never dropped it out: the network does not know how to do without it
        return None
    return conditioner.null(cond, keep=[slot.name for slot in conditioner.slots if slot.name not in dropped])
