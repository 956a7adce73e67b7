"""Which clips the grid shows, in which order: kept or dropped, found by words, by SQL or by likeness, sorted or at random."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curate.base.sql import quoted
from curate.selection.filters import Filter, SelectionError
from pipelines.inspector.data.blocks import Mask, bisected, chosen, ordered, shuffled, sliced
from pipelines.inspector.data.choice import Choice, Chooser
from pipelines.inspector.data.snapshot import SECONDS

MAX_ROWS = 240


class Find(BaseModel):
    """words: all of them in some caption. where: SQL. like: a clip's id. sentence: as a text encoder reads it.

    label: "good", "bad", "any" or "none". group: column and value of a group of duplicates.
    """

    model_config = ConfigDict(extra="forbid")
    words: str = Field("", max_length=500)
    where: str = Field("", max_length=5000)
    like: str = Field("", max_length=300)
    sentence: str = Field("", max_length=500)
    label: Literal["", "good", "bad", "any", "none"] = ""
    group: str = Field("", max_length=300)


class Page(BaseModel):
    """What of the grid is wanted. only: clips that this filter (by index) drops. sort: a column, id, random or like."""

    model_config = ConfigDict(extra="forbid")
    show: Literal["kept", "dropped", "all"] = "kept"
    only: int | None = Field(None, ge=0)
    sort: str = Field("id", max_length=200)
    descending: bool = False
    seed: int = Field(0, ge=0, le=2**31)
    offset: int = Field(0, ge=0)
    limit: int = Field(60, ge=1, le=MAX_ROWS)
    find: Find = Find()


class Listing:
    """likeness(find) -> float32 [N], cosine with what was asked for, NaN where a clip has no embedding."""

    def __init__(self, chooser: Chooser, likeness: Any) -> None:
        self.chooser, self.columns, self.likeness = chooser, chooser.columns, likeness
        self._found: tuple[str, Mask] | None = None
        self._alike: tuple[np.ndarray, np.ndarray] | None = None  # likeness, and the order by it

    def prepare(self, page: Page) -> None:
        """What takes long and needs no lock: embeddings are read, a text encoder is loaded. Raises as `page` does."""
        if page.find.like or page.find.sentence:
            self.likeness(page.find)

    def page(self, choice: Choice, page: Page) -> dict[str, Any]:
        """{total, rows, note}. Raises SelectionError, KeyError for an unknown id."""
        mask = {"kept": lambda: choice.kept, "dropped": lambda: ~choice.kept}.get(page.show)
        mask = mask() if mask else Mask.full(self.columns.count)
        if page.only is not None and page.only < len(choice.verdicts):
            passed = choice.verdicts[page.only].passed
            mask = ~passed if passed is not None else Mask(self.columns.count)
        found = self.found(page.find)
        if found is not None:
            mask = mask & found
        likeness = self.likeness(page.find) if page.find.like or page.find.sentence else None
        there = mask.total()
        if page.sort == "random":
            total, values = there, None
            parts = (places[mask.take(places)] for places in shuffled(self.columns.count, page.seed))
        else:
            order, values = self._order(page, likeness)
            if order is None:
                total, parts = (
                    there,
                    mask.places_backwards() if page.descending and page.sort != "like" else mask.places(),
                )
            else:
                total = there - (mask & self._missing(page, likeness)).total()
                parts = chosen(order, mask, page.descending and page.sort != "like")
        note = f"{there - total:,} clips without {page.sort} are not shown" if total < there else ""
        places = sliced(parts, page.offset, min(page.limit, max(0, total - page.offset)))
        return {"total": total, "rows": self.rows(places, choice, values), "note": note}

    def rows(self, places: Sequence[int], choice: Choice, values: np.ndarray | None = None) -> list[dict[str, Any]]:
        """What a tile shows."""
        if not len(places):
            return []
        rows, columns = [], self.columns
        for place in (int(place) for place in places):
            label = columns.labels.get(place)
            caption = columns.shown[place].as_py() if columns.shown is not None else None
            rows.append(
                {
                    "id": columns.id(place),
                    "seconds": number(columns.seconds[place]) or 0.0,
                    "kept": bool(choice.kept[place]),
                    "badges": badges(choice, place),
                    "value": number(values[place]) if values is not None else None,
                    "label": label.label if label else None,
                    "note": label.note if label else None,
                    "caption": (caption or "")[:300],
                }
            )
        return rows

    def near(self, choice: Choice, index: int, count: int, others: bool) -> dict[str, Any]:
        """The clips closest to a filter's threshold on both sides, closest first. others: only those that pass all
        other filters."""
        verdict = choice.verdicts[index]
        name = verdict.column
        if name is None or verdict.threshold is None:
            raise SelectionError(f"{verdict.filter.name}: {verdict.error or 'has no threshold on one score'}")
        order, values = self.columns.order(name), self.columns.values[name]
        cut = bisected(values, order, verdict.threshold, right=not verdict.keeps_high)
        mask = Mask.full(self.columns.count)
        if others:
            for i, other in enumerate(choice.verdicts):
                if i != index and other.passed is not None:
                    mask = mask & other.passed
        sides = {"above": order[cut:], "below": order[:cut]}
        shown = {
            side: sliced(chosen(part, mask, side == "below"), 0, min(count, len(part))) for side, part in sides.items()
        }
        passed = mask & verdict.passed
        left = mask.total() - passed.total() - (mask & self.columns.unknown(name)).total()
        above, below = (passed.total(), left) if verdict.keeps_high else (left, passed.total())
        return {
            "column": name,
            "threshold": verdict.threshold,
            "keeps_high": verdict.keeps_high,
            "below": self.rows(shown["below"], choice, values),
            "above": self.rows(shown["above"], choice, values),
            "count_below": below,
            "count_above": above,
        }

    def found(self, find: Find) -> Mask | None:
        """A mask, or None where nothing is asked for."""
        key = find.model_dump_json(exclude={"like", "sentence"})
        if self._found and self._found[0] == key:
            return self._found[1]
        parts = []
        for word in find.words.split():
            if not self.columns.captions:
                raise SelectionError("no column of captions to search in: annotate with captions")
            condition = " OR ".join(f"contains(lower({quoted(name)}), lower(?))" for name in self.columns.captions)
            parts.append(self.columns.matching(condition, [word] * len(self.columns.captions)))
        if find.where.strip():
            verdict = self.chooser.verdict(Filter("where", sql=find.where))
            if verdict.error:
                raise SelectionError(verdict.error)
            parts.append(verdict.passed)
        if find.label:
            conditions = {"any": "label IS NOT NULL OR label_note IS NOT NULL", "none": "label IS NULL"}
            condition = conditions.get(find.label)
            parts.append(
                self.columns.matching(condition) if condition else self.columns.matching("label = ?", [find.label])
            )
        if find.group and (group := group_column(self.columns.held)):
            parts.append(self.columns.matching(f"{quoted(group)}::VARCHAR = ?", [find.group]))
        if not parts:
            return None
        mask = functools.reduce(Mask.__and__, parts)
        if not find.label and "label" not in find.where.lower():
            self._found = key, mask
        return mask

    def _order(self, page: Page, likeness: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(indices in order, None for all as they lie; the values that they are sorted by)."""
        if likeness is not None and page.sort in ("like", "id"):
            if self._alike is None or self._alike[0] is not likeness:
                self._alike = likeness, ordered(-likeness)
            return self._alike[1], likeness
        if page.sort in self.columns.values:
            return self.columns.order(page.sort), self.columns.values[page.sort]
        if page.sort not in ("id", "like"):
            raise SelectionError(f"sort: no score {page.sort}; choose from id, random, {SECONDS} or a score's name")
        return None, None

    def _missing(self, page: Page, likeness: np.ndarray | None) -> Mask:
        """The clips without a value to sort by."""
        if page.sort in self.columns.values:
            return self.columns.unknown(page.sort)
        return Mask.of(np.isnan(likeness))


def badges(choice: Choice, place: int) -> list[tuple[int, bool]]:
    """(index, whether its score is null) of the filters that drop a clip."""
    return [
        (i, v.is_null(place)) for i, v in enumerate(choice.verdicts) if v.passed is not None and not v.passed[place]
    ]


def group_column(names: Sequence[str]) -> str | None:
    """The column that names groups of duplicates, where they were computed."""
    return next((name for name in names if name in ("duplicate_group", "duplicate_of", "group_id")), None)


def number(value: Any) -> float | None:
    """A JSON number, or None."""
    return float(value) if np.isfinite(value) else None
