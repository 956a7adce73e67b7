"""From a trained run to videos: prompts (and a first frame) in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_model.codecs.small import Codec
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.guidance import guided, rising
from video_model.diffusion.samplers import SAMPLERS
from video_model.diffusion.schedules import Watch
from video_model.encoders.text import TextEncoder
from video_model.errors import RunError
from video_model.training.run import Run, build_conditioner, build_encoder


@dataclass(frozen=True)
class Request:
    """What to draw. size: height, width in px. fps and motion are told to the network; None: it is not told.

    guidance: at the first and the last frame; the prompt is what is guided towards. first: [3, H, W] pixels in [-1, 1] of the
    first frame, or None. seed: sample i is drawn from seed + i, whatever else is drawn with it.
    """

    prompts: Sequence[str]
    frames: int = 16
    size: tuple[int, int] = (64, 64)
    fps: float | None = None
    motion: float | None = None
    first: Tensor | None = None
    sampler: str = "heun"
    steps: int = 20
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    guidance: tuple[float, float] = (2.0, 2.0)
    seed: int = 0


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    conditioner: Conditioner,
    codec: Codec,
    encoder: TextEncoder,
    request: Request,
    watch: Watch | None = None,
) -> Tensor:
    """[N, T, 3, H, W] pixels in [-1, 1], one video a prompt; T = 1: pictures."""
    count, (height, width) = len(request.prompts), request.size
    stride = codec.factor * getattr(denoiser.network, "stride", 1)
    if height % stride or width % stride:
        raise RunError(f"size {height}x{width}: height and width must be multiples of {stride} for this run")
    device = next(denoiser.network.parameters()).device
    shape = (request.frames, codec.channels, height // codec.factor, width // codec.factor)
    states, mask = encoder.encode(list(request.prompts))
    batch: dict[str, Any] = {"text": states, "text_mask": mask, "frames": request.frames}
    for name, value in (("fps", request.fps), ("motion", request.motion)):
        batch[name] = torch.full((count,), torch.nan if value is None else float(value))
    if request.first is not None:
        first = codec.encode(request.first[None, None].float().to(getattr(codec, "device", "cpu")))
        batch["first_frame"] = first[:, 0].cpu().expand(count, -1, -1, -1)
    cond = conditioner(batch, torch.Generator().manual_seed(request.seed), train=False)
    cond = {key: value.to(device) for key, value in cond.items()}
    scale: Tensor | float = request.guidance[0]
    if request.frames > 1:
        scale = rising(*request.guidance, request.frames)
    sigmas = denoiser.parametrisation.sigmas(request.steps, request.sigma_min, request.sigma_max)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(request.seed + i)) for i in range(count)]
    denoise = guided(denoiser, cond, _null(conditioner, cond, request), scale)
    sampler = {sampler.__name__: sampler for sampler in SAMPLERS}[request.sampler]
    x = sampler(denoise, torch.stack(noise).to(device) * sigmas[0], sigmas, watch=watch)
    return codec.decode(x.float().to(getattr(codec, "device", "cpu"))).clamp(-1, 1).cpu()


def _null(conditioner: Conditioner, cond: dict[str, Tensor], request: Request) -> dict[str, Tensor] | None:
    """What guidance leads away from: no text; no first frame either, where there is no prompt. None: no guidance."""
    if set(request.guidance) == {1.0}:
        return None
    prompted = any(prompt.strip() for prompt in request.prompts)
    led_by = {"text"} if prompted else {"text", "first_frame"}
    dropped = {slot.name for slot in conditioner.slots if slot.name in led_by and slot.dropout > 0}
    if not dropped:  # training never left it out: the network does not know how to do without it
        return None
    return conditioner.null(cond, keep=tuple(slot.name for slot in conditioner.slots if slot.name not in dropped))


class Sampler:
    """A run, loaded to sample from: the average of its newest stage, or of `stage`. Raises RunError, CodecError."""

    def __init__(self, root: str | Path, stage: str | None = None, device: str | torch.device = "cpu") -> None:
        self.run = Run.open(root)
        self.name, self.checkpoint = self.run.newest(stage)
        self.config: TrainConfig = self.run.config
        self.stage = self.config.stages[self.name]
        self.codec, self.encoder = self.run.codec(), build_encoder(self.config)
        network = self.run.network(self.name, self.checkpoint, self.codec, self.encoder).to(device)
        self.denoiser = Denoiser(network, self.config.denoiser)
        self.conditioner = build_conditioner(self.config, self.stage.temporal)

    def request(self, prompts: Sequence[str], **options: Any) -> Request:
        """A request with the run's defaults for all that is not named (or None). Raises RunError."""
        request = default_request(self.config, self.name, prompts, **options)
        if request.first is not None and not (self.stage.temporal and self.config.conditioning.first_frame):
            raise RunError(f"{self.run.root}: stage {self.name} was not trained with a first frame: leave --image out")
        if request.frames > 1 and not self.stage.temporal:
            raise RunError(f"{self.run.root}: stage {self.name} is an image stage: --frames must be 1")
        return request

    def __call__(self, request: Request, watch: Watch | None = None) -> Tensor:
        return generate(self.denoiser, self.conditioner, self.codec, self.encoder, request, watch)


def default_request(config: TrainConfig, name: str, prompts: Sequence[str], **options: Any) -> Request:
    """What a config's `samples` section says, for a stage; options that are not None take its place."""
    stage, samples = config.stages[name], config.samples
    rates = stage.rates
    rate = samples.fps or (rates[0] if isinstance(rates, list) else (rates.min + rates.max) / 2)
    values: dict[str, Any] = {
        "frames": min(samples.frames or max(stage.frames), max(stage.frames)),
        "size": stage.sizes[0],
        "fps": rate if stage.temporal else None,
        "sampler": samples.sampler,
        "steps": samples.steps,
        "sigma_min": samples.sigma_min,
        "sigma_max": samples.sigma_max,
        "guidance": samples.guidance,
        "seed": config.seed,
    }
    return Request(
        prompts=list(prompts), **values | {key: value for key, value in options.items() if value is not None}
    )
