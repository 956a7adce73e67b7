"""Weights of a model inside an installed package."""

from __future__ import annotations

from pathlib import Path

from curate.base.extras import install_command
from curate.base.packaged import packaged_file, version_of
from curate.weights import MissingWeights, Weights


def packaged(role: str, model: str, distribution: str, module: str, file: str) -> Weights:
    """Where `file` (relative to the package `module` of `distribution`) is; path None if package or file is missing."""
    version = version_of(distribution)
    source = f"{file} of package {distribution}{' ' + version if version else ''}"
    return Weights(role, model, packaged_file(module, file), source, get=install_command(distribution))


def require(weights: Weights) -> Path:
    """The path of weights. Raises MissingWeights if they are not found."""
    if weights.path is None:
        raise MissingWeights(weights)
    return weights.path
