"""Appearance: image embedding, aesthetic score, technical quality and NSFW score of a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.clip import Clip, Column
from curate.models import AestheticHead, Embedder, Image, ImageScorer, roles
from curate.models.embedding_cache import embed_stills
from curate.models.loading import loaded
from curate.models.roles import EMBEDDER
from curate.stages.pictures import batches, flattened, stills
from curate.stages.stage import Stage, attempt

EMBEDDING = Column(
    "image_embedding",
    pa.list_(pa.float32()),
    formula="mean of the unit image embeddings of the stills, scaled to unit length",
    range="unit length",
    source="the pack's embedder: open_clip ViT-L/14 (full), ConSE (embedded)",
    models=("embedder",),
)
AESTHETIC = Column(
    "aesthetic_score",
    pa.float32(),
    formula="linear head on the image embedding, mean of the stills; null where the pack has no aesthetic model",
    range="about 1..10, higher is better",
    source="LAION aesthetic predictor on ViT-L/14",
    models=("appearance.aesthetic",),
)
QUALITY = Column(
    "technical_quality",
    pa.float32(),
    formula="BRISQUE, mean of the stills: 0 undistorted, 100 badly distorted (it can leave that range a little)",
    range="about 0..100, LOWER is better",
    source="Mittal et al. 2012, package brisque",
    models=("appearance.quality",),
)
NSFW = Column(
    "nsfw_score",
    pa.float32(),
    formula="probability of not safe for work, the largest of the stills",
    range="0..1",
    source="Yahoo open_nsfw",
    models=("appearance.nsfw",),
)


class Appearance(Stage):
    """Fills image_embedding, aesthetic_score, technical_quality and nsfw_score from the stills.

    Each column has its own model and fails alone, with the reason in `errors[column]`. Stills that cannot be read fail all
    four, under `errors["appearance"]`. A model that is None leaves its column null, without an error. Models may be
    factories.
    """

    name = "appearance"
    needs = ("stills",)
    models = (EMBEDDER, roles.AESTHETIC, roles.QUALITY, roles.NSFW)
    separable = (roles.QUALITY.key, roles.NSFW.key)
    columns = (EMBEDDING, AESTHETIC, QUALITY, NSFW)

    def __init__(
        self,
        embedder: Embedder | Callable[[], Embedder] | None = None,
        aesthetic: AestheticHead | Callable[[], AestheticHead] | None = None,
        quality: ImageScorer | Callable[[], ImageScorer] | None = None,
        nsfw: ImageScorer | Callable[[], ImageScorer] | None = None,
    ) -> None:
        self.embedder: Embedder | None = loaded(embedder)
        self.aesthetic: AestheticHead | None = loaded(aesthetic)
        self.quality: ImageScorer | None = loaded(quality)
        self.nsfw: ImageScorer | None = loaded(nsfw)
        if self.aesthetic and not self.embedder:
            raise ValueError("appearance: an aesthetic head needs the embedder that it was trained on; give one")

    @classmethod
    def check(cls, config: Any) -> None:
        if config.appearance.aesthetic and not config.embedder:
            raise ValueError(
                "appearance.aesthetic: needs the embedder that it was trained on: give one, or set it to null"
            )

    def process(self, clips: Sequence[Clip]) -> None:
        for batch in batches(clips, self.at_once):
            attempt(self._score, batch, self.name, self.columns)

    def _score(self, clips: Sequence[Clip]) -> None:
        pictures = {id(clip): stills(clip) for clip in clips}
        parts = (
            (EMBEDDING, self.embedder, self._score_embedding),
            (AESTHETIC, self.aesthetic, self._score_aesthetic),
            (QUALITY, self.quality, self._score_quality),
            (NSFW, self.nsfw, self._score_nsfw),
        )
        for column, model, score in parts:
            if model is None:
                for clip in clips:
                    clip.values[column.name] = None
                continue

            def run(some: Sequence[Clip], score: Callable = score) -> None:
                score(some, *flattened([pictures[id(clip)] for clip in some]))

            attempt(run, list(clips), column.name, (column,))

    def _score_embedding(self, clips: Sequence[Clip], pictures: list[Image], places: list[slice]) -> None:
        rows = embed_stills(self.embedder, pictures)
        for clip, place in zip(clips, places, strict=True):
            clip.values["image_embedding"] = unit_length(rows[place].mean(0)).tolist()

    def _score_aesthetic(self, clips: Sequence[Clip], pictures: list[Image], places: list[slice]) -> None:
        scores = self.aesthetic.scores(embed_stills(self.embedder, pictures))
        write_scores(clips, places, "aesthetic_score", scores, np.mean)

    def _score_quality(self, clips: Sequence[Clip], pictures: list[Image], places: list[slice]) -> None:
        write_scores(clips, places, "technical_quality", self.quality.scores(pictures), np.mean)

    def _score_nsfw(self, clips: Sequence[Clip], pictures: list[Image], places: list[slice]) -> None:
        write_scores(clips, places, "nsfw_score", self.nsfw.scores(pictures), np.max)


def write_scores(clips: Sequence[Clip], places: list[slice], column: str, scores: np.ndarray, reduce: Callable) -> None:
    """Reduce the scores of stills to one a clip. Raises ValueError for a score that is not finite."""
    if not np.isfinite(scores).all():
        raise ValueError(f"{column} came out as {float(scores[~np.isfinite(scores)][0])}")
    for clip, place in zip(clips, places, strict=True):
        clip.values[column] = float(reduce(scores[place].astype(np.float64)))


def unit_length(row: np.ndarray) -> np.ndarray:
    """The vector scaled to unit length. Raises ValueError if its length is 0 or not finite."""
    length = float(np.linalg.norm(row))
    if not np.isfinite(length) or length == 0.0:
        raise ValueError(f"image embedding has length {length}")
    return (row / length).astype(np.float32)
