"""The bins of a score, over all clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.inspector.data.blocks import over

BINS, NO_BIN = 96, 255
EXACT, SAMPLE = 200_000, 100_000  # values of which all are sorted; of more, this many evenly spaced ones


@dataclass(frozen=True)
class Axis:
    """The bins of a score. The first and the last bin hold what lies beyond. whole: every value is a whole number."""

    low: float
    high: float
    counts: list[int]
    minimum: float
    maximum: float
    whole: bool

    def codes(self, values: np.ndarray) -> np.ndarray:
        """uint8: the bin of each value, 255 for NaN."""
        bins = len(self.counts)
        with np.errstate(invalid="ignore"):
            scaled = (values.astype(np.float64) - self.low) * (bins / (self.high - self.low))
        found = np.clip(np.nan_to_num(scaled, nan=0.0), 0, bins - 1).astype(np.uint8)
        found[np.isnan(values)] = NO_BIN
        return found

    def plain(self) -> dict[str, Any]:
        """As JSON, for the page."""
        facts = asdict(self)
        return {"min": facts.pop("minimum"), "max": facts.pop("maximum"), **facts}


def axis_of(values: np.ndarray, codes: np.ndarray | None = None) -> Axis | None:
    """Bins from the lowest value to the highest, or to where a long thin tail begins; None where there is no spread.

    codes: uint8 [N], to be filled with the bin of each clip.
    """

    def seen(start: int, stop: int) -> tuple[int, float, float, bool]:
        here = values[start:stop]
        here = here[~np.isnan(here)]
        if not len(here):
            return 0, np.inf, -np.inf, True
        return len(here), float(here.min()), float(here.max()), bool((here == np.floor(here)).all())

    parts = over(len(values), seen)
    there = sum(part[0] for part in parts)
    least, most = min((part[1] for part in parts), default=np.inf), max((part[2] for part in parts), default=-np.inf)
    if not there or least == most:
        return None
    sample = values[:: max(1, len(values) // SAMPLE)] if len(values) > EXACT else values
    sample = sample[~np.isnan(sample)].astype(np.float64)
    low, high = (float(q) for q in np.quantile(sample, [0.002, 0.995])) if len(sample) else (least, most)
    room = 0.25 * (high - low)
    low = least if least >= low - room else low
    high = most if most <= high + room else high
    if low == high:
        low, high = least, most
    whole = all(part[3] for part in parts)
    bins = int(np.clip(2 * np.sqrt(there), 16, BINS))
    if whole and high - low < BINS:
        low, high = float(np.floor(low)) - 0.5, float(np.ceil(high)) + 0.5
        bins = int(high - low)
    empty = Axis(low, high, [0] * bins, least, most, whole)

    def counted(start: int, stop: int) -> np.ndarray:
        found = empty.codes(values[start:stop])
        if codes is not None:
            codes[start:stop] = found
        return np.bincount(found, minlength=256)[:bins]

    return Axis(low, high, sum(over(len(values), counted)).tolist(), least, most, whole)
