"""The clips of a dataset in memory: score columns as arrays in order of clip_id, and one locked table for SQL.

A million clips with twenty scores are 100 MB of arrays, so that a filter is one comparison of an array, and the table that
answers `where`, percentiles and searches in captions has all columns but pictures, embeddings and videos. The table is that
of `curate.selection.selection`, with its locks: no file, network or setting can be reached from a condition.
"""

from __future__ import annotations

import bisect
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.base.sql import connect, message_of, quoted
from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import BASE_COLUMNS, NUMERIC, ScoreTable
from pipelines.dataset import labels
from pipelines.dataset.columns import NOT_SCORES
from pipelines.inspector.data.inspected import Inspected

PLACES = ("filename", "file_row_number")
SECONDS = "seconds"  # a clip's length: shown and filtered as a score, though the table has only its start and end
LENGTH_NOTES = {"formula": "end_time - start_time", "unit": "s", "range": "0..", "source": ""}
LENGTH = re.compile(r"\s*end_time\s*-\s*start_time\s*(>=|<=)\s*(\d+\.?\d*|\.\d+)\s*$", re.IGNORECASE)
SETTINGS = {"memory_limit": "1200MB", "threads": "2", "temp_directory": ""}
QUERY_SECONDS, INSIST_SECONDS = 30.0, 0.05
NAMING = ("column_names", "using_columns", "exclude_list")  # in DuckDB's tree of a statement


class TooLong(SelectionError):
    """A question that took longer than QUERY_SECONDS. Asked again, when the machine is less busy, it may be answered."""


