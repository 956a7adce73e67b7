"""Pretrained weights: those inside installed packages found, one clear error for what is missing, and their hash."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from curate.base.extras import install


class WeightsMissing(Exception):
    """Pretrained weights that cannot be used. thing: which; reason: why not; mend: what to do about it."""

    def __init__(self, thing: str, reason: str, mend: str) -> None:
        super().__init__(f"{thing}: {reason}; {mend}")
        self.thing, self.reason, self.mend = thing, reason, mend


def packaged_file(thing: str, distribution: str, module: str, file: str) -> Path:
    """Path of `file` inside the package `module`, which is not imported. Raises WeightsMissing."""
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, file).is_file():
            return Path(folder, file)
    reason = f"package {distribution} has no {file}" if spec else f"package {distribution} is not installed"
    raise WeightsMissing(thing, reason, install(distribution, "train"))


def digest(state: Mapping[str, Tensor], *also: str) -> str:
    """First 16 hex digits of the SHA-256 of tensors, in order of their names, and of texts."""
    total = hashlib.sha256("\n".join(also).encode())
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return total.hexdigest()[:16]


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
