"""The hash that tells weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(state: Mapping[str, Tensor], *also: str) -> str:
    """First 16 hex digits of the SHA-256 of tensors, in order of their names, and of texts."""
    total = hashlib.sha256("\n".join(also).encode())
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return total.hexdigest()[:16]
