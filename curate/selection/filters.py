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
from typing import Any, ClassVar

from curate.selection.presets import PRESETS, Preset, steps_of


class SelectionError(Exception):
    """A selection that cannot be made. One line: the part, the reason, the fix."""


@dataclass(frozen=True)
class FilterKind:
    """One way to say what a clip must be; `name` is its key in a config.

    sign: how a clip's score compares with the threshold; "" where SQL says it all. percentile: the amount is percent of
    all clips that have a score, so the threshold has to be looked up. example: an amount, for messages.
    """

    name: str
    sign: str = ""
    example: str = ""
    percentile: ClassVar[bool] = False

    @property
    def on_column(self) -> bool:
        return bool(self.sign)

    def check(self, chosen: Filter) -> None:
        """Raise SelectionError where the filter says too little, or what cannot be."""
        raise NotImplementedError

    def label(self, chosen: Filter) -> str:
        """How a person would write it."""
        raise NotImplementedError

    def body(self, chosen: Filter) -> Any:
        """What stands under `name` in a config, so that `parse` reads the same filter."""
        raise NotImplementedError

    def parse(self, body: Any) -> list[Filter]:
        """The filters of what stands under `name` in a config. Raises SelectionError."""
        raise NotImplementedError

    def share(self, amount: float) -> float:
        """The quantile that is the threshold, of a percentile."""
        raise NotImplementedError


class Where(FilterKind):
    """SQL over the columns says whether a clip is kept."""

    def check(self, chosen: Filter) -> None:
        if not chosen.sql.strip():
            raise SelectionError("where: the condition is empty; write a SQL condition such as motion_score > 2")

    def label(self, chosen: Filter) -> str:
        return f"where {' '.join(chosen.sql.split())}"

    def body(self, chosen: Filter) -> str:
        return chosen.sql

    def parse(self, body: Any) -> list[Filter]:
        return [Filter(self.name, sql=str(sql)) for sql in ([body] if isinstance(body, str) else body)]


class Bound(FilterKind):
    """A column's value against an amount."""

    def check(self, chosen: Filter) -> None:
        if not chosen.column:
            raise SelectionError(f"{self.name}: no column named; write {self.name}: {{column: amount}}")

    def label(self, chosen: Filter) -> str:
        return f"{self.name} {chosen.column}={self._written(chosen)}"

    def body(self, chosen: Filter) -> dict[str, Any]:
        return {chosen.column: chosen.amount}

    def parse(self, body: Any) -> list[Filter]:
        if not isinstance(body, Mapping):
            return [Filter(self.name)]  # which says that no column is named
        return [Filter(self.name, str(column), self.amount(str(column), value)) for column, value in body.items()]

    def option(self, text: str) -> Filter:
        """The filter of an option of the command line: `column=amount`."""
        column, equals, value = text.partition("=")
        if not equals:
            flag, example = f"--{self.name.replace('_', '-')}", f"motion_score={self.example}"
            raise SelectionError(f"{flag} {text}: write column=amount, as in {example}")
        return Filter(self.name, column.strip(), self.amount(column.strip(), value))

    def amount(self, column: str, value: Any) -> float:
        """A number as written: `2.5`; of a percentile `25%` or `25`."""
        text = str(value).strip()
        match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)", text)
        if not match or isinstance(value, bool):
            raise SelectionError(f"{self.name} {column}: not a number: {text!r}; write {self.example}")
        if match[2] and not self.percentile:
            kinds = " or ".join(kind.name for kind in KINDS if kind.percentile)
            raise SelectionError(f"{self.name} {column}: {text} is a percentage; use {kinds} for percentiles")
        return float(match[1])

    def _written(self, chosen: Filter) -> str:
        return f"{chosen.amount:g}"


