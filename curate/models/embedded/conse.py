"""ConSE: pictures and sentences in one space, out of a classifier and a sentence encoder (Norouzi et al. 2013).

A picture's embedding is the mean of the sentence embeddings of its ten most probable class names, weighted by
probability. Both sides are centred, because names and captions each lie in a narrow cone of the sentence space: the mean
class embedding is subtracted from pictures, the mean embedding of "A video of a {class}." from sentences. It covers 1000
classes of objects, not people or actions.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from curate.base.files import DiskError, cache_folder, write_atomic
from curate.base.section import Section
from curate.models import Image
from curate.models.adapter import Adapter
from curate.models.embedded.imagenet import ImageNet
from curate.models.embedded.minilm import MiniLM
from curate.models.roles import EMBEDDER
from curate.weights import Weights

TOP = 10  # classes mixed


class ConseOptions(Section):
    kind: Literal["conse"] = "conse"


class ConSE(Adapter):
    """Embedder of the embedded pack; dim 384, rows of unit length. A blank picture has an embedding too.

    imagenet, sentences: models to share; loaded here when not given.
    """

    roles = (EMBEDDER,)
    cpu_seconds = 0.3
    Options = ConseOptions
    shares = (("imagenet", ImageNet), ("sentences", MiniLM))
    name = "ConSE (EfficientNet-Lite2, all-MiniLM-L6-v2)"
    dim = MiniLM.dim

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        return [*ImageNet.weights(), *MiniLM.weights()]

    def __init__(self, *, imagenet: ImageNet | None = None, sentences: MiniLM | None = None) -> None:
        self._imagenet = imagenet or ImageNet()
        self._sentences = sentences or MiniLM()
        self._classes, self._sentence_centre = class_embeddings(self._sentences, self._imagenet.classes)
        self._picture_centre = self._classes.mean(0)

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """[N, 384] float32"""
        if not images:
            return np.empty((0, self.dim), dtype=np.float32)
        posteriors = self._imagenet.posteriors(images)  # [N, views, 1000]
        best = np.argsort(-posteriors, axis=-1, kind="stable")[..., :TOP]
        weight = np.take_along_axis(posteriors, best, -1)
        weight /= weight.sum(-1, keepdims=True)
        views = (weight[..., None] * self._classes[best]).sum(-2) - self._picture_centre
        return unit_rows(unit_rows(views).mean(1))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 384] float32; each sentence alone, so that its numbers do not depend on its neighbours."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        rows = np.concatenate([self._sentences.texts([text]) for text in texts])
        return unit_rows(rows - self._sentence_centre)


def class_embeddings(sentences: MiniLM, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of class names [N, 384], and the mean embedding of a sentence about each [384].

    They take some ten CPU seconds, so they are cached in the user's cache folder (1.5 MB), by the digest of model and
    sentences. A cache that cannot be read or written is ignored.
    """
    prompts = [f"A video of a {name}." for name in names]
    key = hashlib.sha256("\n".join([sentences.weights()[0].digest(), *names, *prompts]).encode()).hexdigest()[:16]
    kept = cache_folder() / f"conse-{key}.safetensors"
    with contextlib.suppress(OSError, SafetensorError):
        found = load_file(kept)
        return found["classes"], found["centre"]
    rows = in_order_of_length(sentences, names)
    centre = in_order_of_length(sentences, prompts).mean(0)
    with contextlib.suppress(OSError, DiskError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, save({"classes": rows, "centre": centre}), durable=False)
    return rows, centre


def in_order_of_length(sentences: MiniLM, texts: Sequence[str]) -> np.ndarray:
    """Embeddings in the given order, computed in order of length to save padding."""
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    rows = np.empty((len(texts), sentences.dim), dtype=np.float32)
    rows[order] = sentences.texts([texts[index] for index in order])
    return rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length; float32."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)).astype(np.float32)
