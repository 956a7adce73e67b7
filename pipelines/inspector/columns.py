"""The clips of a dataset in memory: score columns as arrays in order of clip_id, and one locked table for SQL.

A million clips with twenty scores are 100 MB of arrays, so that a filter is one comparison of an array, and the table that
answers `where`, percentiles and searches in captions has all columns but pictures, embeddings and videos. The table is that
of `curate.selection`, with its locks: no file, network or setting can be reached from a condition.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.filters import Filter, SelectionError
from curate.selection import NUMERIC, ScoreTable, first_line, quoted
from pipelines import labels
from pipelines.inspector.source import Source
from pipelines.plots import NOT_SCORES

PLACES = ("filename", "file_row_number")
SECONDS = "seconds"  # a clip's length: shown and filtered as a score, though the table has only its start and end
LENGTH = re.compile(r"\s*end_time\s*-\s*start_time\s*(>=|<=)\s*(\d+\.?\d*|\.\d+)\s*$", re.IGNORECASE)
MEMORY, QUERY_SECONDS = "1200MB", 30.0


class Columns:
    """values: column -> float32 or float64 [N], NaN where null; ids: [N] sorted texts; seconds: float64 [N], lengths.

    file, row: where a clip's row lies, in `files` and within that file.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.lock = threading.RLock()
        held = [name for name, kind in source.types.items() if _light(kind)]
        settings = {"memory_limit": MEMORY, "threads": "2", "temp_directory": ""}
        self.table = ScoreTable(source.clips, (), columns=held, settings=settings)
        self.held = [name for name in held if name not in PLACES]
        self.count = int(self.table.clips)
        self.files, self.file = self._files()
        self.row = self._numbers("file_row_number").astype(np.int32)
        for name in PLACES:  # so that a condition sees the columns that `winnow select` sees
            self.table.db.execute(f"ALTER TABLE clips DROP COLUMN {name}").fetchall()
            self.table.types.pop(name)
        self.ids: pa.StringArray = self._arrow("clip_id").combine_chunks()
        start, end = self._numbers("start_time", np.float64), self._numbers("end_time", np.float64)
        self.seconds = np.nan_to_num(end - start)
        self.hours = self.seconds / 3600
        self.values: dict[str, np.ndarray] = {SECONDS: end - start}
        for name in self.held:
            if NUMERIC.match(source.types[name]) and name not in NOT_SCORES:
                self.values[name] = self._numbers(name)
        self._sorted: dict[str, np.ndarray] = {}

    def place(self, clip_id: str) -> int:
        """Its index. KeyError for an unknown id."""
        at = bisect.bisect_left(_Texts(self.ids), clip_id)
        if at == len(self.ids) or self.ids[at].as_py() != clip_id:
            raise KeyError(clip_id)
        return at

    def order(self, name: str) -> np.ndarray:
        """[K] int32: indices of the clips that have the score, lowest first, ties in order of id."""
        with self.lock:
            if name not in self._sorted:
                values = self.values[name]
                order = np.argsort(values, kind="stable").astype(np.int32)
                self._sorted[name] = order[: np.count_nonzero(~np.isnan(values))]
            return self._sorted[name]

    def threshold(self, chosen: Filter) -> float:
        """Of a filter on a column, in its own units: the number that select resolves it to. Raises SelectionError."""
        if chosen.column == SECONDS:
            raise SelectionError(f"{chosen.name}: the length of clips is filtered by where end_time - start_time >= 1")
        with self.lock:
            self.table.check_column(chosen)
            return float(self.table.threshold(chosen, self.source.why_null))

    def where(self, chosen: Filter) -> tuple[np.ndarray, np.ndarray]:
        """(passed, null), bool [N] each, of a `where`. Raises SelectionError."""
        if length := LENGTH.match(chosen.sql):
            values = self.values[SECONDS]
            return passing(values, length[1], float(length[2])), np.isnan(values)
        mentioned = chosen.sql.lower()
        if any(name.lower() in mentioned for name in self.source.types if name not in self.held and name not in PLACES):
            return self._verdict(ScoreTable(self.source.clips, [chosen]), chosen)
        return self._verdict(self.table, chosen)

    def matching(self, condition: str, parameters: Sequence[Any] = ()) -> np.ndarray:
        """bool [N] of a condition of ours, with parameters for what a person wrote."""
        with self._patience("search"):
            found = self.table.db.execute(f"SELECT rowid FROM clips WHERE {condition}", list(parameters)).fetchnumpy()
        mask = np.zeros(self.count, bool)
        mask[np.asarray(found["rowid"], np.int64)] = True
        return mask

    def rows(self, places: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Values of clips, in the order of `places`."""
        wanted = ", ".join(quoted(name) for name in names)
        with self.lock:
            found = self.table.db.execute(
                f"SELECT rowid, {wanted} FROM clips WHERE rowid IN (SELECT unnest(?::BIGINT[]))",
                [[int(p) for p in places]],
            ).fetchall()
        by_place = {row[0]: dict(zip(names, row[1:], strict=True)) for row in found}
        return [by_place[int(place)] for place in places]

    def set_label(self, place: int, said: labels.Label) -> None:
        with self.lock:
            self.table.db.execute(
                "UPDATE clips SET label = ?, label_note = ? WHERE rowid = ?", [said.label, said.note, int(place)]
            ).fetchall()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a query of ours over the table `clips`."""
        with self.lock:
            return self.table.db.execute(sql, list(parameters)).fetchall()

    @cached_property
    def captions(self) -> list[str]:
        return [name for name in self.held if name.startswith("caption_") and not name.endswith("_from")] + [
            name for name in ("source_caption",) if name in self.held
        ]

    def _verdict(self, table: ScoreTable, chosen: Filter) -> tuple[np.ndarray, np.ndarray]:
        with self._patience(chosen.name, table):
            table.check_where(chosen, self.source.why_null)
            try:
                found = (
                    table.db.table("clips")
                    .select(duckdb.ColumnExpression("rowid"), duckdb.SQLExpression(chosen.sql).alias("verdict"))
                    .to_arrow_table()
                )
            except duckdb.Error as error:
                raise SelectionError(f"{chosen.name}: {first_line(error)}") from error
        places, verdict = found["rowid"].to_numpy(), found["verdict"].combine_chunks()
        passed, null = np.zeros(self.count, bool), np.zeros(self.count, bool)
        passed[places] = verdict.fill_null(False).to_numpy(zero_copy_only=False)
        null[places] = verdict.is_null().to_numpy(zero_copy_only=False)
        return passed, null

    @contextmanager
    def _patience(self, what: str, table: ScoreTable | None = None) -> Iterator[None]:
        """The lock; and a query that takes too long is interrupted."""
        with self.lock:
            timer = threading.Timer(QUERY_SECONDS, (table or self.table).db.interrupt)
            timer.daemon = True
            timer.start()
            try:
                yield
            except (duckdb.InterruptException, SelectionError) as error:
                if isinstance(error, SelectionError) and "nterrupt" not in str(error):
                    raise
                raise SelectionError(f"{what}: takes longer than {QUERY_SECONDS:g} s: ask for less") from None
            except duckdb.Error as error:
                raise SelectionError(f"{what}: {first_line(error)}") from error
            finally:
                timer.cancel()

    def _files(self) -> tuple[list[str], np.ndarray]:
        named = self._arrow("filename").combine_chunks().dictionary_encode()
        return named.dictionary.to_pylist(), named.indices.to_numpy().astype(np.int32)

    def _arrow(self, name: str) -> pa.ChunkedArray:
        return self.table.db.sql(f"SELECT {quoted(name)} FROM clips ORDER BY rowid").to_arrow_table()[name]

    def _numbers(self, name: str, dtype: Any = None) -> np.ndarray:
        values = self._arrow(name).to_numpy()
        if dtype is None and values.dtype.kind in "iu":
            dtype = np.float32 if not len(values) or np.abs(values).max() < 1 << 24 else np.float64
        return np.ascontiguousarray(values, dtype)


def passing(values: np.ndarray, sign: str, threshold: float) -> np.ndarray:
    """bool [N]: value >= or <= threshold, compared in double precision as DuckDB does; NaN does not pass."""
    at = values.dtype.type(threshold)
    if values.dtype == np.float32:  # the float32 that says the same to float32 values as the double does
        if sign == ">=" and float(at) < threshold:
            at = np.nextafter(at, np.float32(np.inf))
        if sign == "<=" and float(at) > threshold:
            at = np.nextafter(at, np.float32(-np.inf))
    return values >= at if sign == ">=" else values <= at


def _light(kind: str) -> bool:
    return "BLOB" not in kind and not re.search(r"(FLOAT|DOUBLE)\[", kind)


class _Texts(Mapping):
    """An Arrow array as what bisect reads."""

    def __init__(self, array: pa.StringArray) -> None:
        self.array = array

    def __getitem__(self, at: int) -> str:
        return self.array[at].as_py()

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.array.to_pylist())
