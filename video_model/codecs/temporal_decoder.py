"""Temporal layers for the small codec's decoder, fine-tuned against flicker while everything else stays frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_model.codecs.protocol import CodecError, to_float
from video_model.codecs.small import SmallCodec
from video_model.codecs.small_training import ALONE, share_gradients, warm_then_cosine
from video_model.measures import flicker, flicker_error, psnr
from video_model.workers import TrainingWorker


@dataclass(frozen=True)
class TemporalReport:
    """Round trip of held-out windows by the image decoder (`_start`) and by the temporal one, with the latent noise given.

    psnr: dB. flicker: frame-difference energy over that of the real windows, 1 is right. flicker_error: energy of the
    frame differences of the error over that of the real windows, 0 is right. steps: done.
    """

    psnr_start: float
    psnr: float
    flicker_start: float
    flicker: float
    flicker_error_start: float
    flicker_error: float
    steps: int


def with_temporal_layers(codec: SmallCodec, seed: int = 0) -> SmallCodec:
    """A copy of the codec whose decoder has temporal layers; fresh ones leave its pixels the same to the bit."""
    if codec.config.temporal:
        raise CodecError("the codec's decoder has temporal layers already; train them on, or start from an image codec")
    grown = SmallCodec(codec.config.model_copy(update={"temporal": True}), seed=seed)
    grown.load_state_dict(codec.state_dict(), strict=False)
    return grown.to(codec.device)


@dataclass(frozen=True)
class TemporalOptions:
    """How the temporal layers are trained.

    difference_weight: of the error of frame differences (ours). adversarial_weight: norm of the generator term's gradient over
    that of the rest, from a quarter of the steps on (after Esser et al. 2021, VQGAN, there at the last layer only).
    latent_noise: deviation of noise added to the unit-scale latents, in training and in the report: what a diffusion model
    samples is not clean, and noise of its own in every frame is what flickers most. With 0 the decoder is fitted to clean
    round trips; with more it gives up a little of those (some 0.2 dB at 0.1).
    """

    batch: int = 8
    learning_rate: float = 3e-3
    difference_weight: float = 1.0
    adversarial_weight: float = 0.05
    latent_noise: float = 0.1


DEFAULTS = TemporalOptions()


def train_temporal_decoder(
    codec: SmallCodec,
    windows: Tensor,
    steps: int,
    seed: int = 0,
    *,
    held_out: Tensor | None = None,
    options: TemporalOptions = DEFAULTS,
    progress: Callable[[int, int, float], None] | None = None,
    worker: TrainingWorker = ALONE,
) -> tuple[SmallCodec, TemporalReport]:
    """Adds temporal layers to a trained codec and trains them alone, with a 3-D patch discriminator.

    As Blattmann et al. 2023 (Align your Latents, arXiv 2304.08818, section 3.1.1), with the encoder frozen; here the 2-D
    decoder is frozen too, so a single image decodes as before, and latents cached with the codec stay valid. Loss: mean
    squared error of pixels in [-1, 1], plus that of frame differences, plus the hinge loss's generator term.
    windows: uint8 [N, T, 3, H, W], T >= 2. held_out: the like; when not given the last tenth of `windows`, which is
    then not trained on. worker: as of `train_codec`. The same arguments give the same weights on one machine's CPU. Raises
    CodecError.
    """
    train, test = split(codec, windows, held_out)
    codec = codec if codec.config.temporal else with_temporal_layers(codec, seed)
    start = round_trip(codec, test, options.latent_noise, images=True)
    draw = torch.Generator().manual_seed(seed)
    generator = _Generator(codec, steps, options, worker)
    critic = _Critic(codec, seed, worker)
    worker.as_first([*codec.parameters(), *codec.buffers(), *critic.network.parameters()])
    rows, weight = worker.share(options.batch)
    with _only(codec, generator.learned):
        for step in range(steps):
            chosen = torch.randint(len(train), (options.batch,), generator=draw)
            real = to_float(train[chosen[rows]].to(codec.device))
            fake = generator.rebuilt(real, draw, rows)
            loss = weight * generator.loss(fake, real)
            told = worker.mean(loss.detach().clone())
            if not torch.isfinite(told):
                raise CodecError(f"temporal decoder: loss {told.item()} at step {step}; lower the learning rate")
            adversarial = options.adversarial_weight > 0 and step >= steps // 4
            generator.update(loss, -weight * critic.network(fake).mean() if adversarial else None)
            if options.adversarial_weight:
                critic.update(real, fake.detach(), weight)
            if progress:
                progress(step + 1, steps, told.item())
    end = round_trip(codec, test, options.latent_noise, images=False)
    return codec, TemporalReport(*interleave(start, end), steps=steps)


class _Generator:
    """The temporal layers of the decoder and how they are trained."""

    def __init__(self, codec: SmallCodec, steps: int, options: TemporalOptions, worker: TrainingWorker) -> None:
        self.codec, self.options, self.worker = codec, options, worker
        self.learned = [*codec.decoder.temporal_blocks.parameters(), *codec.decoder.temporal_out.parameters()]
        rate = options.learning_rate
        self.optimiser = torch.optim.AdamW(self.learned, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: warm_then_cosine(step, steps))

    def rebuilt(self, real: Tensor, draw: torch.Generator, rows: slice) -> Tensor:
        """The round trip [B, T, 3, H, W] of noisy latents; rows: of the batch, which these are."""
        latents = self.codec.encode(real)
        if self.options.latent_noise:
            noise = torch.randn((self.options.batch, *latents.shape[1:]), generator=draw)[rows]
            latents = latents + self.options.latent_noise * noise.to(real.device)
        return self.codec.to_pixels(latents.flatten(0, 1), real.shape[1]).unflatten(0, real.shape[:2])

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        pixels = F.mse_loss(fake, real)  # first: gradients are summed in the order in which their terms were made
        return pixels + self.options.difference_weight * F.mse_loss(fake.diff(dim=1), real.diff(dim=1))

    def update(self, loss: Tensor, fooling: Tensor | None) -> None:
        """One step down the loss; fooling: the generator term, of which as much is added as the options ask for."""
        gradients = self.worker.average(torch.autograd.grad(loss, self.learned, retain_graph=fooling is not None))
        if fooling is not None:
            other = self.worker.average(torch.autograd.grad(fooling, self.learned))
            gradients = balanced(gradients, other, self.options.adversarial_weight)
        for parameter, gradient in zip(self.learned, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimiser.step()
        self.schedule.step()


class _Critic:
    """The discriminator and how it is trained: the hinge loss."""

    def __init__(self, codec: SmallCodec, seed: int, worker: TrainingWorker) -> None:
        self.worker = worker
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PatchDiscriminator().to(codec.device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, betas=(0.5, 0.9), weight_decay=1e-4)

    def update(self, real: Tensor, fake: Tensor, weight: float) -> None:
        hinge = F.relu(1 - self.network(real)).mean() + F.relu(1 + self.network(fake)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        (weight * hinge).backward()
        share_gradients(list(self.network.parameters()), self.worker)
        self.optimiser.step()


@contextmanager
def _only(codec: SmallCodec, learned: Sequence[nn.Parameter]) -> Iterator[None]:
    """Nothing else of the codec has gradients meanwhile."""
    before = [parameter.requires_grad for parameter in codec.parameters()]
    codec.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in zip(codec.parameters(), before, strict=True):
            parameter.requires_grad_(wanted)


class PatchDiscriminator(nn.Module):
    """Scores each patch of a video as real or not: [B, T, 3, H, W] to scores [B, 1, t, h, w], t ~ T/2, h ~ H/8."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), (1, 1, 1)),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, (3, 4, 4), (2, 2, 2), (1, 1, 1)),
            nn.GroupNorm(4, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 4 * width, (3, 4, 4), (1, 2, 2), (1, 1, 1)),
            nn.GroupNorm(4, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(4 * width, 1, (3, 3, 3), padding=1),
        )

    def forward(self, video: Tensor) -> Tensor:
        return self.layers(video.transpose(1, 2))


