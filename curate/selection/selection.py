"""A selection: filters over the scores of all clips, resolved to thresholds once, with an account of every clip
dropped.

- Percentiles are over the whole dataset: all clips with a non-null score, whatever the other filters drop. The
  threshold of `drop_bottom p%` is the p-th percentile with linear interpolation (DuckDB's quantile_cont, numpy's
  default), and a clip passes at score >= threshold; `drop_top p%` takes the (100-p)-th and passes at score <=
  threshold. So ties at the threshold stay, and a column where most scores are equal may lose fewer clips than p%.
- A filter does not pass a null (nor a NaN): the clip is dropped with the reason "null", counted apart from "failing".
- A `where` runs in a database that holds the scores only and has no way to files, network or other tables.
  It may not depend on chance or the clock, as a selection that is made again must keep the same clips.
  Its one table is called `clips`, for subqueries and window functions: `row_number() OVER (PARTITION BY video_id
  ORDER BY motion_score DESC) <= 3`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base import sql as locked
from curate.base.scratch import Scratch
from curate.base.sql import ConditionError, literal, message_of, quoted
from curate.selection.filters import Filter, SelectionError

BASE_COLUMNS = ("clip_id", "start_time", "end_time")
MEMORY = "1500MB"  # of DuckDB; more is spilled
TOGETHER = 40_000_000  # values of percentiles that are computed at once
BATCH = 100_000
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
    """What a list of filters keeps. source: the scores, from which it is told again which clips these are."""

    filters: tuple[Filter, ...]
    steps: tuple[FunnelStep, ...]
    clips: int
    hours: float
    kept: int
    kept_hours: float
    source: ScoreTable = field(repr=False)

    @cached_property
    def verdicts_sql(self) -> str:
        """A DuckDB relation with a row per clip: clip_id, and for the filter with index i a bool column `filter_i`: True
        passed, False failed, null had no score. It is a file, which is there as long as this object."""
        return f"read_parquet({literal(self.source.write_verdicts(self.filters, self.conditions()))})"

    @property
    def kept_sql(self) -> str:
        """A DuckDB relation of one column, clip_id: the clips that every filter passes."""
        return f"(SELECT clip_id FROM {self.verdicts_sql} WHERE {self._passed()})"

    def kept_ids(self) -> pa.Array:
        """Ids of the clips that every filter passes, sorted, in memory."""
        return _table(f"SELECT clip_id FROM {self.kept_sql} ORDER BY 1")["clip_id"].combine_chunks()

    def reasons(self, clip_id: str) -> list[str]:
        """Why a clip was dropped, a line for each filter that dropped it; [] for a kept one. KeyError for an unknown
        id."""
        row = duckdb.connect().execute(f"SELECT * FROM {self.verdicts_sql} WHERE clip_id = ?", [clip_id]).fetchall()
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
        sql = f"SELECT clip_id, {listed} AS reasons FROM {self.verdicts_sql} WHERE NOT ({self._passed()}) ORDER BY 1"
        return _table(sql)

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
    """The scores that some filters need.

    A `where` sees them as a table on disk in a locked database: no file, network, Python object or setting can be reached.
    Without one they are read from the files as they are asked for, and nothing is held."""

    relation = "clips"  # the scores, as in FROM

    def __init__(
        self,
        clips: str,
        filters: Sequence[Filter],
        *,
        columns: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        db: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        """columns: to hold in order of clip_id, instead of those that the filters mention. settings: of DuckDB, e.g.
        memory_limit. db: a fresh connection to hold them in, for a caller that interrupts it from another thread."""
        self.scratch = Scratch()
        self.db = db or self.scratch.database("scores", MEMORY, **locked.NO_EXTENSIONS)
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
        loaded = f"SELECT {', '.join(_load(name, self.types[name]) for name in wanted)} FROM {clips}"
        asked = [chosen.sql for chosen in filters if not chosen.rule.on_column]
        try:
            if asked or columns is not None:
                in_order = columns is not None or any(locked.depends_on_order(self.db, sql) for sql in asked)
                order = " ORDER BY clip_id" if in_order else ""
                self.db.execute(f"CREATE TABLE clips AS {loaded}{order}").fetchall()
                locked.lock(self.db)
            else:
                self.relation = f"({loaded})"
            self.clips = self.db.execute(f"SELECT count(*) FROM {self.relation}").fetchall()[0][0]
        except duckdb.Error as error:
            raise SelectionError(f"clips table cannot be read: {message_of(error)}") from error
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
        thresholds = self._thresholds(filters, why_null)
        conditions = [_condition(chosen, at) for chosen, at in zip(filters, thresholds, strict=True)]
        for chosen in filters:
            if not chosen.rule.on_column:
                self.check_where(chosen, why_null)
        hours, steps = self._funnel(filters, thresholds, self._verdicts("_hours", conditions))
        kept, kept_hours = (steps[-1].remaining, steps[-1].remaining_hours) if steps else (self.clips, hours)
        return Selection(tuple(filters), tuple(steps), self.clips, hours, kept, kept_hours, self)

    def write_verdicts(self, filters: Sequence[Filter], conditions: Sequence[tuple[str, str]]) -> Path:
        """A Parquet file of `Selection.verdicts_sql`. conditions: as `Selection.conditions`."""
        made = self.scratch.path(f"verdicts-{uuid.uuid4().hex[:8]}.parquet")
        verdicts = self._verdicts("clip_id", [sql for _, sql in conditions])
        if self.relation != "clips":
            verdicts.write_parquet(str(made), compression="zstd")
            return made
        found = verdicts.to_arrow_reader(BATCH)  # since a locked database writes no files
        kinds = [pa.field(name, pa.bool_()) for name in found.schema.names[1:]]
        schema = pa.schema([pa.field("clip_id", pa.string()), *kinds])
        with pq.ParquetWriter(made, schema) as writer:
            for batch in found:
                writer.write_batch(batch.cast(schema))
        return made

    def _verdicts(self, key: str, conditions: Sequence[str]) -> duckdb.DuckDBPyRelation:
        """`key` and filter_0, filter_1 ... of every clip. As expressions, conditions cannot inject a second statement."""
        columns = [duckdb.SQLExpression(sql).alias(f"filter_{i}") for i, sql in enumerate(conditions)]
        scores = self.db.table("clips") if self.relation == "clips" else self.db.sql(f"FROM {self.relation}")
        return scores.select(duckdb.ColumnExpression(key), *columns)

    def threshold(self, chosen: Filter, why_null: Mapping[str, str]) -> float | None:
        """The number that a filter on a column compares with; None where SQL says it all."""
        return self._thresholds([chosen], why_null)[0]

    def _thresholds(self, filters: Sequence[Filter], why_null: Mapping[str, str]) -> list[float | None]:
        """Some columns at a time: an exact percentile holds all values of its column."""
        found: dict[int, float | None] = {}
        asked = [(i, chosen) for i, chosen in enumerate(filters) if chosen.rule.on_column]
        together = max(1, TOGETHER // max(1, self.clips))
        for first in range(0, len(asked), together):
            some, parts = asked[first : first + together], []
            for _, chosen in some:
                name = quoted(chosen.column)
                share = chosen.rule.share(chosen.amount) if chosen.percentile else None
                parts += [f"count({name})", "NULL" if share is None else f"quantile_cont({name}, {share!r})"]
            row = self.db.execute(f"SELECT {', '.join(parts)} FROM {self.relation}").fetchall()[0]
            for place, (i, chosen) in enumerate(some):
                if not row[2 * place]:
                    why = why_null.get(chosen.column, "no stage filled it; annotate with the stage that does")
                    raise SelectionError(
                        f"{chosen.name}: {chosen.column} is null for every clip ({why}), or remove the filter"
                    )
                found[i] = float(row[2 * place + 1]) if chosen.percentile else chosen.amount
        return [found.get(i) for i in range(len(filters))]

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

    def _funnel(
        self, filters: Sequence[Filter], thresholds: list[float | None], verdicts: duckdb.DuckDBPyRelation
    ) -> tuple[float, list[FunnelStep]]:
        """Hours of all clips, and counts for all filters, alone and in order, in one scan."""
        parts = ["coalesce(sum(_hours), 0)"]
        for i in range(len(filters)):
            passed = " AND ".join(f"coalesce(filter_{j}, false)" for j in range(i + 1))
            parts += [
                f"count(*) FILTER (filter_{i} IS NULL)",
                f"count(*) FILTER (NOT filter_{i})",
                f"coalesce(sum(_hours) FILTER (NOT coalesce(filter_{i}, false)), 0)",
                f"count(*) FILTER ({passed})",
                f"coalesce(sum(_hours) FILTER ({passed}), 0)",
            ]
        hours, *row = verdicts.aggregate(", ".join(parts)).fetchall()[0]
        return hours, [
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


def _table(sql: str) -> pa.Table:
    return duckdb.connect().sql(sql).to_arrow_table()
