"""Measures of pixels alone: how near a rebuilt video is to the real one, and how much it flickers."""

from __future__ import annotations

import math

from torch import Tensor


def psnr(rebuilt: Tensor, real: Tensor) -> float:
    """Peak signal-to-noise ratio, 10 log10(2^2 / mean squared error), dB: higher is better, 200 at most.

    One error over all pixels of all videos, not a mean of decibels. Any equal shapes, pixels in [-1, 1].
    """
    same_shape(rebuilt, real)
    error = (rebuilt.double() - real.double()).square().mean().item()
    return 10 * math.log10(4.0 / max(error, 4e-20))


def frame_difference_energy(videos: Tensor) -> float:
    """Mean of (x[t+1] - x[t])^2 over all pixels and pairs of neighbouring frames, in squared units of [-1, 1]: 0 to 4.

    0 for a still; 2 s^2 for independent noise of variance s^2 in each frame.
    """
    if videos.ndim != 5 or videos.shape[1] < 2:
        raise ValueError(f"videos of shape {list(videos.shape)}: [N, T >= 2, 3, H, W] expected")
    return videos.double().diff(dim=1).square().mean().item()


def flicker(videos: Tensor, real: Tensor) -> float:
    """Frame-difference energy of `videos` over that of `real`: 1 is right, more flickers, less is too still.

    Range [0, inf); nan where the real videos do not move. The sets need not be paired. No published source: the
    quantity is the energy of temporal changes that deflickering work reports.
    """
    reference = frame_difference_energy(real)
    return frame_difference_energy(videos) / reference if reference > 0 else math.nan


def flicker_error(rebuilt: Tensor, real: Tensor) -> float:
    """Frame-difference energy of the error (rebuilt - real) over that of `real`: 0 is right; paired videos.

    Range [0, inf); nan where the real videos do not move. Errors that stand still count for nothing; what boils does.
    """
    same_shape(rebuilt, real)
    reference = frame_difference_energy(real)
    return frame_difference_energy(rebuilt.double() - real.double()) / reference if reference > 0 else math.nan


def same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {list(first.shape)} and {list(second.shape)}; give paired videos")