def balanced(main: Sequence[Tensor], other: Sequence[Tensor], share: float) -> list[Tensor]:
    """main + k * other, with k such that the norm of the second term, over all tensors, is `share` of the first's."""
    first, second = (torch.stack([part.norm() for part in parts]).norm() for parts in (main, other))
    factor = share * first / (second + 1e-12)
    return [gradient + factor * extra for gradient, extra in zip(main, other, strict=True)]


def split(codec: SmallCodec, windows: Tensor, held_out: Tensor | None) -> tuple[Tensor, Tensor]:
    for name, part in (("windows", windows), ("held_out", held_out)):
        if part is None:
            continue
        if part.dtype != torch.uint8 or part.ndim != 5 or part.shape[2] != 3 or part.shape[1] < 2 or len(part) == 0:
            raise CodecError(f"{name}: uint8 [N, T >= 2, 3, H, W] expected (got {part.dtype} {list(part.shape)})")
        if part.shape[3] % codec.factor or part.shape[4] % codec.factor:
            size = "x".join(str(side) for side in part.shape[3:])
            raise CodecError(f"{name}: pictures of {size} px; sides must be multiples of {codec.factor} px")
    if held_out is not None:
        return windows, held_out
    tenth = max(1, len(windows) // 10)
    if len(windows) - tenth < 1:
        raise CodecError("windows: one window cannot be trained on and held out; give two, or held_out")
    return windows[:-tenth], windows[-tenth:]


def round_trip(codec: SmallCodec, windows: Tensor, noise: float, images: bool) -> tuple[float, float, float]:
    """PSNR, flicker and flicker error of the decoded windows, uint8 [N, T, 3, H, W]; the noise is always the same."""
    draw = torch.Generator().manual_seed(0)
    real = torch.cat([to_float(part.to(codec.device)) for part in windows.split(8)])
    rebuilt = []
    for part in real.split(8):
        latents = codec.encode(part)
        latents = latents + noise * torch.randn(latents.shape, generator=draw).to(codec.device)
        rebuilt.append(codec.decode(latents, images=images))
    fake = torch.cat(rebuilt)
    return psnr(fake, real), flicker(fake, real), flicker_error(fake, real)


def interleave(start: tuple[float, ...], end: tuple[float, ...]) -> list[float]:
    return [value for pair in zip(start, end, strict=True) for value in pair]