class Columns:
    """values: column -> float32 or float64 [N], NaN where null; ids: [N] sorted texts; seconds: float64 [N], lengths.

    file, row: where a clip's row lies, in `files` and within that file. shown: the caption that a tile has. labels: by index.
    """

    def __init__(self, inspected: Inspected) -> None:
        self.inspected = inspected
        self.lock = threading.RLock()
        held = [name for name, kind in inspected.types.items() if _light(kind)]
        self.table = ScoreTable(inspected.clips, (), columns=held, settings=SETTINGS)
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
            if NUMERIC.match(inspected.types[name]) and name not in NOT_SCORES:
                self.values[name] = self._numbers(name)
        self._sorted: dict[str, np.ndarray] = {}
        shown = next((name for name in ("caption_merged", *self.captions) if name in self.held), None)
        self.shown: pa.StringArray | None = self._arrow(shown).combine_chunks() if shown else None
        labelled = "SELECT rowid, label, label_note FROM clips WHERE label IS NOT NULL OR label_note IS NOT NULL"
        self.labels = {row[0]: labels.Label(*row[1:]) for row in self.query(labelled)}

    def notes(self, name: str) -> dict[str, str]:
        """formula, unit, range and source of a score, as its field in the shards declares them."""
        return LENGTH_NOTES if name == SECONDS else self.inspected.field(name)

    def place(self, clip_id: str) -> int:
        """Its index. KeyError for an unknown id."""
        at = bisect.bisect_left(_Texts(self.ids), clip_id)
        if at == len(self.ids) or self.ids[at].as_py() != clip_id:
            raise KeyError(clip_id)
        return at

    def order(self, name: str) -> np.ndarray:
        """[K] int32: indices of the clips that have the score, lowest first, ties in order of id."""
        if name not in self._sorted:
            self._sorted[name] = ordered(self.values[name])
        return self._sorted[name]

    def threshold(self, chosen: Filter) -> float:
        """Of a filter on a column, in its own units: the number that select resolves it to. Raises SelectionError."""
        if chosen.column == SECONDS:
            raise SelectionError(f"{chosen.name}: the length of clips is filtered by where end_time - start_time >= 1")
        with self.lock:
            self.table.check_column(chosen)
            if not chosen.percentile or not len(order := self.order(chosen.column)):
                return float(self.table.threshold(chosen, self.inspected.why_null))
            # The two neighbours are enough to let DuckDB interpolate as it does over all of them, in a thousandth of the time.
            share = chosen.amount / 100 if chosen.kind == "drop_bottom" else 1 - chosen.amount / 100
            place = (len(order) - 1) * share
            low, high = (float(self.values[chosen.column][order[at]]) for at in (math.floor(place), math.ceil(place)))
            kind = self.inspected.types[chosen.column]
            sql = f"SELECT quantile_cont(x::{kind}, {place - math.floor(place)!r}) FROM (VALUES (?::DOUBLE), (?::DOUBLE)) t(x)"
            return float(self.table.db.execute(sql, [low, high]).fetchall()[0][0])

    def where(self, chosen: Filter) -> tuple[np.ndarray, np.ndarray]:
        """(passed, null), bool [N] each, of a `where`. Raises SelectionError: also where it asks for the bytes of media."""
        if length := LENGTH.match(chosen.sql):
            values = self.values[SECONDS]
            return passing(values, length[1], float(length[2])), np.isnan(values)
        named = identifiers(chosen.sql)
        named = [name for name in self.inspected.types if name.lower() in named and name not in PLACES]
        if media := [name for name in named if "BLOB" in self.inspected.types[name]]:
            raise SelectionError(
                f"{chosen.name}: {', '.join(media)}: the bytes of stills and clips are not loaded here; use other columns"
            )
        if set(named) <= set(self.held):
            with self._patience(chosen.name):
                return self._verdict(self.table, chosen)
        db = connect()  # of a table with a column that is not held, such as embeddings
        with self._patience(chosen.name, db.interrupt):  # filling it can be interrupted too
            wanted = [name for name in self.inspected.types if name in BASE_COLUMNS or name in named]
            return self._verdict(ScoreTable(self.inspected.clips, (), columns=wanted, settings=SETTINGS, db=db), chosen)

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

    def set_label(self, place: int, given: labels.Label) -> None:
        with self.lock:
            self.labels[int(place)] = given
            self.table.db.execute(
                "UPDATE clips SET label = ?, label_note = ? WHERE rowid = ?", [given.label, given.note, int(place)]
            ).fetchall()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a query of ours over the table `clips`."""
        with self.lock:
            return self.table.db.execute(sql, list(parameters)).fetchall()

    @cached_property
    def captions(self) -> list[str]:
        """Columns of texts about what is seen: a captioner's, which are named caption_*, and the source list's."""
        return [name for name in self.held if name.startswith("caption_") and not name.endswith("_from")] + [
            name for name in ("source_caption",) if name in self.held
        ]

    def _verdict(self, table: ScoreTable, chosen: Filter) -> tuple[np.ndarray, np.ndarray]:
        table.check_where(chosen, self.inspected.why_null)
        rowid, condition = duckdb.ColumnExpression("rowid"), duckdb.SQLExpression(chosen.sql).alias("verdict")
        found = table.db.table("clips").select(rowid, condition).to_arrow_table()
        places, verdict = found["rowid"].to_numpy(), found["verdict"].combine_chunks()
        passed, null = np.zeros(self.count, bool), np.zeros(self.count, bool)
        passed[places] = verdict.fill_null(False).to_numpy(zero_copy_only=False)
        null[places] = verdict.is_null().to_numpy(zero_copy_only=False)
        return passed, null

    @contextmanager
    def _patience(self, what: str, interrupt: Callable[[], None] | None = None) -> Iterator[None]:
        """The lock; and what takes too long is interrupted: then TooLong is raised."""
        done, late = threading.Event(), threading.Event()
        too_long = TooLong(f"{what}: takes longer than {QUERY_SECONDS:g} s: ask for less")

        def watch() -> None:
            if not done.wait(QUERY_SECONDS):
                late.set()
                while not done.wait(INSIST_SECONDS):  # again, as the time can be up between two statements
                    (interrupt or self.table.db.interrupt)()

        with self.lock:
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                yield
            except (duckdb.Error, SelectionError) as error:
                if late.is_set():
                    raise too_long from None
                if isinstance(error, SelectionError):
                    raise
                raise SelectionError(f"{what}: {message_of(error)}") from error
            else:
                if late.is_set():  # it ended before it noticed that it was interrupted
                    raise too_long
            finally:
                done.set()
                watcher.join()

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


def identifiers(sql: str) -> set[str]:
    """Names that a condition uses as columns, in lower case. Empty for what does not parse: running it says why."""
    with duckdb.connect() as db:
        (tree,) = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n) FROM clips"]).fetchone()
    found: set[str] = set()
    rest: list[Any] = [json.loads(tree)]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            found.update(name.lower() for key in NAMING for name in part.get(key) or () if isinstance(name, str))
            rest += part.values()
        elif isinstance(part, list):
            rest += part
    return found


def passing(values: np.ndarray, sign: str, threshold: float) -> np.ndarray:
    """bool [N]: value >= or <= threshold, compared in double precision as DuckDB does; NaN does not pass."""
    at = values.dtype.type(threshold)
    if values.dtype == np.float32:  # the float32 that says the same to float32 values as the double does
        if sign == ">=" and float(at) < threshold:
            at = np.nextafter(at, np.float32(np.inf))
        if sign == "<=" and float(at) > threshold:
            at = np.nextafter(at, np.float32(-np.inf))
    return values >= at if sign == ">=" else values <= at


def ordered(values: np.ndarray) -> np.ndarray:
    """[K] int32: indices of the values that are not NaN, lowest first, ties in order of index."""
    there = int(np.count_nonzero(~np.isnan(values)))
    if values.dtype != np.float32:
        return np.argsort(values, kind="stable").astype(np.int32)[:there]
    # A float's bits, flipped where it is negative, sort as the float does; with the index below them one fast sort of
    # whole numbers does it, five times faster than a stable sort of floats.
    bits = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0)).view(np.uint32)
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (bits.astype(np.uint64) << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return (keys[:there] & np.uint64(0xFFFFFFFF)).astype(np.int32)


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
