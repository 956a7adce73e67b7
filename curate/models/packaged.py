"""Finding weights that come inside installed packages, without importing those packages.

Some of them print, patch or load when imported, so a package is located by its import spec only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from curate.base.extras import install
from curate.models import MissingWeights, Weights


def packaged(role: str, model: str, distribution: str, module: str, file: str) -> Weights:
    """Where `file` (relative to the package `module` of `distribution`) is; path None if package or file is missing."""
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = next((Path(folder, file) for folder in folders if Path(folder, file).is_file()), None)
    try:
        version = " " + importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    source = f"{file} of package {distribution}{version}"
    return Weights(role=role, model=model, path=found, source=source, get=install(distribution))


def require(weights: Weights) -> Path:
    """The path of weights that are there; raises MissingWeights when they are not."""
    if weights.path is None:
        raise MissingWeights(weights)
    return weights.path
