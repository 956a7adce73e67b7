"""Checkpoints that are there whole or not at all, and the last good one found by itself; `saving` writes them.

    FOLDER/step-00000500/network.safetensors, ema.safetensors, optimizer.safetensors   named tensors
    FOLDER/step-00000500/network-00000-of-00008.safetensors ...                        or the shards of each worker
    FOLDER/step-00000500/state.json                                                    step, facts, size of each file

No pickle. Shards are put together by whoever reads them: a run may be resumed by another number of workers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from video_model.tensor_files import TensorFiles

STATE = "state.json"


class CheckpointError(Exception):
    """One line: the folder, the reason, the fix."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    facts: dict[str, Any]

    def part(self, name: str) -> TensorFiles:
        """The tensors saved as `name`, to be read one by one. CheckpointError where a file is damaged."""
        shards = sorted(self.path.glob(f"{name}-*-of-*.safetensors"))
        try:
            return TensorFiles(shards or [self.path / f"{name}.safetensors"])
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.path}/{name}: cannot be read ({error}): delete the folder, the one before is used"
            ) from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All of them, whole."""
        part = self.part(name)
        return {key: part.read(key) for key in part.shapes}


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; older ones are looked at where it is damaged. None: there is none."""
    for path in found_in(folder):
        if (found := _read(path)) is not None:
            return found
    return None


def _read(path: Path) -> Checkpoint | None:
    try:
        state = json.loads((path / STATE).read_text())
        for name, size in state["files"].items():
            if (path / name).stat().st_size != size:
                return None
            with safe_open(path / name, framework="pt") as file:  # its header is whole
                file.keys()
        return Checkpoint(path, int(state["step"]), dict(state["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def found_in(folder: Path) -> list[Path]:
    """Newest first; what was being written is not among them."""
    return sorted(folder.glob("step-*"), reverse=True)
