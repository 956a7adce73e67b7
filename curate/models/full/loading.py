"""Shared by the adapters of this pack: device and precision, batches, and a strict load through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
DTYPES = ("float32", "bfloat16", "float16")


def placement(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Resolve `device` ("auto": CUDA if there is one, else the CPU; or "cpu", "cuda:1" ...) and `dtype`."""
    import torch

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)} (got {dtype!r})")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device} requested, but torch sees no CUDA device; use device: auto or cpu")
    return torch.device(device), getattr(torch, dtype)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `size` items."""
    if size < 1:
        raise ValueError(f"batch must be >= 1 (got {size})")
    for start in range(0, len(items), size):
        yield items[start : start + size]


def pretrained(kind: Any, folder: Path, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """`kind.from_pretrained(folder)` without the network, in eval mode; weights that the files lack are an error.

    transformers initialises missing weights randomly and logs a line; such a model still writes sentences. ValueError names
    the first missing weights.
    """
    model, info = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are not in the files "
            f"({', '.join(missing[:3])} ...); the folder holds another model, or a part of this one"
        )
    return model.to(device).eval()
