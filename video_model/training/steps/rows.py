"""What each row of a step is trained with: its noise, the level of it, and which conditions are dropped out."""

from __future__ import annotations

import hashlib
import itertools
import math
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
    """What `draws` gave, on a device. A GPU copies while it works on what it has."""

    def put(value: Tensor) -> Tensor:
        return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)

    *tensors, cond = given
    return *(put(value) for value in tensors), {key: put(value) for key, value in cond.items()}


def parts_of(rows: int, accumulate: int, micro_batch: int | None) -> int:
    """How many parts a worker's rows are worked on in: `accumulate` at least, and none of more than `micro_batch` rows."""
    return max(min(accumulate, rows), math.ceil(rows / micro_batch) if micro_batch else 1)


def in_parts(batch: Batch, parts: int) -> Iterator[tuple[int, Batch]]:
    """Slices of a batch, as even as can be, each with the row that it begins at."""
    rows = len(batch["latents"])
    edges = [rows * part // parts for part in range(parts + 1)]
    for first, last in itertools.pairwise(edges):
        yield (
            first,
            {key: value[first:last] if isinstance(value, (Tensor, list)) else value for key, value in batch.items()},
        )
