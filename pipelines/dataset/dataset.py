"""The annotated dataset on disk: its two tables, how a shard is committed, and what is read back to go on.

    DATASET/dataset.json                 format, version, resolved config, models by stage
    DATASET/README.md                    says what it is, to people and to `datasets.load_dataset(DATASET, "clips")`
    DATASET/clips/part-<hash>.parquet    a row per clip
    DATASET/videos/part-<hash>.parquet   a row per unit; the footer names the units: this file is the record of what is done

A shard is written aside, flushed to the disk and renamed, clips first. A clips file whose videos file is not there was never
committed. A unit that is worked on again (more stages, or another try) gets a higher `generation`; the highest one counts,
and a shard in which nothing counts any more is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.clip import Unit
from pipelines.dataset.dataset_card import write_dataset_card
from pipelines.dataset.files import FOOTER, write_parquet
from pipelines.dataset.labels import labelled
from pipelines.dataset.relation import lacking, relation
from pipelines.dataset.renewal import renew, without
from pipelines.dataset.tables import PAIRS, Tables

__all__ = [
    "FORMAT", "Dataset", "DatasetError", "Shard", "Tables", "Writer", "forget", "read_about", "read_shards", "read_unit",
    "sweep",
]  # fmt: skip

FORMAT = 1


class DatasetError(Exception):
    """One line: the folder, what is wrong with it, and the fix."""


@dataclass(frozen=True)
class Shard:
    """A committed shard: its name, the units that its footer names, and the stages that ran on them.

    replaces: units of lower generations that do not count any more although no unit here has their id (a file that failed
    is known by its path, and once it can be read by its content).
    """

    name: str
    units: tuple[str, ...]
    stages: tuple[str, ...]
    generation: int
    replaces: tuple[str, ...] = ()


class Dataset:
    """An annotated dataset, for reading. `clips_sql` and `videos_sql` are DuckDB relations of the rows that count."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.about = read_about(self.root)
        self.shards = read_shards(self.root)
        newest: dict[str, Shard] = {}
        for shard in self.shards:
            for unit in shard.units:
                if unit not in newest or _rank(shard) > _rank(newest[unit]):
                    newest[unit] = shard
        for shard in self.shards:
            for unit in shard.replaces:
                if unit in newest and newest[unit].generation < shard.generation:
                    del newest[unit]
        self.newest = newest
        self._heads: dict[Path, pa.Schema] = {}

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    @property
    def models(self) -> dict[str, Any]:
        return self.about.get("models", {})

    def files(self, table: str) -> list[Path]:
        live = {shard.name for shard in self.newest.values()}
        return [self.root / table / f"part-{name}.parquet" for name in sorted(live)]

    def _stale(self) -> dict[str, list[str]]:
        """Shards of which some rows still count, to their units that a later generation replaced."""
        stale: dict[str, list[str]] = {}
        live = {shard.name for shard in self.newest.values()}
        for shard in self.shards:
            gone = [unit for unit in shard.units if self._owner(unit) != shard.name]
            if gone and shard.name in live:
                stale[shard.name] = gone
        return stale

    def _owner(self, unit: str) -> str | None:
        return self.newest[unit].name if unit in self.newest else None

    def _sql(self, table: str, places: bool = False) -> str:
        files = self.files(table)
        if not files:
            raise DatasetError(f"{self.root}: the dataset has no committed shard yet: run `winnow annotate` on it")
        return relation(table, [(path, self._head(path), self._twin(path)) for path in files], self._stale(), places)

    def _head(self, path: Path) -> pa.Schema:
        if path not in self._heads:
            self._heads[path] = pq.read_schema(path)
        return self._heads[path]

    def _twin(self, path: Path) -> pa.Schema | None:
        """Of the file in videos/, for a file in clips/ that lacks facts of its videos."""
        missing = path.parent.name == "clips" and lacking(self._head(path))
        return self._head(self.root / "videos" / path.name) if missing else None

    def schema(self, table: str) -> pa.Schema:
        """Of all that counts: the columns of every shard, with formula, unit, range and source; pairs as lists."""
        schemas: dict[str, pa.Schema] = {}
        for path in self.files(table):
            found, twin = self._head(path).remove_metadata(), self._twin(path)
            fields = [f.with_type(PAIRS[f.name]) if pa.types.is_map(f.type) else f for f in found]
            fields += [twin.field(name) for name in lacking(found) if name in twin.names] if twin else []
            schemas[str(pa.schema(fields))] = pa.schema(fields)
        newest_first = sorted(schemas.values(), key=len, reverse=True)
        return pa.unify_schemas(newest_first) if newest_first else pa.schema([])

    def placed_sql(self, table: str) -> str:
        """A relation as `clips_sql` or `videos_sql`, with the columns filename and file_row_number: where a row lies."""
        return self._sql(table, places=True)

    @property
    def clips_sql(self) -> str:
        return self._sql("clips")

    @property
    def labelled_sql(self) -> str:
        """`clips_sql` with the columns label and label_note: what a person said in the inspector, null where nothing."""
        return labelled(self.clips_sql, self.root)

    @property
    def videos_sql(self) -> str:
        return self._sql("videos")


