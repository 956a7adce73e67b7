"""A selection: filters over the scores of all clips, resolved to thresholds once, with an account of every clip
dropped.

- Percentiles are over the whole dataset: all clips with a non-null score, whatever the other filters drop. The
  threshold of `drop_bottom p%` is the p-th percentile with linear interpolation (DuckDB's quantile_cont, numpy's
  default), and a clip passes at score >= threshold; `drop_top p%` takes the (100-p)-th and passes at score <=
  threshold. So ties at the threshold stay, and a column where most scores are equal may lose fewer clips than p%.
- A filter does not pass a null (nor a NaN): the clip is dropped with the reason "null", counted apart from "failing".
- A `where` runs in an in-memory database that holds the scores only and has no way to files, network or other tables.
  It may not depend on chance or the clock, as a selection that is made again must keep the same clips.
  Its one table is called `clips`, for subqueries and window functions: `row_number() OVER (PARTITION BY video_id
  ORDER BY motion_score DESC) <= 3`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from curate.base import sql as locked
from curate.base.sql import ConditionError, literal, message_of, quoted
from curate.selection.filters import Filter, SelectionError

BASE_COLUMNS = ("clip_id", "start_time", "end_time")
NUMERIC = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|REAL|DECIMAL.*)$")

__all__ = ["BASE_COLUMNS", "NUMERIC", "FunnelStep", "ScoreTable", "Selection", "select"]


@dataclass(frozen=True)
class FunnelStep:
    """One filter of the funnel. Clips and hours that it drops *alone* (of all clips), and what is left *in order*
    after it.

    threshold: the resolved number, or None for `where`. null, failing: the two reasons to be dropped by it alone.
    """

    name: str
    condition: str
    threshold: float | None
    null: int
    failing: int
    dropped_hours: float
    remaining: int
    remaining_hours: float

    @property
    def dropped(self) -> int:
        return self.null + self.failing


@dataclass(frozen=True)
class Selection:
    """What a list of filters keeps.

    verdicts: Arrow table with a row per clip in order of clip_id: clip_id, and for the filter with index i a bool
    column `filter_i`: True passed, False failed, null had no score.
    """

    filters: tuple[Filter, ...]
    steps: tuple[FunnelStep, ...]
    clips: int
    hours: float
    kept: int
    kept_hours: float
    verdicts: pa.Table = field(repr=False)

    def kept_ids(self) -> pa.Array:
        """Ids of the clips that every filter passes, sorted."""
        return _query(self.verdicts, f"SELECT clip_id FROM verdicts WHERE {self._passed()} ORDER BY 1")[
            0
        ].combine_chunks()

    def reasons(self, clip_id: str) -> list[str]:
        """Why a clip was dropped, a line for each filter that dropped it; [] for a kept one. KeyError for an unknown
        id."""
        row = duckdb.connect().from_arrow(self.verdicts).filter(
            duckdb.ColumnExpression("clip_id") == duckdb.ConstantExpression(clip_id)
        ).fetchall()  # fmt: skip
        if not row:
            raise KeyError(clip_id)
        return [self.reason(i, passed) for i, passed in enumerate(row[0][1:]) if not passed]

    def reason(self, index: int, passed: bool | None) -> str:
        """Reason of one filter, from its verdict: False, or None for a null."""
        step, chosen = self.steps[index], self.filters[index]
        if passed is None:
            return f"{chosen.column or chosen.name} is null"
        return f"not ({step.condition}), {step.name}" if chosen.percentile else f"not ({step.condition})"

    def dropped(self) -> pa.Table:
        """A row per dropped clip, sorted by id: clip_id, reasons (list of text)."""
        parts = []
        for i in range(len(self.filters)):
            no, null = (literal(self.reason(i, passed)) for passed in (False, None))
            parts.append(f"CASE WHEN filter_{i} IS NULL THEN {null} WHEN NOT filter_{i} THEN {no} END")
        listed = f"list_filter([{', '.join(parts)}], lambda r: r IS NOT NULL)" if parts else "[]::VARCHAR[]"
        sql = f"SELECT clip_id, {listed} AS reasons FROM verdicts WHERE NOT ({self._passed()}) ORDER BY 1"
        return _query(self.verdicts, sql)

    def _passed(self) -> str:
        return " AND ".join(f"coalesce(filter_{i}, false)" for i in range(len(self.filters))) or "true"

    def conditions(self) -> list[tuple[str, str]]:
        """(name, SQL with the resolved threshold) of each filter."""
        return [(f.name, _condition(f, step.threshold)) for f, step in zip(self.filters, self.steps, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Query, thresholds, funnel and counts as plain JSON values, for selection.json."""
        return {
            "filters": [f.to_dict() for f in self.filters],
            "clips": self.clips,
            "hours": self.hours,
            "kept": self.kept,
            "kept_hours": self.kept_hours,
            "funnel": [
                {
                    "filter": step.name,
                    "condition": step.condition,
                    "threshold": step.threshold,
                    "alone": {
                        "dropped": step.dropped,
                        "null": step.null,
                        "failing": step.failing,
                        "hours": step.dropped_hours,
                    },
                    "in_order": {"remaining": step.remaining, "hours": step.remaining_hours},
                }
                for step in self.steps
            ],
        }


