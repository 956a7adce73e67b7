"""What each row of a step is trained with: its noise, the level of it, and which conditions are dropped out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from video_model.config import Noise
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import lognormal

Batch = Mapping[str, Any]


def draws(
    name: str, noise: Noise, conditioner: Conditioner, step: int, first_row: int, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """clean and noise [B, T, C, h, w], sigma [B], cond: what rows `first_row` and on of a step's batch are trained with.

    Each row has a generator of its own, seeded by name, step and row, so that neither other rows nor the number of
    workers or parts matter. name: of the seed and the stage.
    """
    drawn, sigma, conds = [], [], []
    for row in range(len(batch["latents"])):
        text = f"{name}/{step}/{first_row + row}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(seed)
        sigma.append(lognormal(noise.mean, noise.std, 1, generator))
        drawn.append(torch.randn(batch["latents"].shape[1:], generator=generator))
        one = {key: value[row : row + 1] for key, value in batch.items() if isinstance(value, Tensor)}
        conds.append(conditioner(one, generator, train=True))
    cond = {key: torch.cat([found[key] for found in conds]) for key in conds[0]}
    return batch["latents"].float(), torch.stack(drawn), torch.cat(sigma), cond


def moved(given: tuple[Tensor, Tensor, Tensor, dict[str, Tensor]], device: torch.device) -> tuple[Any, ...]:
    """What `draws` gave, on a device."""
    *tensors, cond = given
    return *(value.to(device) for value in tensors), {key: value.to(device) for key, value in cond.items()}


def in_parts(batch: Batch, parts: int) -> Iterator[tuple[int, Batch]]:
    """Slices of a batch, each with the row that it begins at; the last may be shorter."""
    rows = len(batch["latents"])
    size = -(-rows // parts)
    for first in range(0, rows, size):
        yield (
            first,
            {
                key: value[first : first + size] if isinstance(value, (Tensor, list)) else value
                for key, value in batch.items()
            },
        )
