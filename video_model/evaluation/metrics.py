"""Measures of generated videos, each with formula, unit and range; all videos are [N, T, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from video_model.evaluation.features import VideoFeatures
from video_model.evaluation.intervals import Estimate, jackknife, mean_of
from video_model.evaluation.similarity import CaptionSimilarity
from video_model.measures import frame_difference_energy, same_shape


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two Gaussians fitted to rows [N, D] and [M, D]: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Squared units of the features, range [0, inf), 0 for equal moments (Dowson & Landau 1982; Heusel et al. 2017). With
    N not far above D it is biased upwards, by about the same for sets of the same size: compare with the distance of
    two real sets of that size, never across sizes. In float64. Raises ValueError for fewer than two rows.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features of shapes {list(first.shape)} and {list(second.shape)}: [N, D] and [M, D] expected")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{min(len(first), len(second))} rows: a covariance needs two at least")
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("features are not all finite; look at the videos that they are of")
    (mean1, cov1), (mean2, cov2) = moments(first), moments(second)
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # the eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2), which are real and not negative
    crossed = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * crossed).item())


def caption_similarity(videos: Tensor, captions: Sequence[str], similarity: CaptionSimilarity) -> Tensor:
    """[N] cosine in [-1, 1] of each video with its own caption; higher is better. See CaptionSimilarity for the space."""
    if len(videos) != len(captions):
        raise ValueError(f"{len(videos)} videos and {len(captions)} captions: give one caption a video")
    return (similarity.videos(videos) * similarity.captions(captions)).sum(1)


def frechet_estimates(
    generated: Tensor, real: Tensor, network: VideoFeatures, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Frechet distance of generated videos from real ones, and of real ones from other real ones, sets of one size.

    generated [M, ...], real [N, ...], each of its own clip. The real videos are halved at random; both figures compare
    n = min(M, N / 2) videos with n, so that their bias is the same; the first is the mean over the halves. With
    n < network.least_videos both have no value, and `why` says how many are needed. Intervals: jackknife over videos.
    """
    halves = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    count = min(len(halves[0]), len(halves[1]), len(generated))
    least = network.least_videos
    if count < least:
        why = (
            f"needs {least} drawn videos and {2 * least} clips to compare with, for below it is mostly bias (there are "
            f"{len(generated)} and {len(real)}): give --count {least} or more, and more clips with --data"
        )
        return Estimate(None, n=count, why=why), Estimate(None, n=count, why=why)
    ours, theirs = network.features(generated), network.features(real)
    first, second = (theirs[half[:count]] for half in halves)
    distance = jackknife(
        lambda a, b, c: (frechet_distance(a, b) + frechet_distance(a, c)) / 2, ours[:count], first, second
    )
    return distance, jackknife(frechet_distance, first, second)


def flicker_estimate(videos: Tensor, real: Tensor, groups: Sequence[Sequence[Any] | None] | None = None) -> Estimate:
    """`flicker` with its interval, over the videos of both sets."""
    return jackknife(_ratio, energies(videos), energies(real), groups=groups)


def psnr_estimate(rebuilt: Tensor, real: Tensor, groups: Sequence[Any] | None = None) -> Estimate:
    """`psnr` with its interval, over videos."""
    same_shape(rebuilt, real)
    errors = (rebuilt.double() - real.double()).square().flatten(1).mean(1)
    return jackknife(lambda rows: 10 * math.log10(4.0 / max(float(rows.mean()), 4e-20)), errors, groups=[groups])


def flicker_error_estimate(rebuilt: Tensor, real: Tensor, groups: Sequence[Any] | None = None) -> Estimate:
    """`flicker_error` with its interval, over videos, each with its own error."""
    same_shape(rebuilt, real)
    pairs = torch.stack([energies(rebuilt.double() - real.double()), energies(real)], 1)
    return jackknife(lambda rows: _ratio(rows[:, 0], rows[:, 1]), pairs, groups=[groups])


def similarity_estimates(
    generated: Tensor,
    captions: Sequence[str],
    real: Tensor,
    real_captions: Sequence[str],
    similarity: CaptionSimilarity,
    groups: Sequence[Sequence[Any] | None] = (None, None),
) -> tuple[Estimate, Estimate, float]:
    """Caption similarity of generated videos, of real videos with their own captions, and with those of others."""
    ours = mean_of(caption_similarity(generated, captions, similarity), groups[0])
    if len(real) != len(real_captions):
        raise ValueError(f"{len(real)} real videos and {len(real_captions)} captions: give one caption a video")
    cosines = similarity.cosines(real, real_captions)
    other = torch.tensor([[mine != theirs for theirs in real_captions] for mine in real_captions])
    chance = cosines[other].mean().item() if other.any() else math.nan
    return ours, mean_of(cosines.diagonal(), groups[1]), chance


def energies(videos: Tensor) -> Tensor:
    """[N] float64: the frame-difference energy of each video."""
    return torch.tensor([frame_difference_energy(video[None]) for video in videos], dtype=torch.float64)


def _ratio(above: Tensor, below: Tensor) -> float:
    return float(above.mean() / below.mean()) if float(below.mean()) > 0 else math.nan


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D], float64."""
    rows = rows.double().cpu()
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / (len(rows) - 1)
