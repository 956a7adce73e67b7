"""The clips of a dataset: scores as mapped arrays in order of clip_id, and one locked table for SQL.

A filter on a score is one comparison of an array, block by block; the table, which answers `where` and searches in captions,
lies in a DuckDB file that is read in blocks too (see `snapshot`). It has the locks of `curate.selection.selection`: no file,
network or setting can be reached from a condition.
"""

from __future__ import annotations

import bisect
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.base import sql as locked
from curate.base.sql import ConditionError, connect, literal, message_of, quoted
from curate.base.store.files import database
from curate.selection.filters import Filter, SelectionError
from curate.selection.selection import BASE_COLUMNS, ScoreTable
from pipelines.dataset import labels
from pipelines.inspector.data.axes import Axis
from pipelines.inspector.data.blocks import BLOCK, Mask, bisected, over
from pipelines.inspector.data.inspected import Gone, Inspected
from pipelines.inspector.data.snapshot import PLACES, SECONDS, Snapshot, captions_of, light, snapshot

LENGTH_NOTES = {"formula": "end_time - start_time", "unit": "s", "range": "0..", "source": ""}
LENGTH = re.compile(r"\s*end_time\s*-\s*start_time\s*(>=|<=)\s*(\d+\.?\d*|\.\d+)\s*$", re.IGNORECASE)
SETTINGS = {"memory_limit": "1GB", "threads": "2", "temp_directory": ""}
PLACE = "_place"  # the column of the table that is a clip's index
OURS = {PLACE, "_held", "_labels"}  # names that a condition may not use, as `winnow select` does not have them
QUERY_SECONDS, INSIST_SECONDS = 30.0, 0.05
NAMING = ("column_names", "using_columns", "exclude_list")  # in DuckDB's tree of a statement: of columns
TABLES = ("table_name", "schema_name", "catalog_name")  # and of tables


class TooLong(SelectionError):
    """A question that took longer than QUERY_SECONDS. Asked again, when the machine is less busy, it may be answered."""


class HeldTable(ScoreTable):
    """The table `clips` of a snapshot, with the labels of now, as conditions see it."""

    def __init__(self, held: Snapshot, given: Sequence[tuple[int, labels.Label]]) -> None:
        self.db = connect()
        for name, value in SETTINGS.items():
            self.db.execute(f"SET {name} = {literal(value)}").fetchall()
        self.db.execute(f"ATTACH {literal(held.folder / 'clips.duckdb')} AS _held (READ_ONLY)").fetchall()
        self.db.execute("CREATE TABLE _labels (place BIGINT, label VARCHAR, label_note VARCHAR)").fetchall()
        if given:
            rows = pa.table(
                {
                    "place": pa.array([place for place, _ in given], pa.int64()),
                    "label": pa.array([label.label for _, label in given], pa.string()),
                    "label_note": pa.array([label.note for _, label in given], pa.string()),
                }
            )
            self.db.from_arrow(rows).insert_into("_labels")
        self.db.execute(
            f"""CREATE VIEW clips AS SELECT c.rowid AS {PLACE}, c.* EXCLUDE ({", ".join(PLACES)}), l.label, l.label_note
                FROM _held.clips c LEFT JOIN _labels l ON l.place = c.rowid"""
        ).fetchall()
        locked.lock(self.db)
        self.types = {name: kind for name, kind in held.types.items() if name not in PLACES}
        self.types |= dict.fromkeys(labels.COLUMNS, "VARCHAR")
        self.clips, self.hours = held.count, 0.0


