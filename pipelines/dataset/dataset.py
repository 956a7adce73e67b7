"""The annotated dataset on disk: its two tables, how a shard is committed, and what is read back to resume.

    DATASET/dataset.json                 format, version, resolved config, models by stage
    DATASET/README.md                    description, and configs for `datasets.load_dataset(DATASET, "clips")`
    DATASET/clips/part-<hash>.parquet    a row per clip
    DATASET/videos/part-<hash>.parquet   a row per unit; the footer names the units: the record of finished work

A shard is written to a temporary file, flushed to disk and renamed, clips first. A clips file without its videos file was
never committed. A unit that runs again (more stages, or a retry) gets a higher `generation`; the highest is current, and a
shard without current units is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store, store_of
from pipelines.dataset.dataset_card import write_dataset_card
from pipelines.dataset.files import FOOTER, DatasetError
from pipelines.dataset.labels import labelled
from pipelines.dataset.relation import missing_facts, relation
from pipelines.dataset.shards import Manifest, Writer, read_unit
from pipelines.dataset.tables import PAIRS, Tables
from pipelines.dataset.upgrade import keep_units, upgrade_shard

__all__ = [
    "FORMAT", "Dataset", "DatasetError", "Manifest", "Shard", "Tables", "Writer", "forget", "open_for_writing", "read_about",
    "read_shards", "read_unit", "sweep",
]  # fmt: skip

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A committed shard: its name, its units, and the stages that ran on them, from the footer.

    replaces: units of lower generations with other ids that it replaces (a failed file is identified by its path, and by its
    content once it can be read).
    """

    name: str
    units: tuple[str, ...]
    stages: tuple[str, ...]
    generation: int
    replaces: tuple[str, ...] = ()


class Dataset:
    """An annotated dataset, for reading. `clips_sql` and `videos_sql` are DuckDB relations of the current rows."""

    def __init__(self, place: str | os.PathLike[str] | Store) -> None:
        self.store = store_of(place)
        self.root = self.store.folder or Path(self.store.url)
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
        """Shards with some current rows -> their units that a later generation replaced."""
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
        """Schema of the file in videos/, for a file in clips/ that lacks facts of its videos."""
        missing = path.parent.name == "clips" and missing_facts(self._head(path))
        return self._head(self.root / "videos" / path.name) if missing else None

    def schema(self, table: str) -> pa.Schema:
        """The columns of all current shards, with formula, unit, range and source; pairs as lists."""
        schemas: dict[str, pa.Schema] = {}
        for path in self.files(table):
            found, twin = self._head(path).remove_metadata(), self._twin(path)
            fields = [f.with_type(PAIRS[f.name]) if pa.types.is_map(f.type) else f for f in found]
            fields += [twin.field(name) for name in missing_facts(found) if name in twin.names] if twin else []
            schemas[str(pa.schema(fields))] = pa.schema(fields)
        newest_first = sorted(schemas.values(), key=len, reverse=True)
        return pa.unify_schemas(newest_first) if newest_first else pa.schema([])

    def placed_sql(self, table: str) -> str:
        """`clips_sql` or `videos_sql` with the columns filename and file_row_number, which locate a row."""
        return self._sql(table, places=True)

    @property
    def clips_sql(self) -> str:
        return self._sql("clips")

    @property
    def labelled_sql(self) -> str:
        """`clips_sql` with the columns label and label_note: given in the inspector, null without one."""
        return labelled(self.clips_sql, self.root)

    @property
    def videos_sql(self) -> str:
        return self._sql("videos")


def open_for_writing(store: Store, tables: Tables) -> None:
    """Make a dataset ready for shards of these tables: leftovers are removed, older shards get the columns of today, and
    README.md is written. Called by the one process that holds the lock."""
    root = store.folder
    if root is None:
        raise NotImplementedError(store.url)
    for table in ("clips", "videos"):
        (root / table).mkdir(parents=True, exist_ok=True)
    sweep(root)
    for path in sorted((root / "clips").glob("part-*.parquet")):
        upgrade_shard(path, tables.clips, twin=root / "videos" / path.name)
        upgrade_shard(root / "videos" / path.name, tables.videos)
    write_dataset_card(root, tables)


def read_about(place: str | os.PathLike[str] | Store) -> dict[str, Any]:
    """dataset.json, of a path or URL. Raises DatasetError."""
    root = store_of(place)
    path = root.where("dataset.json")
    try:
        about = json.loads(root.read("dataset.json"))
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
    """Remove unfinished files, uncommitted clips, and shards and rows that later ones replaced.

    Called by the one process that writes. Afterwards tools that open the files directly see current rows only. The videos
    file is removed first, which removes the shard from the record.
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
    """Remove the rows of these units without replacement. Called by the one process that writes, after `sweep`."""
    dataset = Dataset(root)
    gone: dict[str, list[str]] = {}
    for unit in units:
        gone.setdefault(dataset.newest[unit].name, []).append(unit)
    _drop(dataset, gone)


def _drop_stale(dataset: Dataset) -> None:
    """Rewrite shards with replaced rows, keeping the current ones."""
    _drop(dataset, dataset._stale())


def _drop(dataset: Dataset, gone: Mapping[str, Sequence[str]]) -> None:
    """Rewrite shards without these units, clips first, named by the units that stay."""
    for shard in dataset.shards:
        if shard.name not in gone:
            continue
        kept = [unit for unit in shard.units if unit not in set(gone[shard.name])]
        name = _name(kept, shard.stages, shard.generation)
        if kept:
            for table in ("clips", "videos"):
                folder = dataset.root / table
                keep_units(folder / f"part-{shard.name}.parquet", folder / f"part-{name}.parquet", kept)
        (dataset.root / "videos" / f"part-{shard.name}.parquet").unlink()
        (dataset.root / "clips" / f"part-{shard.name}.parquet").unlink()


def _name(units: Sequence[str], stages: Sequence[str], generation: int) -> str:
    """Name of a shard, from its content."""
    return hashlib.sha256(json.dumps([list(units), list(stages), generation]).encode()).hexdigest()[:16]


def _rank(shard: Shard) -> tuple[int, int, str]:
    return shard.generation, len(shard.stages), shard.name
