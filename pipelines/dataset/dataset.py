"""The annotated dataset, for reading: its two tables, on any store.

    DATASET/dataset.json                 format, version, resolved config, models by stage
    DATASET/README.md                    description, and configs for `datasets.load_dataset(DATASET, "clips")`
    DATASET/clips/part-<hash>.parquet    a row per clip
    DATASET/videos/part-<hash>.parquet   a row per unit; the footer names the units: the record of finished work
    DATASET/manifest/                    a copy of what the footers say (`pipelines.dataset.shards.manifest`)

A clips file without its videos file was never committed, and the other way round. A unit that runs again (more stages, or a
retry) gets a higher `generation`; the highest is current.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store, store_of
from curate.base.store.files import opened
from pipelines.dataset.files import DatasetError
from pipelines.dataset.labels import labelled
from pipelines.dataset.relation import Files, missing_facts, relation
from pipelines.dataset.shards import Current, Manifest, ShardState, Writer, read_unit
from pipelines.dataset.tables import PAIRS, Tables

__all__ = ["FORMAT", "Dataset", "DatasetError", "Manifest", "Tables", "Writer", "read_about", "read_unit"]

FORMAT = 2
READS = (1, 2)  # a dataset of format 1 is one of format 2 without manifest


class Dataset:
    """An annotated dataset as it was when its shards were first asked for.

    store: where it lies; place: that as a path or URL. `clips_sql` and `videos_sql` are DuckDB relations of the current rows,
    for connections of `curate.base.store.files.database`; they hold as long as this
    process lives."""

    def __init__(self, place: str | os.PathLike[str] | Store) -> None:
        self.store = store_of(place)
        self.place = self.store.url
        self.about = read_about(self.store)
        self._schemas: dict[tuple[str, str], pa.Schema] = {}

    @property
    def root(self) -> Path:
        """Its local folder. DatasetError for one on object storage."""
        if self.store.folder is None:
            raise DatasetError(f"{self.place}: is no local folder: use a path here")
        return self.store.folder

    @property
    def config(self) -> dict[str, Any]:
        return self.about["config"]

    @property
    def models(self) -> dict[str, Any]:
        return self.about.get("models", {})

    @cached_property
    def current(self) -> Current:
        """Which shards there are, and which of their rows count."""
        return Manifest(self.store).current()

    @cached_property
    def shards(self) -> dict[str, ShardState]:
        """The shards with rows that count, by name."""
        return {shard.name: shard for shard in self.current.live}

    def files(self, table: str) -> list[str]:
        """Paths or URLs of the shards with rows that count."""
        return [self.store.where(f"{table}/part-{name}.parquet") for name in self.shards]

    def samples(self) -> list[str]:
        """A shard of each form, which together have every column that any shard has."""
        return sorted({shard.form: name for name, shard in self.shards.items()}.values())

    def digest(self) -> str:
        """Of what decides its rows: which units there are, of which generation and stages; not of how they lie in shards."""
        return self.current.digest()

    def schema(self, table: str) -> pa.Schema:
        """The columns of all current shards, with formula, unit, range and source; pairs as lists."""
        schemas: dict[str, pa.Schema] = {}
        for name in self.samples():
            found = self._schema(table, name).remove_metadata()
            twin = self._schema("videos", name) if table == "clips" and missing_facts(found) else None
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
        return labelled(self.clips_sql, self.store)

    @property
    def videos_sql(self) -> str:
        return self._sql("videos")

    def _sql(self, table: str, places: bool = False) -> str:
        if not self.shards:
            raise DatasetError(f"{self.place}: the dataset has no committed shard yet: run `winnow annotate` on it")
        groups: dict[tuple[str, bool], list[str]] = {}
        for name, shard in self.shards.items():
            groups.setdefault((shard.form, shard.mixed), []).append(name)
        files = [self._files(table, names, mixed) for (_, mixed), names in groups.items()]
        return relation(self.store, table, files, places)

    def _files(self, table: str, names: Sequence[str], mixed: bool) -> Files:
        head = self._schema(table, names[0])
        twin = self._schema("videos", names[0]) if table == "clips" and missing_facts(head) else None
        return Files(names, head, twin, self.current.stale_file() if mixed else None)

    def _schema(self, table: str, name: str) -> pa.Schema:
        if (table, name) not in self._schemas:
            with opened(self.store.where(f"{table}/part-{name}.parquet")) as stream:
                self._schemas[table, name] = pq.read_schema(stream)
        return self._schemas[table, name]


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
    if about.get("format") not in READS:
        raise DatasetError(
            f"{path}: format {about.get('format')}, this Winnow reads {' and '.join(map(str, READS))}: annotate again, or use "
            "that version"
        )
    return about
