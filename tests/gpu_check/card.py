"""The card itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import torch

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import Setting
from video_model.training.planning.cards import CARDS, here

SIDE = 8192


def card(setting: Setting) -> Iterator[Row]:
    """Its name, and the peak of products beside the data sheet's, which plans of time are made with."""
    machine = here("bfloat16")
    named = f"torch {torch.__version__}, CUDA {torch.version.cuda}, driver {_driver()}"
    yield Row("card", f"{machine.name}, {machine.gb:.1f} GB; {named}")
    dtype, side = (torch.bfloat16, SIDE) if setting.gpu else (torch.float32, 512)
    a, b = (torch.randn(side, side, device=setting.place, dtype=dtype) for _ in range(2))
    setting.seconds(lambda: a @ b)
    took = min(setting.seconds(lambda: [a @ b for _ in range(10)]) / 10 for _ in range(3))
    reached, share = 2 * side**3 / took / 1e12, 0.0
    known = setting.gpu and any(one.name.split("-")[0] in machine.name.lower() for one in CARDS)
    if known:
        share = reached / machine.tflops
    said = (
        f"{machine.tflops:.0f} TFLOP/s ({machine.source}), half of it at least"
        if known
        else "not in the planning table"
    )
    figure = f"{reached:.1f} TFLOP/s" + (f", {share:.0%}" if known else "")
    yield Row(
        f"products of {side} x {side} in {str(dtype).removeprefix('torch.')}",
        figure,
        said,
        share > 0.5 if known else None,
    )


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.split()
    return said[0] if said else "unknown"
