"""The noise levels of sampling: falling lists of sigma that end in 0. Plain numbers, so that nothing heavy is imported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

Watch = Callable[[int, int], None]  # steps done, steps in all


def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> list[float]:
    """steps + 1 levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), and 0 (Karras et al. 2022, eq. 5).

    The defaults are Stable Video Diffusion's.
    """
    _check(steps, sigma_min, sigma_max)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + (low - high) * i / max(steps - 1, 1)) ** rho for i in range(steps)] + [0.0]


def uniform_time(steps: int, sigma_max: float = 700.0, shift: float = 1.0) -> list[float]:
    """steps + 1 levels for flow matching: t = sigma / (1 + sigma) falls evenly to 0, shifted by t -> k t / (1 + (k - 1) t)."""
    _check(steps, 1e-9, sigma_max)
    start = sigma_max / (1 + sigma_max)
    times = [start * (1 - i / steps) for i in range(steps)]
    times = [shift * t / (1 + (shift - 1) * t) for t in times]
    return [t / (1 - t) for t in times] + [0.0]


def pairs(sigmas: Sequence[float], watch: Watch | None = None) -> Iterator[tuple[float, float]]:
    """(this level, the next) of each step of a sampler; `watch` is called when the step is done."""
    for done, pair in enumerate(itertools.pairwise(sigmas), 1):
        yield pair
        if watch:
            watch(done, len(sigmas) - 1)


def _check(steps: int, low: float, high: float) -> None:
    if steps < 1 or not 0 < low <= high:
        raise ValueError(
            f"noise levels: steps must be >= 1 and 0 < sigma_min <= sigma_max (got {steps}, {low}, {high})"
        )
