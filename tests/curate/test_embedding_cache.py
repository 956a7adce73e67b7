"""Rows by pictures: what was computed lately is not computed again, and only so much is kept."""

import numpy as np

from curate.models.embedding_cache import EmbeddingCache


def test_the_picture_asked_for_longest_ago_goes_first():
    calls = []

    def compute(images):
        calls.append([int(image[0, 0, 0]) for image in images])
        return np.array([[image[0, 0, 0]] for image in images])

    def rows(*levels):
        return memory.rows([np.full((2, 2, 3), level, np.uint8) for level in levels])[:, 0].tolist()

    memory = EmbeddingCache(compute, size=2)
    assert rows(1, 2, 1) == [1, 2, 1] and rows(1) == [1] and rows(3) == [3]  # 2 goes
    assert rows(1, 3) == [1, 3] and calls == [[1, 2], [3]]
    assert rows(4, 5, 6, 1) == [4, 5, 6, 1]  # more at once than are kept
    assert rows(6, 1) == [6, 1] and calls[2:] == [[4, 5, 6]]
