"""What a list of filters keeps, fast enough to follow a hand: one mask a filter, remembered until that filter changes.

The meaning is that of `curate.selection.selection.select`: percentiles over all clips with a score, a null does not pass, filters apply
in order. What cannot be applied (a column that is null throughout, a condition that does not parse) says so and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache

from curate.selection.filters import Filter, SelectionError
from pipelines.inspector.data.columns import LENGTH, SECONDS, Columns, TooLong, passing

BINS, NO_BIN = 96, 255
MASKS = 48  # filters remembered, a byte a clip each


@dataclass(frozen=True)
class Verdict:
    """One filter over all clips. passed, null: bool [N]. hours: what it drops alone. error: why it cannot be applied;
    passing: another time it may be."""

    filter: Filter
    threshold: float | None = None
    passed: np.ndarray | None = None
    null: np.ndarray | None = None
    nulls: int = 0
    failing: int = 0
    hours: float = 0.0
    error: str | None = None
    passing: bool = False

    @property
    def column(self) -> str | None:
        """The score whose histogram shows it."""
        if self.filter.kind != "where":
            return self.filter.column
        return SECONDS if LENGTH.match(self.filter.sql) else None

    @property
    def keeps_high(self) -> bool:
        match = LENGTH.match(self.filter.sql) if self.filter.kind == "where" else None
        return match[1] == ">=" if match else self.filter.kind in ("min", "drop_bottom")


@dataclass(frozen=True)
class Choice:
    """kept: bool [N]; places: int64 [clips], where it is true. remaining: (clips, hours) left after each filter, in order."""

    verdicts: tuple[Verdict, ...]
    kept: np.ndarray
    remaining: tuple[tuple[int, float], ...]
    clips: int
    hours: float
    places: np.ndarray


@dataclass(frozen=True)
class Axis:
    """The bins of a score. codes: uint8 [N], 255 where null. The first and the last bin hold what lies beyond."""

    low: float
    high: float
    counts: np.ndarray
    codes: np.ndarray
    minimum: float
    maximum: float
    whole: bool

    def plain(self) -> dict[str, Any]:
        """As JSON, without the codes."""
        return {
            "low": self.low,
            "high": self.high,
            "min": self.minimum,
            "max": self.maximum,
            "whole": self.whole,
            "counts": self.counts.tolist(),
        }


class Chooser:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._verdicts: LRUCache[Filter, Verdict] = LRUCache(MASKS)
        self._choices: LRUCache[tuple[Filter, ...], Choice] = LRUCache(4)
        self.total_hours = float(columns.hours.sum())
        self.axes = {name: axis for name in columns.values if (axis := axis_of(columns.values[name]))}

    def choose(self, filters: Sequence[Filter]) -> Choice:
        key = tuple(filters)
        with self.columns.lock:
            if key in self._choices:
                return self._choices[key]
            verdicts = tuple(self.verdict(chosen) for chosen in filters)
            kept = np.ones(self.columns.count, bool)
            left, remaining = (self.columns.count, self.total_hours), []
            for verdict in verdicts:
                if verdict.passed is not None:
                    kept &= verdict.passed
                    left = int(np.count_nonzero(kept)), self._hours(kept)
                remaining.append(left)
            choice = Choice(verdicts, kept, tuple(remaining), *left, np.flatnonzero(kept))
            if any(verdict.passing for verdict in verdicts):
                return choice
            self._choices[key] = choice
            return choice

    def verdict(self, chosen: Filter) -> Verdict:
        if chosen in self._verdicts:
            return self._verdicts[chosen]
        made = self._verdict(chosen)
        if made.passing:
            return made
        self._verdicts[chosen] = made
        return made

    def forget(self, word: str) -> None:
        """Verdicts of conditions in which the word occurs: its column has changed."""
        with self.columns.lock:
            for chosen in [c for c in self._verdicts if word in c.sql.lower()]:
                del self._verdicts[chosen]
            self._choices.clear()

    def histogram(self, name: str, choice: Choice) -> list[int]:
        """Kept clips by bin."""
        axis = self.axes[name]
        return np.bincount(axis.codes[choice.places], minlength=256)[: len(axis.counts)].tolist()

    def _verdict(self, chosen: Filter) -> Verdict:
        threshold = None
        try:
            if chosen.kind == "where":
                passed, null = self.columns.where(chosen)
                length = LENGTH.match(chosen.sql)
                threshold = float(length[2]) if length else None
            else:
                threshold = self.columns.threshold(chosen)
                values = self.columns.values[chosen.column]
                passed = passing(values, ">=" if chosen.kind in ("min", "drop_bottom") else "<=", threshold)
                null = np.isnan(values)
        except SelectionError as error:
            return Verdict(chosen, error=str(error), passing=isinstance(error, TooLong))
        nulls = int(np.count_nonzero(null))
        failing = self.columns.count - int(np.count_nonzero(passed)) - nulls
        return Verdict(chosen, threshold, passed, null, nulls, failing, self.total_hours - self._hours(passed))

    def _hours(self, mask: np.ndarray) -> float:
        return float((self.columns.hours * mask.view(np.uint8)).sum())


def axis_of(values: np.ndarray) -> Axis | None:
    """Bins from the lowest value to the highest, or to where a long thin tail begins; None where there is no spread."""
    there = values[~np.isnan(values)].astype(np.float64)
    if not len(there):
        return None
    least, most = float(there.min()), float(there.max())
    if least == most:
        return None
    low, high = (
        float(q)
        for q in np.quantile(there if len(there) <= 200_000 else there[:: len(there) // 100_000], [0.002, 0.995])
    )
    room = 0.25 * (high - low)
    low = least if least >= low - room else low
    high = most if most <= high + room else high
    if low == high:
        low, high = least, most
    whole = bool((there == np.floor(there)).all())
    bins = int(np.clip(2 * np.sqrt(len(there)), 16, BINS))
    if whole and high - low < BINS:
        low, high = np.floor(low) - 0.5, np.ceil(high) + 0.5
        bins = int(high - low)
    with np.errstate(invalid="ignore"):
        scaled = (values.astype(np.float64) - low) * (bins / (high - low))
    codes = np.clip(np.nan_to_num(scaled, nan=0.0), 0, bins - 1).astype(np.uint8)
    codes[np.isnan(values)] = NO_BIN
    counts = np.bincount(codes, minlength=256)[:bins]
    return Axis(low, high, counts, codes, least, most, whole)


def described(choice: Choice) -> list[dict[str, Any]]:
    """The funnel as plain values."""
    steps = []
    for verdict, (clips, hours) in zip(choice.verdicts, choice.remaining, strict=True):
        chosen = verdict.filter
        steps.append(
            {
                "filter": plain(chosen),
                "name": chosen.name,
                "column": verdict.column,
                "keeps_high": verdict.keeps_high,
                "threshold": verdict.threshold,
                "error": verdict.error,
                "null": verdict.nulls,
                "failing": verdict.failing,
                "hours": verdict.hours,
                "remaining": clips,
                "remaining_hours": hours,
            }
        )
    return steps


def plain(chosen: Filter) -> dict[str, Any]:
    if chosen.kind == "where":
        return {"kind": "where", "sql": chosen.sql}
    return {"kind": chosen.kind, "column": chosen.column, "amount": chosen.amount}
