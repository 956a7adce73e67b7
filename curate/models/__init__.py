"""Adapters around pretrained models, one protocol a role, in two packs: `embedded` (weights inside packages, offline) and `full` (the paper's).

Every adapter is a class with keyword arguments only, loads its weights in the constructor, and says with the class method
`weights(**same arguments)`, without loading anything, which files it needs and whether they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from curate.weights import Weights

Image = np.ndarray  # [h, w, 3] uint8 RGB


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
