"""Sentence embeddings by all-MiniLM-L6-v2, as a model of the embedded pack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.base.minilm import DISTRIBUTION, FILE, MODULE, MiniLMNetwork
from curate.models.packaged import packaged, require
from curate.weights import Weights


class MiniLM:
    """all-MiniLM-L6-v2. Numbers equal those of sentence-transformers. Raises MissingWeights without its package."""

    name = MiniLMNetwork.name
    dim = MiniLMNetwork.dim

    @classmethod
    def weights(cls) -> list[Weights]:
        return [packaged("similarity_merged", cls.name, DISTRIBUTION, MODULE, FILE)]

    def __init__(self) -> None:
        require(self.weights()[0])
        self._network = MiniLMNetwork()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 384] float32, rows of unit length; sentences beyond 256 tokens are cut."""
        return self._network.sentences(texts)
