"""A figure with what is known of it: 95% intervals by the jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PARTS = 64  # at most so many are left out in turn: a Frechet distance costs up to a tenth of a second
# Of Student's t, 97.5%, by degrees of freedom; above, the expansion of Fisher & Cornish (1960) is within 0.1%
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571)


class Estimate(NamedTuple):
    """value, with the ends of its 95% interval, over n independent videos or rows; None: cannot be told, `why` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""

    def facts(self) -> dict[str, Any]:
        """As in metrics.json: value, low, high, n, and why where there is no value."""
        numbers = {name: _plain(getattr(self, name)) for name in ("value", "low", "high")}
        return numbers | {"n": self.n} | ({"why": self.why} if self.why else {})


def jackknife(
    statistic: Callable[..., float], *sets: Tensor, groups: Sequence[Sequence[Any] | None] | None = None
) -> Estimate:
    """statistic(*sets) with its 95% interval, value +- t sqrt(sum over sets of (g - 1) / g sum (left out - mean)^2).

    sets: [N, ...] each, independent of one another; rows of one set that belong together (windows of one clip) have one
    name in its `groups` and are left out together. Of a mean this is Student's interval. n: groups of the smallest set.
    Where a set has one group only there is no interval. (Efron & Tibshirani 1993, chapter 11.)
    """
    value, variance, least = statistic(*sets), 0.0, math.inf
    for at, rows in enumerate(sets):
        names = (groups and groups[at]) or range(len(rows))
        order = {name: number for number, name in enumerate(dict.fromkeys(names))}
        least = min(least, len(order))
        if len(order) < 2:
            continue
        parts = min(len(order), PARTS)
        part = torch.tensor([order[name] * parts // len(order) for name in names], device=rows.device)
        left = [statistic(*sets[:at], rows[part != number], *sets[at + 1 :]) for number in range(parts)]
        mean = sum(left) / parts
        variance += (parts - 1) / parts * sum((one - mean) ** 2 for one in left)
    count = int(least)
    if count < 2 or not math.isfinite(value) or not math.isfinite(variance):
        return Estimate(value, n=count)
    reach = student(min(count, PARTS) - 1) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach, count)


def mean_of(values: Tensor, groups: Sequence[Any] | None = None) -> Estimate:
    """Mean of values [N] with its interval."""
    return jackknife(lambda rows: float(rows.double().mean()), values, groups=[groups])


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, v = 1.959964, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _plain(value: float | None) -> float | None:
    """JSON has no nan."""
    return value if value is not None and math.isfinite(value) else None
