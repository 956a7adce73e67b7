"""Which rows of a dataset count, decided in DuckDB on disk: nothing here is a Python object per unit.

The newest row of a unit is that of the highest rank: generation, number of stages, name of the shard. It does not count either
where some shard says that rows of the unit below its own generation are replaced. Shards that a fence keeps out
(`pipelines.dataset.shards.fence`) are as if they were not there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.base.scratch import Scratch, process_scratch
from curate.base.sql import literal
from curate.base.store import Store
from curate.base.store.files import readable_by_sql
from pipelines.dataset.files import DatasetError
from pipelines.dataset.shards.fence import read_fence
from pipelines.dataset.shards.footer import REPLACED, ROWS

__all__ = ["Current", "ShardState"]

LOG = logging.getLogger("winnow")
BATCH = 20_000
LISTING_SECONDS = 600.0  # of listing again, while shards are merged
RANK = "generation, len(string_split(stages, ',')), shard"


@dataclass(frozen=True)
class ShardState:
    """A committed shard. units: rows of units in it. stale: those of them that do not count. bytes: of both files."""

    name: str
    form: str
    stages: str
    generation: int
    units: int
    stale: int
    bytes: int

    @property
    def live(self) -> bool:
        return self.units > self.stale

    @property
    def mixed(self) -> bool:
        return 0 < self.stale < self.units


class Current:
    """The committed shards of a store, and which of their rows count, as of the time of construction.

    read: writes the rows of shards that the manifest does not name to a local Parquet file.
    """

    def __init__(self, store: Store, read: Callable[[list[str], Path], None]) -> None:
        self.store, self.scratch = store, Scratch()
        self._stale_file: Path | None = None
        self.unnamed: Path | None = None  # rows of shards that the manifest does not name, as a Parquet file
        self._db = self.scratch.database("current")
        sizes = self._sizes()
        self._rows_sql = self._relation(sorted(sizes), read)
        self._decide()
        self.shards = self._states(sizes)

    def close(self) -> None:
        self._db.close()
        self.scratch.close()

    @property
    def live(self) -> list[ShardState]:
        """Shards with rows that count, by name."""
        return [shard for shard in self.shards if shard.live]

    def rows(self, stale: bool = False) -> Iterator[pa.RecordBatch]:
        """ROWS of units that count and of what is REPLACED; stale: of those that do not count, too."""
        names = ", ".join(ROWS.names)
        sql = f"SELECT {names} FROM {self._rows_sql} r"
        if not stale and self.any_stale:
            sql += (
                f" WHERE status = '{REPLACED}' OR NOT EXISTS (SELECT 1 FROM stale s WHERE s.shard = r.shard "
                "AND s.video_id = r.video_id AND s.unit = r.unit)"
            )
        for batch in self._db.sql(sql).to_arrow_reader(BATCH):
            yield batch.cast(ROWS)

    @property
    def any_stale(self) -> bool:
        return any(shard.stale for shard in self.shards)

    def stale_file(self) -> Path:
        """A Parquet file, there as long as this process, with a row (file, video_id, unit) for each row that does not count;
        file: the shard's name without folder."""
        if self._stale_file is None:
            aside = self.scratch.path("stale.parquet")
            rows = "SELECT 'part-' || shard || '.parquet' AS file, video_id, unit FROM stale ORDER BY ALL"
            self._db.execute(f"COPY ({rows}) TO {literal(aside)} (FORMAT parquet)").fetchall()
            with open(aside, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
            self._stale_file = process_scratch().path(f"stale-{digest}.parquet")
            shutil.move(aside, self._stale_file)
        return self._stale_file

    def stale_units(self, shards: list[str]) -> dict[str, set[tuple[str, int]]]:
        """Shard -> (video_id, unit) of its rows that do not count, of a few shards."""
        found: dict[str, set[tuple[str, int]]] = {name: set() for name in shards}
        query = "SELECT shard, video_id, unit FROM stale WHERE shard IN (SELECT unnest(?))"
        for shard, video_id, unit in self._db.execute(query, [shards]).fetchall():
            found[shard].add((video_id, unit))
        return found

    def needed_replacements(self, shards: list[str]) -> list[str]:
        """Ids of units that these shards replace and of which an older row is still there."""
        query = f"""SELECT DISTINCT printf('%s-%04d', r.video_id, r.unit) FROM rivals r
            JOIN rivals old ON old.video_id = r.video_id AND old.unit = r.unit AND old.generation < r.generation
            WHERE r.status = '{REPLACED}' AND old.status <> '{REPLACED}' AND r.shard IN (SELECT unnest(?)) ORDER BY 1"""
        return [row[0] for row in self._db.execute(query, [shards]).fetchall()]

    def alone(self) -> list[tuple[str, str]]:
        """(table, shard) of files that were never committed: without their twin in the other table, or of a worker whose
        driver had lost the dataset to another."""
        return self._alone

    def floor(self, units: Sequence[str]) -> int:
        """The highest generation below which rows of one of these units are replaced; -1 where none is."""
        if not self._any_floor:
            return -1
        ids = [(name.rpartition("-")[0], int(name.rpartition("-")[2])) for name in units]
        query = "SELECT max(generation) FROM floors f JOIN (SELECT unnest(?) AS v, unnest(?) AS u) ON f.video_id = v AND f.unit = u"
        found = self._db.cursor().execute(query, [[v for v, _ in ids], [u for _, u in ids]]).fetchall()[0][0]
        return -1 if found is None else found

    def digest(self) -> str:
        """Of the units that count, with generation and stages, in 16 hex digits; the same however they lie in shards."""
        sql = f"SELECT video_id, unit, generation, stages, shard FROM {self._rows_sql} r WHERE status <> '{REPLACED}'"
        if self.any_stale:
            sql = f"SELECT r.* FROM ({sql}) r ANTI JOIN stale s ON s.shard = r.shard AND s.video_id = r.video_id AND s.unit = r.unit"
        key = "concat_ws('/', video_id, unit, generation, stages)"
        found = self._db.execute(f"SELECT count(*), bit_xor(md5_number({key})) FROM ({sql})").fetchall()[0]
        return hashlib.sha256(str(found).encode()).hexdigest()[:16]

    def _sizes(self) -> dict[str, int]:
        """Committed shard -> bytes of its two files, all of one moment although listings take their time.

        A shard that goes while they are made has been merged into one that they may have missed: listed again. One that
        comes may lack its file in clips/ here, and is of a later moment."""
        began, before = time.monotonic(), self._listed("videos")
        while True:
            self.fence = read_fence(self.store)
            clips, videos = self._listed("clips"), self._listed("videos")
            if before.keys() <= videos.keys() and read_fence(self.store).run == self.fence.run:
                break
            if time.monotonic() - began > LISTING_SECONDS:
                raise DatasetError(f"{self.store}: its shards are being merged: try again when that is done")
            before = videos
        alone = sorted(before.keys() - clips.keys())
        self._alone = [("videos", name) for name in alone]
        self._alone += [("clips", name) for name in sorted(clips.keys() - videos.keys())]
        if alone:
            LOG.warning(
                "%s: %d of its shards do not count, as their files in clips/ are missing (videos/part-%s.parquet ...): "
                "`winnow annotate` makes their rows again",
                self.store,
                len(alone),
                alone[0],
            )
        return {name: size + clips[name] for name, size in videos.items() if name in clips}

    def _listed(self, table: str) -> dict[str, int]:
        """Shard -> bytes of its file."""
        found = {}
        for entry in self.store.list(f"{table}/part-"):
            if entry.name.endswith(".parquet"):
                found[entry.name.removeprefix(f"{table}/part-").removesuffix(".parquet")] = entry.bytes
        return found

    def _relation(self, names: list[str], read: Callable[[list[str], Path], None]) -> str:
        """SQL of ROWS of exactly these shards, each once."""
        there = pa.table({"shard": pa.array(names, pa.string())})
        self._db.register("given", there)
        self._db.execute("CREATE TABLE there AS SELECT shard FROM given").fetchall()
        self._db.unregister("given")
        parts = [readable_by_sql(self.store.where(e.name)) for e in self.store.list("manifest/part-")]
        parts = [part for part in parts if self._whole(part)]
        named = "SELECT shard, min(filename) AS file, count(DISTINCT filename) AS files, max(run) AS run FROM {} GROUP BY shard"
        nothing = "(SELECT NULL::VARCHAR AS shard, '' AS filename, NULL::VARCHAR AS run WHERE false)"
        source = _parquet(parts) if parts else nothing
        self._db.execute(f"CREATE TABLE named AS {named.format(source)}").fetchall()
        missing = self._column("SELECT shard FROM there ANTI JOIN named USING (shard) ORDER BY 1")
        if missing:
            path = self.unnamed = self.scratch.path("read.parquet")
            read(missing, path)
            parts.append(str(path))
            self._db.execute(f"INSERT INTO named {named.format(_parquet([str(path)]))}").fetchall()
        if not parts:
            return "(" + ", ".join(f"NULL::{_sql_type(field.type)} AS {field.name}" for field in ROWS).join(
                ("SELECT ", " WHERE false)")
            )
        self._keep_out()
        odd = self._column(
            "SELECT count(*) FROM named n LEFT JOIN there t USING (shard) WHERE n.files > 1 OR t.shard IS NULL"
        )[0]
        self._db.execute("CREATE TABLE takes AS SELECT shard, file FROM named SEMI JOIN there USING (shard)").fetchall()
        chosen = " SEMI JOIN takes t ON t.shard = p.shard AND t.file = p.filename" if odd else ""
        return f"(SELECT p.* FROM {_parquet(parts)} p{chosen})"

    def _keep_out(self) -> None:
        """Take shards that the fence does not admit from those that are there."""
        if not self.fence.run:
            return
        query = "SELECT shard, run FROM named SEMI JOIN there USING (shard) WHERE run <> '' AND run <> ?"
        runs = self._db.execute(query, [self.fence.run]).fetchall()
        late = sorted(shard for shard, run in runs if not self.fence.admits(shard, run))
        if late:
            LOG.info(
                "%s: %d shards are of a run that had lost the dataset to another, and do not count",
                self.store,
                len(late),
            )
            self._db.execute("DELETE FROM there WHERE shard IN (SELECT unnest(?))", [late]).fetchall()
            self._alone += [(table, shard) for table in ("videos", "clips") for shard in late]

    def _whole(self, part: str) -> bool:
        """Whether a part can be read; what it spares is read from the shards otherwise."""
        import duckdb

        try:
            columns = {row[1] for row in self._db.execute(f"SELECT * FROM parquet_schema({literal(part)})").fetchall()}
            return set(ROWS.names) <= columns
        except duckdb.Error:
            return False

    def _decide(self) -> None:
        db, rows = self._db, self._rows_sql
        db.execute(
            f"CREATE TABLE floors AS SELECT video_id, unit, generation FROM {rows} r WHERE status = '{REPLACED}'"
        ).fetchall()
        self._any_floor = bool(self._column("SELECT count(*) FROM floors")[0])
        db.execute(
            f"""CREATE TABLE twice AS SELECT h FROM (SELECT hash(video_id, unit) AS h FROM {rows} r)
                GROUP BY h HAVING count(*) > 1"""
        ).fetchall()
        several = "" if self._column("SELECT count(*) FROM twice")[0] else "WHERE false"
        db.execute(
            f"""CREATE TABLE rivals AS SELECT shard, video_id, unit, status, generation, stages FROM {rows} r
                SEMI JOIN twice ON twice.h = hash(r.video_id, r.unit) {several};
            CREATE TABLE stale AS
            WITH best AS (SELECT video_id, unit, max(row({RANK})) AS rank FROM rivals WHERE status <> '{REPLACED}' GROUP BY ALL),
                 floors AS (SELECT video_id, unit, max(generation) AS floor FROM rivals WHERE status = '{REPLACED}' GROUP BY ALL)
            SELECT r.shard, r.video_id, r.unit FROM rivals r
            JOIN best b ON b.video_id = r.video_id AND b.unit = r.unit
            LEFT JOIN floors f ON f.video_id = r.video_id AND f.unit = r.unit
            WHERE r.status <> '{REPLACED}' AND (row({RANK}) <> b.rank OR r.generation < coalesce(f.floor, r.generation))"""
        ).fetchall()

    def _states(self, sizes: dict[str, int]) -> list[ShardState]:
        found = self._db.execute(
            f"""SELECT r.shard, any_value(form), any_value(stages), any_value(generation),
                    count(*) FILTER (status <> '{REPLACED}'), any_value(s.stale)
                FROM {self._rows_sql} r
                LEFT JOIN (SELECT shard, count(*) AS stale FROM stale GROUP BY shard) s ON s.shard = r.shard
                GROUP BY r.shard ORDER BY r.shard"""
        ).fetchall()
        return [
            ShardState(name, form, stages, generation, units, stale or 0, sizes[name])
            for name, form, stages, generation, units, stale in found
        ]

    def _column(self, sql: str) -> list[Any]:
        return [row[0] for row in self._db.execute(sql).fetchall()]


def _parquet(paths: list[str]) -> str:
    return f"read_parquet([{', '.join(map(literal, paths))}], filename=true)"


def _sql_type(kind: pa.DataType) -> str:
    names = {
        pa.string(): "VARCHAR",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float64(): "DOUBLE",
        pa.bool_(): "BOOLEAN",
    }
    return names[kind]
