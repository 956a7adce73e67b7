"""The loss on clips that are never trained on, always the same ones with the same noise."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from video_model.config import Noise
from video_model.data.index import Index
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.parametrisations import Parametrisation
from video_model.errors import DataError
from video_model.latents.batches import Batches, BatchSpec, NoClip
from video_model.latents.cache import Cache, pad
from video_model.latents.live import LiveLatents
from video_model.training.steps.rows import draws, in_parts, moved, parts_of

LEVELS = (-2.0, -0.5, 1.0)  # ln(sigma): bounds of the noise levels that have a loss of their own


def held_out_batches(index: Index, store: Cache | LiveLatents, rows: int, spec: BatchSpec) -> list[Mapping[str, Any]]:
    """`rows` windows of held-out clips, in batches of one shape and at most `spec.batch` rows, always the same ones.

    All clips that can be used come before one comes again. [] where none can be used.
    """
    single = replace(spec, batch=1, images=0.0, image_batch=None, merge=True)  # no bucket is too small for one
    try:
        single = Batches(index, store, single)
    except DataError:
        return []
    alike: dict[tuple[int, ...], list[Mapping[str, Any]]] = {}
    with contextlib.closing(single):
        for step in range(rows):
            try:
                row = single.batch(step)
            except NoClip:
                continue
            alike.setdefault(row["latents"].shape, []).append(row)
    return [_joined(part[i : i + spec.batch]) for part in alike.values() for i in range(0, len(part), spec.batch)]


class RowLosses(NamedTuple):
    """losses, sigmas [N]; clips: the clip of each row."""

    losses: Tensor
    sigmas: Tensor
    clips: list[str]


@torch.no_grad()
def losses_by_row(
    denoiser: Denoiser,
    conditioner: Conditioner,
    noise: Noise,
    batches: Sequence[Mapping[str, Any]],
    at_once: int | None = None,
) -> RowLosses:
    """The training loss (see Denoiser.loss) of each of fixed rows, always with the same noise.

    at_once: rows of one forward pass, at most.
    """
    device = next(denoiser.network.parameters()).device
    losses, sigmas, clips = [], [], []
    for step, batch in enumerate(batches):
        for first, part in in_parts(batch, parts_of(len(batch["latents"]), 1, at_once)):
            given = moved(draws("held out", noise, conditioner, step, first, part), device)
            losses.append(denoiser.loss(*given[:3], conditioner.encoded(given[3])).cpu())
            sigmas.append(given[2].cpu())
        clips += batch.get("keys") or [f"{step}/{row}" for row in range(len(batch["latents"]))]
    return RowLosses(torch.cat(losses), torch.cat(sigmas), clips)


def held_out_loss(
    denoiser: Denoiser,
    conditioner: Conditioner,
    noise: Noise,
    batches: Sequence[Mapping[str, Any]],
    at_once: int | None = None,
) -> dict[str, float]:
    """Mean loss over fixed rows, and by noise level: `held_out_loss/sigma_<low>_<high>`. at_once: as in losses_by_row."""
    loss, sigma, _ = losses_by_row(denoiser, conditioner, noise, batches, at_once)
    level, numbers = sigma.log(), {"held_out_loss": float(loss.mean())}
    edges = [-torch.inf, *LEVELS, torch.inf]
    for low, high in itertools.pairwise(edges):
        inside = (level >= low) & (level < high)
        if inside.any():
            name = f"held_out_loss/sigma_{_sigma(low)}_{_sigma(high)}"
            numbers[name] = float(loss[inside].mean())
    return numbers


def loss_of_nothing(parametrisation: Parametrisation, sigma: float) -> float:
    """The loss of a network whose output is 0, on data of mean 0 and variance 1: the mean square of its target."""
    skip, out, *_ = parametrisation.scales(torch.tensor([sigma]))
    return float(((1 - skip) ** 2 + (skip * sigma) ** 2) / out**2)  # the target is (x0 - skip (x0 + sigma noise)) / out


def _joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches of one row as one batch; their texts are padded anew."""
    made: dict[str, Any] = {
        "keys": [key for row in rows for key in row["keys"]],
        "captions": [caption for row in rows for caption in row["captions"]],
    }
    made["text"], made["text_mask"] = pad([row["text"][0][row["text_mask"][0]] for row in rows])
    for name, value in rows[0].items():
        if isinstance(value, Tensor) and name not in made:
            made[name] = torch.cat([row[name] for row in rows])
    return made


def _sigma(log: float) -> str:
    return f"{torch.tensor(log).exp().item():.2g}"
