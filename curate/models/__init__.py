"""Adapters of pretrained models, one protocol a role, in two packs: `embedded` (weights in packages) and `full` (the paper's).

An adapter takes keyword arguments only and loads its weights in the constructor. Its class method `weights(**arguments)`
lists the files that it needs and whether they exist, without loading them.
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
        """For each image the text quads, [K, 4, 2] float32 corners (x, y) in px."""


class Embedder(Model, Protocol):
    """Embeds pictures and sentences in one space. All rows have unit length."""

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
    """Input of a captioner. stills: first, middle, last. frames: `Captioner.frames` evenly spaced ones. facts: the clip's measured columns (motion_score, camera_pan_x ...)."""

    stills: Sequence[Image]
    frames: Sequence[Image]
    facts: dict[str, Any]


class Captioner(Model, Protocol):
    frames: int  # how many evenly spaced frames of each clip it needs; 0: it uses the stills

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip, or None where it is not certain."""


class Merger(Model, Protocol):
    def merge(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[str | None]:
        """One caption for each (frame caption, video caption)."""
