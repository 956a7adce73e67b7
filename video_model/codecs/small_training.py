"""Training of the small codec on frames of the run's own data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_model.codecs.protocol import CodecError, to_float
from video_model.codecs.small import SmallCodec
from video_model.workers import TrainingWorker

ALONE = TrainingWorker()


@dataclass(frozen=True)
class CodecReport:
    """psnr_start, psnr: of held-out frames, dB, with PCA alone and after training. steps: done.

    latent_mean, latent_std: of each channel over the held-out frames, after normalisation; 0 and 1 would be ideal.
    """

    psnr_start: float
    psnr: float
    steps: int
    latent_mean: list[float]
    latent_std: list[float]


def train_codec(
    codec: SmallCodec,
    frames: Tensor,
    steps: int,
    seed: int = 0,
    *,
    held_out: Tensor | None = None,
    batch: int = 16,
    learning_rate: float = 1e-3,
    kl_weight: float = 1e-6,
    progress: Callable[[int, int, float], None] | None = None,
    worker: TrainingWorker = ALONE,
) -> CodecReport:
    """Fits the PCA start if it is not there, trains the residual (AdamW, cosine rate), normalises the latents.

    Loss: mean squared error of pixels in [-1, 1], plus kl_weight times the KL divergence per latent from N(0, 1).
    frames: uint8 [N, 3, H, W], sides multiples of the factor. held_out: the like, for the report; when not given, the
    last tenth of `frames`, which is then not trained on. progress(step, steps, loss) is called after every step.
    worker: one of several that all call this with the same arguments: each works on a share of every batch, and all end with
    the same weights, which differ from those of one worker by rounding. The same arguments give the same weights to the bit
    on one machine's CPU. Raises CodecError.
    """
    train, test = split(codec, frames, held_out)
    if not codec.fitted:
        codec.fit(train)
    worker.as_first([*codec.parameters(), *codec.buffers()])
    rows, weight = worker.share(batch)
    codec.latent_mean.zero_()
    codec.latent_std.fill_(1)
    psnr_start = measured_psnr(codec, test)
    device = codec.device
    draw = torch.Generator().manual_seed(seed)
    parameters = [*codec.encoder.parameters(), *codec.decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_then_cosine(step, steps))
    codec.train()
    for step in range(steps):
        chosen = torch.randint(len(train), (batch,), generator=draw)
        pixels = to_float(train[chosen[rows]].to(device))
        mean, log_variance = codec.posterior(pixels)
        noise = torch.randn((batch, *mean.shape[1:]), generator=draw)[rows].to(device)
        rebuilt = codec.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = weight * (F.mse_loss(rebuilt, pixels) + kl_weight * divergence)
        told = worker.mean(loss.detach().clone())
        if not torch.isfinite(told):
            raise CodecError(f"codec: the loss is {told.item()} at step {step}; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(parameters, worker)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if progress:
            progress(step + 1, steps, told.item())
    codec.eval()
    normalise(codec, train)
    mean, std = moments(codec, test)
    return CodecReport(psnr_start, measured_psnr(codec, test), steps, mean.tolist(), std.tolist())


def share_gradients(parameters: Sequence[nn.Parameter], worker: TrainingWorker) -> None:
    """The mean over the workers takes the place of each gradient."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter, gradient in zip(trained, worker.average([p.grad for p in trained]), strict=True):
        parameter.grad = gradient


def split(codec: SmallCodec, frames: Tensor, held_out: Tensor | None) -> tuple[Tensor, Tensor]:
    for name, part in (("frames", frames), ("held_out", held_out)):
        if part is None:
            continue
        if part.dtype != torch.uint8 or part.ndim != 4 or part.shape[1] != 3:
            raise CodecError(f"{name}: uint8 [N, 3, H, W] expected (got {part.dtype} {list(part.shape)})")
        if len(part) == 0 or part.shape[2] % codec.factor or part.shape[3] % codec.factor:
            size = "x".join(str(side) for side in part.shape[2:])
            raise CodecError(f"{name}: {len(part)} of {size} px; at least one, sides multiples of {codec.factor} px")
    if held_out is not None:
        return frames, held_out
    tenth = max(1, len(frames) // 10)
    if len(frames) - tenth < 1:
        raise CodecError("frames: one frame cannot be trained on and held out; give two, or held_out")
    return frames[:-tenth], frames[-tenth:]


def warm_then_cosine(step: int, steps: int) -> float:
    """Share of the learning rate at a step from 0: rises over the first twentieth, then falls to 0 as a cosine."""
    return min(1.0, (step + 1) / max(1, steps // 20)) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


@torch.no_grad()
def normalise(codec: SmallCodec, frames: Tensor) -> None:
    """Sets the codec's latent mean and deviation from frames, uint8 [N, 3, H, W]; a dead channel keeps deviation 1."""
    codec.latent_mean.zero_()
    codec.latent_std.fill_(1)
    mean, std = moments(codec, frames)
    codec.latent_mean.copy_(mean)
    codec.latent_std.copy_(torch.where(std > 1e-2, std, torch.ones_like(std)))


@torch.no_grad()
def moments(codec: SmallCodec, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [C] of the normalised latents of frames, uint8 [N, 3, H, W]."""
    total, square, count = 0.0, 0.0, 0
    for part in frames.split(64):
        rows = codec.encode(to_float(part)[None])[0].double().movedim(1, -1).flatten(0, -2)
        total, square, count = total + rows.sum(0), square + rows.square().sum(0), count + len(rows)
    mean = total / count
    return mean.float(), (square / count - mean.square()).clamp(min=0).sqrt().float()


@torch.no_grad()
def measured_psnr(codec: SmallCodec, frames: Tensor) -> float:
    """Peak signal to noise of the round trip of uint8 [N, 3, H, W] as pixels in [-1, 1]: 10 log10(4 / MSE), dB."""
    error, count = 0.0, 0
    for part in frames.split(64):
        pixels = to_float(part.to(codec.device))[None]
        error += (codec.decode(codec.encode(pixels), images=True) - pixels).double().square().sum().item()
        count += pixels.numel()
    return float(10 * torch.log10(torch.tensor(4.0 * count / max(error, 1e-20 * count), dtype=torch.float64)))