class Columns:
    """values: score -> float32 or float64 [N], NaN where null; codes: score -> uint8 [N], the bins of `axes`; ids: [N] sorted
    texts; seconds: float64 [N], lengths, NaN where unknown.

    file, row: where a clip's row lies, in `files` and within that file. shown: the caption that a tile has. labels: by index.
    """

    def __init__(self, inspected: Inspected, cache: Path) -> None:
        self.inspected = inspected
        self.lock = threading.RLock()
        self.snapshot = held = snapshot(inspected.placed, str(inspected.root), inspected.state, cache)
        self.count, self.files = held.count, held.files
        self.file, self.row = held.array("", "file"), held.array("", "row")
        self.ids: pa.ChunkedArray = held.texts["clip_id"]
        self.shown: pa.ChunkedArray | None = held.texts["shown"] if held.shown else None
        self.values = {name: held.array(name, "values") for name in held.scores}
        self.axes: dict[str, Axis] = held.axes
        self.codes = {name: held.array(name, "codes") for name in held.axes}
        self.seconds = self.values[SECONDS]
        self._orders: dict[str, np.ndarray] = {}
        self.labels: dict[int, labels.Label] = {}
        for clip_id, label in labels.read(inspected.labels_root).items():
            try:
                self.labels[self.place(clip_id)] = label
            except KeyError:  # of a clip that is no more
                continue
        self.table = HeldTable(held, list(self.labels.items()))
        self.held = list(self.table.types)

    def notes(self, name: str) -> dict[str, str]:
        """formula, unit, range and source of a score, as its field in the shards declares them."""
        return LENGTH_NOTES if name == SECONDS else self.inspected.field(name)

    def place(self, clip_id: str) -> int:
        """Its index. KeyError for an unknown id."""
        at = bisect.bisect_left(range(self.count), clip_id, key=self.id)
        if at == self.count or self.id(at) != clip_id:
            raise KeyError(clip_id)
        return at

    def id(self, place: int) -> str:
        return self.ids[place].as_py()

    def nulls(self, name: str) -> int:
        return self.snapshot.nulls[name]

    def order(self, name: str) -> np.ndarray:
        """[K] int32: indices of the clips that have the score, lowest first, ties in order of id."""
        if name not in self._orders:
            self._orders[name] = self.snapshot.order(name, self.values[name])
        return self._orders[name]

    def standing(self, name: str, place: int) -> float | None:
        """The share of the clips with a score that lie below this one's, those equal to it counted half; None for a null."""
        values = self.values[name]
        value = float(values[place])
        if math.isnan(value):
            return None
        there = self.count - self.nulls(name)
        if name in self._orders:
            below, upto = (bisected(values, self._orders[name], value, right) for right in (False, True))
        else:
            parts = over(
                self.count,
                lambda start, stop: (
                    np.count_nonzero(values[start:stop] < value),
                    np.count_nonzero(values[start:stop] <= value),
                ),
            )
            below, upto = (int(sum(part[i] for part in parts)) for i in (0, 1))
        return (below + upto) / 2 / there

    def threshold(self, chosen: Filter) -> float:
        """Of a filter on a column, in its own units: the number that select resolves it to. Raises SelectionError."""
        if chosen.column == SECONDS:
            raise SelectionError(f"{chosen.name}: the length of clips is filtered by where end_time - start_time >= 1")
        with self.lock:
            self.table.check_column(chosen)
            there = self.count - self.snapshot.nulls.get(chosen.column, 0)
            if chosen.column not in self.values or not there:
                return float(self.table.threshold(chosen, self.inspected.why_null))
            if not chosen.percentile:
                return chosen.amount
            # The two neighbours are enough to let DuckDB interpolate as it does over all of them, in a thousandth of the time.
            order = self.order(chosen.column)
            share = chosen.amount / 100 if chosen.kind == "drop_bottom" else 1 - chosen.amount / 100
            place = (len(order) - 1) * share
            low, high = (float(self.values[chosen.column][order[at]]) for at in (math.floor(place), math.ceil(place)))
            kind = self.table.types[chosen.column]
            sql = f"SELECT quantile_cont(x::{kind}, {place - math.floor(place)!r}) FROM (VALUES (?::DOUBLE), (?::DOUBLE)) t(x)"
            return float(self.table.db.execute(sql, [low, high]).fetchall()[0][0])

    def where(self, chosen: Filter) -> tuple[Mask, Mask]:
        """(passed, null) of a `where`. Raises SelectionError: also where it asks for the bytes of media."""
        if length := LENGTH.match(chosen.sql):
            return self.compared(SECONDS, length[1], float(length[2])), self.unknown(SECONDS)
        named = identifiers(chosen.sql)
        if ours := OURS & (named | identifiers(chosen.sql, TABLES)):
            raise SelectionError(f"{chosen.name}: {', '.join(ours)} is the inspector's own; use the columns of clips")
        named = {name for name in self.inspected.types if name.lower() in named and name not in PLACES}
        if media := [name for name in self.inspected.types if name in named and "BLOB" in self.inspected.types[name]]:
            raise SelectionError(
                f"{chosen.name}: {', '.join(media)}: the bytes of stills and clips are not loaded here; use other columns"
            )
        if named <= {*light(self.inspected.types), *labels.COLUMNS}:
            with self._patience(chosen.name):
                return self._verdict(self.table, chosen, PLACE)
        db = database(autoinstall_known_extensions=False, autoload_known_extensions=False)
        with self._patience(
            chosen.name, db.interrupt
        ):  # filling it, with a column that is not held, can be interrupted too
            wanted = [name for name in self.inspected.types if name in BASE_COLUMNS or name in named]
            try:
                table = ScoreTable(self.inspected.clips, (), columns=wanted, settings=SETTINGS, db=db)
            except SelectionError as error:
                if any(name in str(error) for name in ("No such file", "No files found", "FileNotFound")):
                    raise Gone(str(error)) from None
                raise
            return self._verdict(table, chosen, "rowid")

    def compared(self, name: str, sign: str, threshold: float) -> Mask:
        """Whether each clip's score is >= or <= the threshold; a null is not."""
        mask, values = Mask(self.count), self.values[name]
        over(self.count, lambda start, stop: mask.put(start, passing(values[start:stop], sign, threshold)))
        return mask

    def unknown(self, name: str) -> Mask:
        """Whether each clip's score is null."""
        mask, values = Mask(self.count), self.values[name]
        if self.nulls(name):
            over(self.count, lambda start, stop: mask.put(start, np.isnan(values[start:stop])))
        return mask

    def counted(self, mask: Mask) -> tuple[int, float]:
        """(clips, hours) of a mask."""

        def counted(start: int, stop: int) -> tuple[int, float]:
            flags, seconds = mask.block(start, stop), self.seconds[start:stop]
            if self.nulls(SECONDS):
                seconds = np.nan_to_num(seconds)
            return int(np.count_nonzero(flags)), float(seconds @ flags)

        parts = over(self.count, counted)
        return sum(part[0] for part in parts), math.fsum(part[1] for part in parts) / 3600

    def matching(self, condition: str, parameters: Sequence[Any] = ()) -> Mask:
        """Of a condition of ours, with parameters for what a person wrote."""
        with self._patience("search"):
            sql = f"SELECT {PLACE}::INTEGER AS place FROM clips WHERE {condition}"
            found = self.table.db.execute(sql, list(parameters)).fetchnumpy()
        return Mask.at(self.count, np.asarray(found["place"]))

    def rows(self, places: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
        """Values of clips, in the order of `places`."""
        wanted = ", ".join(quoted(name) for name in names)
        found = {}
        for place in {int(place) for place in places}:  # each by its number, so that one block of rows is read
            (row,) = self.query(f"SELECT {wanted} FROM clips WHERE {PLACE} = ?", [place])
            found[place] = dict(zip(names, row, strict=True))
        return [found[int(place)] for place in places]

    def set_label(self, place: int, given: labels.Label) -> None:
        with self.lock:
            self.labels[int(place)] = given
            self.table.db.execute("DELETE FROM _labels WHERE place = ?", [int(place)]).fetchall()
            self.table.db.execute(
                "INSERT INTO _labels VALUES (?, ?, ?)", [int(place), given.label, given.note]
            ).fetchall()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a query of ours over the table `clips`, which has its index as `_place`."""
        with self.lock:
            return self.table.db.execute(sql, list(parameters)).fetchall()

    @cached_property
    def captions(self) -> list[str]:
        """Columns of texts about what is seen."""
        return captions_of(self.held)

    def _verdict(self, table: ScoreTable, chosen: Filter, key: str) -> tuple[Mask, Mask]:
        passed, null, answered = np.zeros(self.count, bool), np.zeros(self.count, bool), False
        try:
            if key == "rowid":  # a table of its own
                table.check_where(chosen, self.inspected.why_null)
                verdict = duckdb.SQLExpression(chosen.sql).alias("verdict")
                found = table.db.table("clips").select(duckdb.ColumnExpression(key), verdict)
            else:
                found = locked.verdict(table.db, chosen.sql, key, list(table.types))
            for batch in found.to_arrow_reader(BLOCK):
                places, verdict = batch.column(0).to_numpy(), batch.column(1).cast(pa.bool_())
                passed[places] = verdict.fill_null(False).to_numpy(zero_copy_only=False)
                null[places] = verdict.is_null().to_numpy(zero_copy_only=False)
                answered = answered or verdict.null_count < len(verdict)
        except duckdb.InterruptException:
            raise
        except (ConditionError, duckdb.Error):
            table.check_where(chosen, self.inspected.why_null)  # which says it in words
            raise
        if not answered:
            table.check_where(chosen, self.inspected.why_null)
        return Mask.of(passed), Mask.of(null)

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
            except (duckdb.Error, pa.ArrowException, SelectionError) as error:
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


def identifiers(sql: str, keys: Sequence[str] = NAMING) -> set[str]:
    """Names that a condition uses, as columns or of these keys, in lower case. Empty for what does not parse: running it
    says why."""
    with duckdb.connect() as db:
        (tree,) = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{sql}\n) FROM clips"]).fetchone()
    found: set[str] = set()
    rest: list[Any] = [json.loads(tree)]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            for key in keys:
                names = part.get(key) or ()
                names = [names] if isinstance(names, str) else names
                found.update(name.lower() for name in names if isinstance(name, str))
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
