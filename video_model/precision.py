"""Which precision is worked in: of networks that are trained (autocast), and of those that are frozen (their weights)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> Any:
    """A context: weights stay float32, and what gains by it is computed in `precision`; nothing for float32."""
    low = DTYPES[precision]
    return nullcontext() if low == torch.float32 else torch.autocast(device.type, low)


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Of the weights of frozen networks, by `loop.frozen_precision`; auto: bfloat16 on a GPU, float32 on a CPU."""
    if precision == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[precision]
