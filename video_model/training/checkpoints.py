"""Checkpoints that are there whole or not at all, and the last good one found by itself.

    FOLDER/step-00000500/network.safetensors, ema.safetensors, optimizer.safetensors   named tensors
    FOLDER/step-00000500/state.json                                                    step, facts, size of each file

Written aside as `.step-...`, flushed to the disk, renamed. No pickle.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from curate.base.files import atomic_folder

STATE = "state.json"


class CheckpointError(Exception):
    """One line: the folder, the reason, the fix."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    facts: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved as `name`. CheckpointError where the file is damaged."""
        path = self.path / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}): delete the folder, the one before is used"
            ) from None


def save(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], keep: int
) -> Checkpoint:
    """Write FOLDER/step-<step>, then delete all but the newest `keep` others. A full disk leaves what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}"
    path = folder / name
    try:
        with atomic_folder(path) as aside:  # one that is there is damaged, or it would have been resumed
            sizes = {}
            for part, tensors in parts.items():
                file = aside / f"{part}.safetensors"
                save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, file)
                sizes[file.name] = file.stat().st_size
            state = {"step": step, "files": sizes, "facts": dict(facts)}
            (aside / STATE).write_text(json.dumps(state, indent=1))
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        fix = "free some space" if full else "check the disk"
        reason = "the disk is full" if full else str(error)
        raise CheckpointError(
            f"{path}: the checkpoint of step {step} cannot be written: {reason}; {fix}, then use --resume"
        ) from None
    for old in _found(folder)[keep + 1 :]:
        shutil.rmtree(old)
    return Checkpoint(path, step, dict(facts))


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; older ones are looked at where it is damaged. None: there is none."""
    for path in _found(folder):
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


def _found(folder: Path) -> list[Path]:
    """Newest first; what was being written is not among them."""
    return sorted(folder.glob("step-*"), reverse=True)
