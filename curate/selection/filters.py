"""Filters over the columns of a clips table: what a config or a command line may ask for, parsed and checked.

In a config a selection is a list of steps, applied in order; a step that names several columns is several filters:

    filters:
      - drop_bottom: {motion_score: 25%, aesthetic_score: 25%}   # percentiles over the whole dataset
      - drop_top: {text_area: 25%}
      - min: {num_frames: 16}                                    # keeps >= 16
      - max: {text_area: 0.07}                                   # keeps <= 0.07
      - where: "width >= 480 AND caption_merged ILIKE '%dog%'"   # SQL (DuckDB) over the columns
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["where", "min", "max", "drop_bottom", "drop_top"]
COLUMN_KINDS: tuple[Kind, ...] = ("min", "max", "drop_bottom", "drop_top")


class SelectionError(Exception):
    """A selection that cannot be made. One line: the part, the reason, the fix."""


@dataclass(frozen=True)
class Filter:
    """One condition on a clip.

    kind: `where` (sql says), `min` (column >= amount), `max` (column <= amount), `drop_bottom` and `drop_top` (the
    lowest or highest `amount` percent of all clips that have a score go). The direction never depends on what a
    column means.
    """

    kind: Kind
    column: str = ""
    amount: float = 0.0
    sql: str = ""

    def __post_init__(self) -> None:
        if self.kind == "where":
            if not self.sql.strip():
                raise SelectionError("where: the condition is empty; write a SQL condition such as motion_score > 2")
        elif self.kind in COLUMN_KINDS:
            if not self.column:
                raise SelectionError(f"{self.kind}: no column named; write {self.kind}: {{column: amount}}")
            if self.kind.startswith("drop") and not 0 < self.amount < 100:
                raise SelectionError(
                    f"{self.kind} {self.column}: the percentage must lie between 0% and 100% (got {self.amount:g}%)"
                )
        else:
            raise SelectionError(f"{self.kind}: no such filter; use where, min, max, drop_bottom or drop_top")

    @property
    def percentile(self) -> bool:
        return self.kind in ("drop_bottom", "drop_top")

    @property
    def name(self) -> str:
        """How a person would write it: `drop_bottom motion_score=25%`."""
        if self.kind == "where":
            return f"where {' '.join(self.sql.split())}"
        return f"{self.kind} {self.column}={self.amount:g}{'%' if self.percentile else ''}"

    def to_dict(self) -> dict[str, Any]:
        """The step of a config that says the same; `parse_filters([...])` reads it back."""
        if self.kind == "where":
            return {"where": self.sql}
        return {self.kind: {self.column: f"{self.amount:g}%" if self.percentile else self.amount}}


# Blattmann et al. 2023, section 3.2 and appendix C: percentiles of the whole dataset ...
SVD = (
    Filter("drop_bottom", "motion_score", 25),
    Filter("drop_bottom", "aesthetic_score", 25),
    Filter("drop_bottom", "similarity_merged", 50),
    Filter("drop_top", "text_area", 25),
)
PRESETS: dict[str, tuple[Filter, ...]] = {
    "svd": SVD,
    "svd-final": (*SVD, Filter("max", "text_area", 0.07)),  # ... and the rule of the final set
    "none": (),
}


def parse_filters(spec: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[Filter]:
    """Filters of a preset's name, of one step, or of a list of steps (see the module's docstring).

    Percentages are written `25%` or `25`: either way the number is percent. A part that is null or {} asks for nothing.
    Raises SelectionError.
    """
    if spec is None:
        return []
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise SelectionError(f"selection: no preset named {spec!r}; there are {', '.join(sorted(PRESETS))}")
        return list(PRESETS[spec])
    filters: list[Filter] = []
    for number, step in enumerate([spec] if isinstance(spec, Mapping) else spec, 1):
        if not isinstance(step, Mapping):
            example = "drop_bottom: {motion_score: 25%}"
            raise SelectionError(f"selection: step {number} must be a mapping such as {example} (got {step!r})")
        for kind, body in step.items():
            if body is None or body == {}:
                continue
            if kind == "where":
                filters += [Filter("where", sql=str(sql)) for sql in ([body] if isinstance(body, str) else body)]
            elif isinstance(body, Mapping):
                filters += [Filter(kind, str(c), _number(kind, str(c), amount)) for c, amount in body.items()]
            else:
                Filter(kind)  # names an unknown kind first
                raise SelectionError(f"{kind}: must be a mapping such as {{motion_score: 25}} (got {body!r})")
    return filters


def filters_from_options(
    where: Iterable[str] = (),
    minimum: Iterable[str] = (),
    maximum: Iterable[str] = (),
    drop_bottom: Iterable[str] = (),
    drop_top: Iterable[str] = (),
) -> list[Filter]:
    """Filters of a command line: `--where SQL`, and `column=amount` for the others, in this order."""
    filters = [Filter("where", sql=sql) for sql in where]
    for kind, options in zip(COLUMN_KINDS, (minimum, maximum, drop_bottom, drop_top), strict=True):
        for option in options:
            column, equals, amount = option.partition("=")
            if not equals:
                example = "motion_score=25%" if kind.startswith("drop") else "motion_score=2.5"
                raise SelectionError(f"--{kind.replace('_', '-')} {option}: write column=amount, as in {example}")
            filters.append(Filter(kind, column.strip(), _number(kind, column.strip(), amount)))
    return filters


def _number(kind: str, column: str, amount: Any) -> float:
    text = str(amount).strip()
    percentile = kind in ("drop_bottom", "drop_top")
    match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)", text)
    if not match or isinstance(amount, bool):
        raise SelectionError(f"{kind} {column}: not a number: {text!r}; write {'25%' if percentile else '2.5'}")
    if match[2] and not percentile:
        raise SelectionError(f"{kind} {column}: {text} is a percentage; use drop_bottom or drop_top for percentiles")
    return float(match[1])
