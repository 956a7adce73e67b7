"""Weights inside installed packages: where they are, and one error for what is missing.

Some of these packages print, patch or load weights when imported, so they are located by import spec only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from curate.base.extras import install_command

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightsMissing(Exception):
    """Pretrained weights that cannot be used. model: its name; reason; fix."""

    def __init__(self, model: str, reason: str, fix: str) -> None:
        super().__init__(f"{model}: {reason}; {fix}")
        self.model, self.reason, self.fix = model, reason, fix


def packaged_file(module: str, file: str) -> Path | None:
    """Path of `file` (relative to it) inside the package `module`; None where there is no package or no such file."""
    spec = importlib.util.find_spec(module)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((Path(folder, file) for folder in folders if Path(folder, file).is_file()), None)


def require_file(model: str, distribution: str, module: str, file: str) -> Path:
    """As `packaged_file`, but raises WeightsMissing. distribution: the package's name in an index."""
    found = packaged_file(module, file)
    if found is None:
        there = importlib.util.find_spec(module)
        reason = f"package {distribution} has no {file}" if there else f"package {distribution} is not installed"
        raise WeightsMissing(model, reason, install_command(distribution, "train"))
    return found


def version_of(distribution: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load every tensor of the model; `state` may hold others. Raises WeightsMissing for a missing one or another shape."""
    own = model.state_dict()
    for key, value in own.items():
        if key not in state and "position_ids" in key:
            continue
        if key not in state or state[key].shape != value.shape:
            reason = f"{path} has {'another shape of' if key in state else 'no'} {key}"
            raise WeightsMissing(name, reason, "the file is of another model or damaged: fetch it again")
    model.load_state_dict({key: state[key].float() for key in own if key in state}, strict=False)
