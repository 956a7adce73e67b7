"""MiniLM: sentence vectors are the means of the token states."""

import numpy as np
import pytest
import torch

from curate.base.minilm import MiniLMNetwork

TEXTS = ["A red circle moves to the left.", "A dog."]


@pytest.fixture(scope="module")
def network() -> MiniLMNetwork:
    return MiniLMNetwork()


def test_a_sentence_is_the_unit_mean_of_its_tokens_states(network):
    states, mask = network.states(TEXTS)
    assert states.shape == (2, 10, 384) and mask.sum(1).tolist() == [10, 5]  # words, full stop and two marks
    mean = torch.stack([row[:n].mean(0) for row, n in zip(states, (10, 5), strict=True)]).numpy()
    rows = network.sentences(TEXTS)
    assert np.allclose(rows, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert network.sentences([]).shape == (0, 384)


def test_long_texts_are_cut(network):
    assert network.states(["word " * 300])[1].shape == (1, 256)
    assert MiniLMNetwork(longest=8).states(["word " * 300])[1].shape == (1, 8)
