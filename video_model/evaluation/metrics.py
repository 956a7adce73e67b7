"""Measures of generated videos, each with formula, unit and range; all videos are [N, T, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from video_model.evaluation.features import EfficientNetFeatures, VideoFeatures
from video_model.evaluation.similarity import CaptionSimilarity
from video_model.measures import flicker


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


def frechet_video_distance(real: Tensor, generated: Tensor, network: VideoFeatures) -> float:
    """Frechet distance of the features of two sets of videos (Unterthiner et al. 2018); lower is better, 0 at best.

    Says nothing without network.name, the number of videos, and the distance of real videos from real ones.
    """
    return frechet_distance(network.features(real), network.features(generated))


def caption_similarity(videos: Tensor, captions: Sequence[str], similarity: CaptionSimilarity) -> Tensor:
    """[N] cosine in [-1, 1] of each video with its own caption; higher is better. See CaptionSimilarity for the space."""
    if len(videos) != len(captions):
        raise ValueError(f"{len(videos)} videos and {len(captions)} captions: give one caption a video")
    return (similarity.videos(videos) * similarity.captions(captions)).sum(1)


def evaluate(
    real: Tensor,
    generated: Tensor,
    captions: Sequence[str],
    *,
    real_captions: Sequence[str] | None = None,
    network: VideoFeatures | None = None,
    similarity: CaptionSimilarity | None = None,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """All measures of a set of generated videos, each beside what real videos score.

    real, generated: [N, T, 3, H, W] and [M, T, 3, H, W] in [-1, 1], N >= 4, M >= 2, the same T, shown at one rate.
    captions: the prompts of `generated`; real_captions: of `real`, by default the same list, when N = M.
    Keys: frechet_video_distance (generated from real) and frechet_video_distance_real (one random half of the real from
    the other), both means over the two halves with frechet_videos videos on each side; frechet_network; flicker and
    flicker_real (half over half); with real captions, caption_similarity, _real (real videos, own captions) and _chance
    (real videos, captions of others), and similarity_network. Raises ValueError; WeightsMissing.
    """
    if len(real) < 4 or len(generated) < 2 or real.shape[1:] != generated.shape[1:]:
        shapes = f"{list(real.shape)} real, {list(generated.shape)} generated"
        raise ValueError(f"{shapes}: four real and two generated videos at least, of one length and size")
    network, similarity = network or EfficientNetFeatures(), similarity or CaptionSimilarity()
    halves = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    count = min(len(halves[0]), len(halves[1]), len(generated))
    ours, theirs = network.features(generated), network.features(real)
    first, second = (theirs[half[:count]] for half in halves)
    found: dict[str, float | int | str] = {
        "frechet_video_distance": sum(frechet_distance(ours[:count], half) for half in (first, second)) / 2,
        "frechet_video_distance_real": frechet_distance(first, second),
        "frechet_videos": count,
        "frechet_network": network.name,
        "flicker": flicker(generated, real),
        "flicker_real": flicker(real[halves[0]], real[halves[1]]),
    }
    if real_captions is None and len(real) == len(captions):
        real_captions = captions
    found["caption_similarity"] = caption_similarity(generated, captions, similarity).mean().item()
    if real_captions is not None:
        if len(real) != len(real_captions):
            raise ValueError(f"{len(real)} real videos and {len(real_captions)} captions: give one caption a video")
        cosines = similarity.cosines(real, real_captions)
        other = torch.tensor([[mine != theirs for theirs in real_captions] for mine in real_captions])
        found["caption_similarity_real"] = cosines.diagonal().mean().item()
        found["caption_similarity_chance"] = cosines[other].mean().item() if other.any() else math.nan
    found["similarity_network"] = similarity.name
    return found


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and unbiased covariance [D, D], float64."""
    rows = rows.double().cpu()
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / (len(rows) - 1)
