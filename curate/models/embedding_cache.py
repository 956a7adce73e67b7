"""Cache of recent image embeddings, so that two stages that use the same still compute it once."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from cachetools import LRUCache

from curate.models import Embedder, Image


class EmbeddingCache:
    """LRU cache of `compute` ([N] pictures to rows [N, D]) by the pixels of a picture.

    size: rows; 2048 hold the stills of more clips than a unit has, in 16 MB at most.
    """

    def __init__(self, compute: Callable[[Sequence[Image]], np.ndarray], size: int = 2048) -> None:
        self._compute = compute
        self._rows: LRUCache[bytes, np.ndarray] = LRUCache(size)

    def rows(self, images: Sequence[Image]) -> np.ndarray:
        """[N, D], in the order of the pictures; missing ones are computed in one call."""
        keys = [_digest(image) for image in images]
        known = {key: self._rows[key] for key in keys if key in self._rows}
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        if new:
            known.update(zip(new, self._compute(list(new.values())), strict=True))
        for key in keys:
            self._rows[key] = known[key]
        return np.stack([known[key] for key in keys])


def _digest(image: Image) -> bytes:
    shape = repr(image.shape).encode()[:16]
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, person=shape).digest()


_of_embedders: weakref.WeakKeyDictionary[Embedder, EmbeddingCache] = weakref.WeakKeyDictionary()


def embed_stills(embedder: Embedder, pictures: Sequence[Image]) -> np.ndarray:
    """[N, dim] image embeddings; recent ones of this embedder and process are cached."""
    cache = _of_embedders.get(embedder)
    if cache is None:
        living = weakref.ref(embedder)  # a strong reference would keep the weak key alive
        cache = _of_embedders[embedder] = EmbeddingCache(lambda images: living().images(images))
    return cache.rows(pictures)