def read_unit(root: Path, shard: str, unit: Unit, tables: Tables) -> Unit:
    """The stored rows of one unit of a shard, ready for more stages; what the shard has no column for is null. Rows lie in the order of their units, so that the
    statistics of the small row groups leave one or two to read."""
    (video,) = _rows_of(root / "videos" / f"part-{shard}.parquet", unit, tables.videos.names)
    return tables.unit_of(video, _rows_of(root / "clips" / f"part-{shard}.parquet", unit, tables.clips.names))


def _rows_of(path: Path, unit: Unit, columns: list[str]) -> list[dict[str, Any]]:
    wanted = [("video_id", "=", unit.video.video_id), ("unit", "=", unit.index)]
    held = set(pq.read_schema(path).names)
    present = [name for name in columns if name in held]
    return pq.read_table(path, columns=present, filters=wanted, use_threads=False).to_pylist()


class Writer:
    """Collects finished units and commits them as shards. What is not committed when the process dies is done again.

    A shard is committed at `shard_clips` clips, at 256 MB of stills, or `shard_seconds` after its first unit.
    """

    MAX_BYTES = 256 << 20

    def __init__(
        self,
        root: Path,
        tables: Tables,
        *,
        models: dict[str, Any],
        shard_clips: int = 1000,
        shard_seconds: float = 30.0,
    ) -> None:
        self.root, self.tables, self.models = Path(root), tables, models
        self.shard_clips, self.shard_seconds = shard_clips, shard_seconds
        self._pending: dict[tuple[tuple[str, ...], int], list[Unit]] = {}
        self._replaced: dict[str, int] = {}
        self._since, self._clips, self._bytes = 0.0, 0, 0
        for table in ("clips", "videos"):
            (self.root / table).mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        for path in sorted((self.root / "clips").glob("part-*.parquet")):
            renew(path, tables.clips, twin=self.root / "videos" / path.name)
            renew(self.root / "videos" / path.name, tables.videos)
        write_dataset_card(self.root, tables)

    def add(self, unit: Unit, *, stages: Sequence[str], generation: int = 0, replaces: Sequence[str] = ()) -> None:
        if not self._pending:
            self._since = time.monotonic()
        self._pending.setdefault((tuple(stages), generation), []).append(unit)
        self._replaced.update(dict.fromkeys(replaces, generation))
        self._clips += len(unit.clips)
        self._bytes += sum(len(still) for clip in unit.clips for still in clip.stills())
        old = time.monotonic() - self._since > self.shard_seconds
        if self._clips >= self.shard_clips or self._bytes >= self.MAX_BYTES or old:
            self.flush()

    def flush(self) -> None:
        for (stages, generation), units in self._pending.items():
            self._commit(units, stages, generation)
        self._pending, self._replaced, self._clips, self._bytes = {}, {}, 0, 0

    def _commit(self, units: list[Unit], stages: tuple[str, ...], generation: int) -> None:
        units = sorted(units, key=lambda unit: unit.id)
        ids = [unit.id for unit in units]
        gone = sorted(unit for unit, by in self._replaced.items() if by == generation)
        footer = {"units": ids, "stages": stages, "generation": generation, "replaces": gone, "models": self.models}
        name = _name(ids, stages, generation)
        clips = [self.tables.clip_row(unit, clip) for unit in units for clip in unit.clips]
        write_parquet(self.root / "clips" / f"part-{name}.parquet", self.tables.clips, clips, footer)
        videos = [self.tables.video_row(unit) for unit in units]
        write_parquet(self.root / "videos" / f"part-{name}.parquet", self.tables.videos, videos, footer)


