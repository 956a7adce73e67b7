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
from pipelines.inspector.data.axes import NO_BIN
from pipelines.inspector.data.blocks import Mask, over
from pipelines.inspector.data.columns import LENGTH, Columns, TooLong
from pipelines.inspector.data.snapshot import SECONDS

REMEMBERED = 128_000_000  # bytes of masks of filters, and as much of lists of filters
FEW = 16  # a histogram is brought up to date by the clips that changed, where they are fewer than one in so many


@dataclass(frozen=True)
class Verdict:
    """One filter over all clips. null: a mask, or the score itself. hours: what it drops alone. error: why it cannot be
    applied; passing: another time it may be."""

    filter: Filter
    threshold: float | None = None
    passed: Mask | None = None
    null: Mask | np.ndarray | None = None
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

    def is_null(self, place: int) -> bool:
        """Whether a clip has no value for it."""
        value = self.null[place] if self.null is not None else False
        return bool(value) if isinstance(self.null, Mask) else bool(np.isnan(value))


@dataclass(frozen=True)
class Choice:
    """remaining: (clips, hours) left after each filter, in order."""

    verdicts: tuple[Verdict, ...]
    kept: Mask
    remaining: tuple[tuple[int, float], ...]
    clips: int
    hours: float


class Chooser:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.axes = columns.axes
        self._verdicts: LRUCache[Filter, Verdict] = LRUCache(REMEMBERED, _size_of_verdict)
        self._choices: LRUCache[tuple[Filter, ...], Choice] = LRUCache(
            REMEMBERED, lambda choice: choice.kept.nbytes + 1
        )
        self._counted: dict[str, tuple[Mask, np.ndarray]] = {}  # of each histogram: of which clips, and how many a bin
        self._moved: tuple[Mask, Mask, tuple[np.ndarray, np.ndarray] | None] | None = None
        everything = Mask.full(columns.count)
        self.total_hours = columns.counted(everything)[1]
        self._all = Choice((), everything, (), columns.count, self.total_hours)

    def choose(self, filters: Sequence[Filter]) -> Choice:
        """What they keep; that of the filters before the first one that changed is remembered."""
        key = tuple(filters)
        if not key:
            return self._all
        with self.columns.lock:
            if key in self._choices:
                return self._choices[key]
            before, verdict = self.choose(key[:-1]), self.verdict(key[-1])
            kept, left = before.kept, (before.clips, before.hours)
            if verdict.passed is not None:
                kept = kept & verdict.passed
                left = self.columns.counted(kept)
            choice = Choice((*before.verdicts, verdict), kept, (*before.remaining, left), *left)
            if not any(verdict.passing for verdict in choice.verdicts):
                _remember(self._choices, key, choice)
            return choice

    def verdict(self, chosen: Filter) -> Verdict:
        if chosen in self._verdicts:
            return self._verdicts[chosen]
        made = self._verdict(chosen)
        if not made.passing:
            _remember(self._verdicts, chosen, made)
        return made

    def forget(self, word: str) -> None:
        """Verdicts of conditions in which the word occurs: its column has changed."""
        with self.columns.lock:
            for chosen in [c for c in self._verdicts if word in c.sql.lower()]:
                del self._verdicts[chosen]
            self._choices.clear()

    def histogram(self, name: str, choice: Choice) -> list[int]:
        """Kept clips by bin. While a hand moves a threshold few clips change: only they are counted anew."""
        with self.columns.lock:
            codes, known = self.columns.codes[name], self._counted.get(name)
            moved = self._changes(known[0], choice.kept) if known else None
            if known and moved:
                gained, lost = (np.bincount(codes[places], minlength=NO_BIN + 1) for places in moved)
                counts = known[1] + gained - lost
            else:
                counts = sum(
                    over(
                        self.columns.count,
                        lambda start, stop: np.bincount(
                            codes[start:stop][choice.kept.block(start, stop)], minlength=NO_BIN + 1
                        ),
                    )
                )
            self._counted[name] = choice.kept, counts
            return counts[: len(self.axes[name].counts)].tolist()

    def _changes(self, before: Mask, now: Mask) -> tuple[np.ndarray, np.ndarray] | None:
        """Places that came and went; None where they are many. Several histograms ask the same."""
        if self._moved and self._moved[0] is before and self._moved[1] is now:
            return self._moved[2]
        gained, lost = now & ~before, before & ~now
        few = (gained.total() + lost.total()) * FEW <= self.columns.count
        found = tuple(np.concatenate(list(m.places())) for m in (gained, lost)) if few else None
        self._moved = before, now, found
        return found

    def _verdict(self, chosen: Filter) -> Verdict:
        columns, threshold = self.columns, None
        try:
            if chosen.kind == "where":
                passed, null = columns.where(chosen)
                length = LENGTH.match(chosen.sql)
                threshold, nulls = float(length[2]) if length else None, null.total()
            else:
                threshold = columns.threshold(chosen)
                passed = columns.compared(
                    chosen.column, ">=" if chosen.kind in ("min", "drop_bottom") else "<=", threshold
                )
                null, nulls = columns.values[chosen.column], columns.nulls(chosen.column)
        except SelectionError as error:
            return Verdict(chosen, error=str(error), passing=isinstance(error, TooLong))
        clips, hours = columns.counted(passed)
        return Verdict(chosen, threshold, passed, null, nulls, columns.count - clips - nulls, self.total_hours - hours)


def _size_of_verdict(verdict: Verdict) -> int:
    """Bytes of its own: a score is mapped."""
    return 1 + sum(mask.nbytes for mask in (verdict.passed, verdict.null) if isinstance(mask, Mask))


def _remember(cache: LRUCache, key: Any, value: Any) -> None:
    try:
        cache[key] = value
    except ValueError:  # larger than all that is remembered
        pass


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
