"""The loss on clips that are never trained on, always the same ones with the same noise."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from video_model.conditioning import Conditioner
from video_model.config import Noise
from video_model.data import Batches, DataError, Index
from video_model.denoiser import Denoiser
from video_model.train import draws, moved

LEVELS = (-2.0, -0.5, 1.0)  # ln(sigma): bounds of the noise levels that the loss is told apart by


def held_out_batches(index: Index, store: Any, rows: int, **options: Any) -> list[Mapping[str, Any]]:
    """About `rows` rows of held-out clips, one window each; [] where none can be used. options: of `Batches`."""
    size = min(options.pop("batch"), max(1, len(index)))
    try:
        batches = Batches(index, store, batch=size, images=0.0, merge=True, **options)
    except DataError:
        return []
    return [batches.batch(step) for step in range(-(-rows // size))]


@torch.no_grad()
def held_out_loss(
    denoiser: Denoiser, conditioner: Conditioner, noise: Noise, batches: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Mean training loss (see Denoiser.loss) over fixed rows, and by noise level: `held_out_loss/sigma_<low>_<high>`."""
    device = next(denoiser.network.parameters()).device
    losses, sigmas = [], []
    for step, batch in enumerate(batches):
        given = moved(draws("held out", noise, conditioner, step, 0, batch), device)
        losses.append(denoiser.loss(*given).cpu())
        sigmas.append(given[2].cpu())
    loss, level = torch.cat(losses), torch.cat(sigmas).log()
    numbers = {"held_out_loss": float(loss.mean())}
    edges = [-torch.inf, *LEVELS, torch.inf]
    for low, high in itertools.pairwise(edges):
        inside = (level >= low) & (level < high)
        if inside.any():
            name = f"held_out_loss/sigma_{_sigma(low)}_{_sigma(high)}"
            numbers[name] = float(loss[inside].mean())
    return numbers


def _sigma(log: float) -> str:
    return f"{torch.tensor(log).exp().item():.2g}"