class Percentile(Bound):
    """The lowest or the highest percent of all clips that have a score go."""

    percentile = True

    def check(self, chosen: Filter) -> None:
        super().check(chosen)
        if not 0 < chosen.amount < 100:
            raise SelectionError(
                f"{self.name} {chosen.column}: the percentage must lie between 0% and 100% (got {chosen.amount:g}%)"
            )

    def body(self, chosen: Filter) -> dict[str, Any]:
        return {chosen.column: self._written(chosen)}

    def share(self, amount: float) -> float:
        return amount / 100 if self.sign == ">=" else 1 - amount / 100

    def _written(self, chosen: Filter) -> str:
        return f"{chosen.amount:g}%"


WHERE = Where("where")
MIN = Bound("min", ">=", example="2.5")
MAX = Bound("max", "<=", example="2.5")
DROP_BOTTOM = Percentile("drop_bottom", ">=", example="25%")
DROP_TOP = Percentile("drop_top", "<=", example="25%")

KINDS = [WHERE, MIN, MAX, DROP_BOTTOM, DROP_TOP]
BY_NAME = {kind.name: kind for kind in KINDS}
COLUMN_KINDS = tuple(kind.name for kind in KINDS if kind.on_column)


@dataclass(frozen=True)
class Filter:
    """One condition on a clip.

    kind: the name of one of `KINDS`: `where` (sql says), `min` (column >= amount), `max` (column <= amount),
    `drop_bottom` and `drop_top` (the lowest or highest `amount` percent of all clips that have a score go). The
    direction never depends on what a column means.
    """

    kind: str
    column: str = ""
    amount: float = 0.0
    sql: str = ""

    def __post_init__(self) -> None:
        if self.kind not in BY_NAME:
            *names, last = BY_NAME
            raise SelectionError(f"{self.kind}: no such filter; use {', '.join(names)} or {last}")
        self.rule.check(self)

    @property
    def rule(self) -> FilterKind:
        return BY_NAME[self.kind]

    @property
    def percentile(self) -> bool:
        return self.rule.percentile

    @property
    def name(self) -> str:
        """How a person would write it: `drop_bottom motion_score=25%`."""
        return self.rule.label(self)

    def to_dict(self) -> dict[str, Any]:
        """The step of a config that says the same; `parse_filters([...])` reads it back."""
        return {self.kind: self.rule.body(self)}


def parse_filters(
    spec: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, presets: Sequence[Preset] = PRESETS
) -> list[Filter]:
    """Filters of a preset's name, of one step, or of a list of steps (see the module's docstring).

    Percentages are written `25%` or `25`: either way the number is percent. A part that is null or {} asks for nothing.
    Raises SelectionError.
    """
    if spec is None:
        return []
    if isinstance(spec, str):
        if (steps := steps_of(spec, presets)) is None:
            names = ", ".join(sorted(preset.name for preset in presets))
            raise SelectionError(f"selection: no preset named {spec!r}; there are {names}")
        return parse_filters(steps)
    filters: list[Filter] = []
    for number, step in enumerate([spec] if isinstance(spec, Mapping) else spec, 1):
        if not isinstance(step, Mapping):
            example = "drop_bottom: {motion_score: 25%}"
            raise SelectionError(f"selection: step {number} must be a mapping such as {example} (got {step!r})")
        for kind, body in step.items():
            if body is not None and body != {}:
                filters += BY_NAME[kind].parse(body) if kind in BY_NAME else [Filter(kind)]  # which says what there is
    return filters


def filters_from_options(
    where: Iterable[str] = (),
    minimum: Iterable[str] = (),
    maximum: Iterable[str] = (),
    drop_bottom: Iterable[str] = (),
    drop_top: Iterable[str] = (),
) -> list[Filter]:
    """Filters of a command line: `--where SQL`, and `column=amount` for the others, in this order."""
    filters = [Filter(WHERE.name, sql=sql) for sql in where]
    for kind, options in ((MIN, minimum), (MAX, maximum), (DROP_BOTTOM, drop_bottom), (DROP_TOP, drop_top)):
        filters += [kind.option(text) for text in options]
    return filters
