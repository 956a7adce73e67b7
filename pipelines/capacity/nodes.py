"""Machines as text: `4x(16 CPU, 8 GPU, 256 GB)`, kinds joined by +."""

from __future__ import annotations

import math
import re

from pipelines.annotation.pools import Node

KIND = re.compile(r"(?:(\d+)\s*x\s*)?\(?([^()+]+)\)?")
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)(?:\s+of\s+(\d+(?:\.\d+)?)\s*GB)?")
EXAMPLE = "such as '4x(16 CPU, 8 GPU, 256 GB)' or '2x(64 CPU, 8 GPU of 80 GB, 1 TB) + 10x(64 CPU, 256 GB)'"


class NodesError(Exception):
    """One line: what is not understood, and an example."""


def parse_nodes(text: str) -> list[Node]:
    """The machines that a text names. Memory that it does not name is not counted. Raises NodesError."""
    found = []
    for part in text.split("+"):
        match = KIND.fullmatch(part.strip())
        if not match:
            raise NodesError(f"--nodes {text!r}: {part.strip()!r} is no kind of machine: write them {EXAMPLE}")
        found.append(_node(match[2], int(match[1] or 1), text))
    return found


def _node(inside: str, count: int, text: str) -> Node:
    has = {"CPU": 0.0, "GPU": 0.0, "GB": math.inf}
    gpu_gb = None
    for item in filter(None, (item.strip() for item in inside.split(","))):
        match = AMOUNT.fullmatch(item)
        unit = match[2].upper() if match else ""
        unit = unit[:-1] if unit in ("CPUS", "GPUS") else unit
        if match is None or unit not in (*has, "TB") or (match[3] and unit != "GPU"):
            raise NodesError(f"--nodes {text!r}: {item!r} is neither CPU, GPU nor GB: write machines {EXAMPLE}")
        amount = float(match[1])
        has["GB" if unit == "TB" else unit] = amount * 1000 if unit == "TB" else amount
        gpu_gb = float(match[3]) if match[3] else gpu_gb
    if has["CPU"] < 1 or count < 1:
        raise NodesError(f"--nodes {text!r}: a machine has at least 1 CPU, and there is at least one: {EXAMPLE}")
    return Node(has["CPU"], has["GPU"], has["GB"] * 1e9, count, gpu_gb)


def text_of(node: Node) -> str:
    """The inverse of `parse_nodes`, for one kind."""
    gpus = f", {node.gpus:g} GPU" + (f" of {node.gpu_gb:g} GB" if node.gpu_gb else "") if node.gpus else ""
    memory = f", {node.memory / 1e9:g} GB" if math.isfinite(node.memory) else ""
    return f"{node.count} x ({node.cpus:g} CPU{gpus}{memory})"