def select(clips: str, filters: Sequence[Filter], *, why_null: Mapping[str, str] | None = None) -> Selection:
    """Apply filters to all clips.

    clips: a DuckDB relation as in FROM, e.g. `read_parquet(['a.parquet'])`; only the columns that the filters name
    are read. why_null: column -> why it is empty throughout and the fix, for the error of a filter that needs it. Raises
    SelectionError: unknown column, bad SQL, a column with no score at all, an empty dataset.
    """
    table = ScoreTable(clips, filters)
    return table.select(filters, why_null or {})


class ScoreTable:
    """The scores that some filters need, in memory and locked: no file, network, Python object or setting can be
    reached."""

    def __init__(
        self,
        clips: str,
        filters: Sequence[Filter],
        *,
        columns: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        db: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        """columns: to hold, instead of those that the filters mention. settings: of DuckDB, e.g. memory_limit. db: a
        fresh connection to hold them in, for a caller that interrupts it from another thread."""
        self.db = db or locked.connect()
        try:
            described = self.db.execute(f"DESCRIBE SELECT * FROM {clips}").fetchall()
        except duckdb.Error as error:
            raise SelectionError(f"clips table cannot be read: {message_of(error)}") from error
        self.types = {row[0]: str(row[1]) for row in described}
        for chosen in filters:
            if chosen.column:
                self.check_column(chosen)
        for name, value in (settings or {}).items():
            self.db.execute(f"SET {name} = {literal(value)}").fetchall()
        wanted = self._mentioned(filters) if columns is None else columns
        loaded = ", ".join(_load(name, self.types[name]) for name in wanted)
        try:
            self.db.execute(f"CREATE TABLE clips AS SELECT {loaded} FROM {clips} ORDER BY clip_id").fetchall()
        except duckdb.Error as error:
            raise SelectionError(f"clips table cannot be read: {message_of(error)}") from error
        locked.lock(self.db)
        self.clips, self.hours = self.db.execute("SELECT count(*), coalesce(sum(_hours), 0) FROM clips").fetchall()[0]
        if not self.clips:
            raise SelectionError(
                "the dataset has no clips: nothing to select from; see `winnow stats` for what became of its videos"
            )

    def check_column(self, chosen: Filter) -> None:
        if chosen.column not in self.types:
            raise SelectionError(
                f"{chosen.name}: no column {chosen.column}; {locked.nearest(chosen.column, list(self.types))}"
            )
        if not NUMERIC.match(self.types[chosen.column]):
            kind = self.types[chosen.column]
            raise SelectionError(f"{chosen.name}: {chosen.column} is {kind}, not a number; use where for such columns")

    def _mentioned(self, filters: Sequence[Filter]) -> list[str]:
        """Columns to load: the filters' own, and every one whose name occurs in a `where` (a superset does no harm)."""
        missing = [name for name in BASE_COLUMNS if name not in self.types]
        if missing:
            raise SelectionError(f"clips table has no column {', '.join(missing)}: not an annotated dataset")
        text = "\n".join(f.sql for f in filters).lower()
        own = {f.column for f in filters}
        return [name for name in self.types if name in BASE_COLUMNS or name in own or name.lower() in text]

    def select(self, filters: Sequence[Filter], why_null: Mapping[str, str]) -> Selection:
        thresholds = [self.threshold(chosen, why_null) for chosen in filters]
        conditions = [_condition(chosen, at) for chosen, at in zip(filters, thresholds, strict=True)]
        relation = self.db.table("clips")
        chosen_columns = [duckdb.ColumnExpression("clip_id"), duckdb.ColumnExpression("_hours")]
        for i, (chosen, condition) in enumerate(zip(filters, conditions, strict=True)):
            if not chosen.rule.on_column:
                self.check_where(chosen, why_null)
            chosen_columns.append(duckdb.SQLExpression(condition).alias(f"filter_{i}"))
        relation.select(*chosen_columns).create("verdicts")
        verdicts = self.db.sql("SELECT * EXCLUDE (_hours) FROM verdicts ORDER BY clip_id").to_arrow_table()
        steps = self._funnel(filters, thresholds)
        kept, kept_hours = (steps[-1].remaining, steps[-1].remaining_hours) if steps else (self.clips, self.hours)
        return Selection(tuple(filters), tuple(steps), self.clips, self.hours, kept, kept_hours, verdicts)

    def threshold(self, chosen: Filter, why_null: Mapping[str, str]) -> float | None:
        """The number that a filter on a column compares with; None where SQL says it all."""
        if not chosen.rule.on_column:
            return None
        name = quoted(chosen.column)
        if not self.db.execute(f"SELECT count({name}) FROM clips").fetchall()[0][0]:
            why = why_null.get(chosen.column, "no stage filled it; annotate with the stage that does")
            raise SelectionError(f"{chosen.name}: {chosen.column} is null for every clip ({why}), or remove the filter")
        if not chosen.percentile:
            return chosen.amount
        share = chosen.rule.share(chosen.amount)
        return float(self.db.execute(f"SELECT quantile_cont({name}, {share!r}) FROM clips").fetchall()[0][0])

    def check_where(self, chosen: Filter, why_null: Mapping[str, str]) -> None:
        """One boolean expression, that can be computed, and is not null throughout."""
        name = chosen.name if len(chosen.name) <= 90 else chosen.name[:87] + "..."
        try:
            answered = locked.verdict(self.db, chosen.sql, "clip_id", list(self.types)).aggregate("count(verdict)")
            answered = answered.fetchall()[0][0]
        except ConditionError as error:
            raise SelectionError(f"{name}: {error}") from error
        except duckdb.Error as error:  # found while computing it
            raise SelectionError(f"{name}: {locked.explain(error, list(self.types))}") from error
        if not answered:
            empty = [c for c in self.types if c in why_null and c.lower() in chosen.sql.lower()]
            why = "; ".join(f"{c}: {why_null[c]}" for c in empty) or "its columns have no values"
            raise SelectionError(f"{name}: null for every clip ({why}), or remove the filter")

    def _funnel(self, filters: Sequence[Filter], thresholds: list) -> list[FunnelStep]:
        """Counts for all filters, alone and in order, in one scan."""
        if not filters:
            return []
        parts = []
        for i in range(len(filters)):
            passed = " AND ".join(f"coalesce(filter_{j}, false)" for j in range(i + 1))
            parts += [
                f"count(*) FILTER (filter_{i} IS NULL)",
                f"count(*) FILTER (NOT filter_{i})",
                f"coalesce(sum(_hours) FILTER (NOT coalesce(filter_{i}, false)), 0)",
                f"count(*) FILTER ({passed})",
                f"coalesce(sum(_hours) FILTER ({passed}), 0)",
            ]
        row = self.db.execute(f"SELECT {', '.join(parts)} FROM verdicts").fetchall()[0]
        return [
            FunnelStep(chosen.name, _readable(chosen, at), at, *row[5 * i : 5 * i + 5])
            for i, (chosen, at) in enumerate(zip(filters, thresholds, strict=True))
        ]


def _readable(chosen: Filter, threshold: float | None) -> str:
    if threshold is None:
        return " ".join(chosen.sql.split())
    return f"{chosen.column} {chosen.rule.sign} {threshold:.6g}"


def _condition(chosen: Filter, threshold: float | None) -> str:
    if threshold is None:
        return chosen.sql
    # A bare decimal literal would be DECIMAL and lose the last bits of the threshold.
    return f"{quoted(chosen.column)} {chosen.rule.sign} {threshold!r}::DOUBLE"


def _load(name: str, kind: str) -> str:
    column = quoted(name)
    if kind in ("FLOAT", "DOUBLE"):
        column = f"CASE WHEN isfinite({column}) THEN {column} END AS {column}"
    if name == "end_time":
        column += ", (end_time - start_time) / 3600 AS _hours"
    return column


def _query(verdicts: pa.Table, sql: str) -> pa.Table:
    db = duckdb.connect()
    db.register("verdicts", verdicts)
    return db.sql(sql).to_arrow_table()
