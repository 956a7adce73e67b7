"""ImageNet posteriors by EfficientNet-Lite2, which the embedder and the tag captioner share."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from curate.base.efficientnet import DISTRIBUTION, FILE, MODULE, NAME, SIDE, efficientnet_lite2, imagenet_classes
from curate.models import Image
from curate.models.embedding_cache import EmbeddingCache
from curate.models.packaged import packaged, require
from curate.weights import Weights

VIEWS = ("crop", "squash")


class ImageNet:
    """EfficientNet-Lite2, 1000 classes of ImageNet-1k.

    Two views of each picture: its centre square, and the whole picture squashed to a square. Pictures are processed one at
    a time, so that results do not depend on the batch; posteriors are cached by pixels.
    """

    name = NAME

    @classmethod
    def weights(cls) -> list[Weights]:
        return [packaged("image_embedding", cls.name, DISTRIBUTION, MODULE, FILE)]

    def __init__(self) -> None:
        require(self.weights()[0])
        self.classes = imagenet_classes()
        self._network = efficientnet_lite2()
        self._cache = EmbeddingCache(self._compute)

    def posteriors(self, images: Sequence[Image]) -> np.ndarray:
        """[N, 2, 1000] float32: class probabilities of each picture's centre square and of its squashed whole."""
        return self._cache.rows(images)

    def _compute(self, images: Sequence[Image]) -> np.ndarray:
        import torch

        rows = np.empty((len(images), len(VIEWS), len(self.classes)), dtype=np.float32)
        with torch.inference_mode():
            for row, image in zip(rows, images, strict=True):
                views = np.stack([centre_square(image), squashed(image)]).astype(np.float32)
                batch = torch.from_numpy(((views - 127.0) / 128.0).transpose(0, 3, 1, 2).copy())
                row[:] = self._network(batch).softmax(1).numpy()
        return rows


def centre_square(image: Image, side: int = SIDE) -> Image:
    """The centre square, scaled to `side` px."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return squashed(image[top : top + edge, left : left + edge], side)


def squashed(image: Image, side: int = SIDE) -> Image:
    """The whole picture scaled to `side` x `side` px, whatever its shape."""
    shrinks = min(image.shape[:2]) >= side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