def read_about(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{root}: not a Winnow dataset (no dataset.json): make one with `winnow annotate SOURCE --out {root}`"
        ) from None
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}): restore it, or annotate into another folder") from None
    if about.get("format") != FORMAT:
        raise DatasetError(
            f"{path}: format {about.get('format')}, this Winnow reads {FORMAT}: annotate again, or use that version"
        )
    return about


def read_shards(root: Path) -> list[Shard]:
    shards = []
    for path in sorted((root / "videos").glob("part-*.parquet")):
        try:
            schema = pq.read_schema(path)
            footer = json.loads(schema.metadata[FOOTER])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path}: damaged shard ({type(error).__name__}): delete it and its twin in clips/, then annotate again to remake its rows"
            ) from None
        if not (root / "clips" / path.name).exists():
            raise DatasetError(
                f"{path}: its twin in clips/ is missing: delete it, then annotate again to remake its rows"
            )
        name = path.stem.removeprefix("part-")
        units, stages, replaces = (tuple(footer[key]) for key in ("units", "stages", "replaces"))
        shards.append(Shard(name, units, stages, footer["generation"], replaces))
    return shards


def sweep(root: Path) -> None:
    """Remove what no reader counts: files never finished, clips never committed, shards and rows that later ones replaced.

    Called by the one process that writes. Tools that open the files themselves then see the rows that count. The videos
    file goes first: from then on the shard is not a record any more.
    """
    for pattern in ("clips/.part-*.tmp", "videos/.part-*.tmp", ".README.md.*.tmp"):
        for path in root.glob(pattern):
            path.unlink(missing_ok=True)
    if (root / "dataset.json").exists():
        dataset = Dataset(root)
        _drop_stale(dataset)
        live = {shard.name for shard in dataset.newest.values()}
        for shard in dataset.shards:
            if shard.name not in live:
                (root / "videos" / f"part-{shard.name}.parquet").unlink(missing_ok=True)
    committed = {path.name for path in (root / "videos").glob("part-*.parquet")}
    for path in (root / "clips").glob("part-*.parquet"):
        if path.name not in committed:
            path.unlink(missing_ok=True)


def forget(root: Path, units: Collection[str]) -> None:
    """Remove the rows of these units, which nothing takes the place of. Called by the one process that writes, after `sweep`."""
    dataset = Dataset(root)
    gone: dict[str, list[str]] = {}
    for unit in units:
        gone.setdefault(dataset.newest[unit].name, []).append(unit)
    _drop(dataset, gone)


def _drop_stale(dataset: Dataset) -> None:
    """Shards of which only some rows still count are written again with these."""
    _drop(dataset, dataset._stale())


def _drop(dataset: Dataset, gone: Mapping[str, Sequence[str]]) -> None:
    """Write shards again without these units, clips first, under the name of those that stay."""
    for shard in dataset.shards:
        if shard.name not in gone:
            continue
        kept = [unit for unit in shard.units if unit not in set(gone[shard.name])]
        name = _name(kept, shard.stages, shard.generation)
        if kept:
            for table in ("clips", "videos"):
                folder = dataset.root / table
                without(folder / f"part-{shard.name}.parquet", folder / f"part-{name}.parquet", kept)
        (dataset.root / "videos" / f"part-{shard.name}.parquet").unlink()
        (dataset.root / "clips" / f"part-{shard.name}.parquet").unlink()


def _name(units: Sequence[str], stages: Sequence[str], generation: int) -> str:
    """Of a shard, made of what is in it."""
    return hashlib.sha256(json.dumps([list(units), list(stages), generation]).encode()).hexdigest()[:16]


def _rank(shard: Shard) -> tuple[int, int, str]:
    return shard.generation, len(shard.stages), shard.name
