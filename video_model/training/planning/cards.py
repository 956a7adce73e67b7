"""Machines that a plan is made for: memory, and peak of products, as their makers' data sheets say (dense, no sparsity)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import psutil
import torch

from video_model.errors import RunError


@dataclass(frozen=True)
class Card:
    """low, full: peak TFLOP/s of products in bfloat16 (summed in float32), and in float32."""

    name: str
    gb: int
    low: float
    full: float
    source: str


CARDS = [
    Card("b200", 180, 2250, 75, "NVIDIA DGX B200 data sheet, a GPU"),
    Card("h200", 141, 989, 67, "NVIDIA H200 data sheet, SXM"),
    Card("h100", 80, 989, 67, "NVIDIA H100 data sheet, SXM"),
    Card("a100", 80, 312, 19.5, "NVIDIA A100 data sheet, 80 GB"),
    Card("a100-40", 40, 312, 19.5, "NVIDIA A100 data sheet, 40 GB"),
    Card("l40s", 48, 362, 91.6, "NVIDIA L40S data sheet"),
    Card("a6000", 48, 155, 38.7, "NVIDIA RTX A6000, Ampere GA102 white paper"),
    Card("4090", 24, 165, 82.6, "NVIDIA Ada GPU architecture white paper"),
    Card("3090", 24, 71, 35.6, "NVIDIA Ampere GA102 white paper"),
    Card("l4", 24, 121, 30.3, "NVIDIA L4 data sheet"),
    Card("a10", 24, 125, 31.2, "NVIDIA A10 data sheet"),
]
USUAL = {180: "b200", 141: "h200", 80: "h100", 48: "l40s", 40: "a100-40", 24: "4090"}  # by memory, where none is named


@dataclass(frozen=True)
class Machine:
    """workers: GPUs, or 1 for a CPU. kind: cuda or cpu. gb: of one, in 10^9 bytes. tflops: peak of one in the run's precision."""

    workers: int
    kind: str
    gb: float
    tflops: float
    name: str
    source: str


def machine(gpus: str | None, card: str | None, precision: str) -> Machine:
    """`8x80GB`, and a card by name; None: this machine. Raises RunError."""
    if gpus is None and card is None:
        return here(precision)
    found = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)\s*GB", gpus or "1x0GB", re.IGNORECASE)
    if not found or int(found[1]) < 1:
        raise RunError(f"--gpus {gpus}: write it as 8x80GB, the number of GPUs and the memory of one")
    count, gb = int(found[1]), float(found[2])
    chosen = card.lower() if card else USUAL.get(int(gb), "h100")
    known = next((one for one in CARDS if one.name == chosen), None)
    if known is None:
        raise RunError(f"--gpu {card}: choose from {', '.join(one.name for one in CARDS)}, or leave it out")
    tflops = known.full if precision == "float32" else known.low
    return Machine(count, "cuda", gb or known.gb, tflops, known.name, known.source)


def here(precision: str) -> Machine:
    """This machine's GPUs, or its CPU, whose peak is measured."""
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        known = next((one for one in CARDS if one.name.split("-")[0] in facts.name.lower()), CARDS[2])
        tflops = known.full if precision == "float32" else known.low
        memory = facts.total_memory / 1e9
        return Machine(torch.cuda.device_count(), "cuda", memory, tflops, facts.name, known.source)
    a, began = torch.randn(1024, 1024), time.perf_counter()
    a @ a
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        a @ a
        count += 1
    tflops = 2 * 1024**3 * count / (time.perf_counter() - began) / 1e12
    return Machine(
        1, "cpu", psutil.virtual_memory().available / 1e9, tflops, "this machine's CPU", "measured in float32"
    )
