"""What is inspected: an annotated or a curated dataset, as relations of its clips and its videos, and how to see that it
grew."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.sql import literal
from curate.base.store import Store, StoreError, is_remote, locate, store_of
from curate.base.store.files import database, opened, readable_by_sql
from curate.selection.filters import Filter, SelectionError, parse_filters
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset, DatasetError
from pipelines.dataset.empty import why_empty


class InspectError(Exception):
    """A place that cannot be shown. One line: the place, what is wrong, the fix."""


class Gone(InspectError):
    """A shard is no more: it was replaced, or compacted, since the dataset was read."""

    def __init__(self, shard: str) -> None:
        super().__init__(f"{shard}: is gone: the dataset has changed; refresh the page")


@dataclass
class Inspected:
    """root: a folder's absolute path, or a URL. kind: "annotated" or "curated". placed, videos: DuckDB relations with
    filename and file_row_number, for `curate.base.store.files.database`; videos is "" where there is none.

    types: column of clips -> DuckDB's type. schema: with formula, unit, range and source of each column. filters: the
    selection that was recorded with it. made: of a curated dataset, its selection.json. state: changes when shards come or
    go. labels_root: the place of labels.jsonl, see `labels_root`; "": root.
    """

    root: str
    kind: str
    placed: str
    videos: str
    schema: pa.Schema
    types: dict[str, str]
    config: dict[str, Any]
    models: dict[str, Any]
    filters: list[Filter]
    why_null: dict[str, str]
    state: str
    made: dict[str, Any] = field(default_factory=dict)
    labels_root: str = ""
    dataset: Dataset | None = None  # with which its relations live

    def __post_init__(self) -> None:
        self.labels_root = self.labels_root or self.root

    @cached_property
    def store(self) -> Store:
        return store_of(self.root)

    @property
    def name(self) -> str:
        """The last part of its path or URL."""
        return locate(self.root)[1]

    @property
    def beside(self) -> str:
        """The folder that it lies in."""
        return locate(self.root)[0]

    @property
    def clips(self) -> str:
        """The relation with its labels of now."""
        return labels.labelled(self.placed, self.labels_root)

    @property
    def annotated(self) -> str:
        """The annotated dataset that `winnow select` is run on; of a curated one, as recorded where it is not there."""
        if self.kind == "annotated":
            return self.root
        recorded = str(self.made["dataset"]["path"])
        if is_remote(recorded):
            return recorded
        return str(Path(recorded).resolve() if (Path(recorded) / "dataset.json").is_file() else recorded)

    @property
    def labels_are_selects(self) -> bool:
        """Whether `winnow select` sees the labels that are given here."""
        return self.kind == "annotated" or self.labels_root != self.root

    def field(self, name: str) -> dict[str, str]:
        """formula, unit, range and source of a column, "" where it declares none."""
        return notes_of(self.schema.field(name) if name in self.schema.names else None)


def notes_of(column: pa.Field | None) -> dict[str, str]:
    """What a column declares of itself, in its field of the shards; "" for what it does not."""
    notes = column.metadata or {} if column is not None else {}
    return {key: notes.get(key.encode(), b"").decode() for key in ("formula", "unit", "range", "source")}


def place_of_dataset(place: str | os.PathLike[str]) -> str:
    """The place as a resolved path, or as a URL without a slash at its end."""
    return os.fspath(place).rstrip("/") if is_remote(place) else str(Path(place).resolve())


def open_inspected(place: str | os.PathLike[str]) -> Inspected:
    """Raises InspectError."""
    root = place_of_dataset(place)
    if not is_remote(root) and not os.path.isdir(root):
        raise InspectError(f"{root}: there is no such folder; name one that `winnow annotate`, `select` or `run` made")
    try:
        store = store_of(root)
        seen = state(store)
        if store.exists("selection.json"):
            return _curated(store, seen)
        for inside in ("annotated", "curated"):
            if not store.exists("dataset.json") and store.exists(f"{inside}/dataset.json"):
                raise InspectError(f"{root}: is no dataset itself; name {root}/{inside}, or {root}/curated")
        return _annotated(store, seen)
    except (DatasetError, SelectionError, StoreError) as error:
        raise InspectError(str(error)) from None
    except (duckdb.Error, pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise InspectError(
            f"{root}: damaged ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); "
            "restore it, or make it again"
        ) from None


def state(store: Store) -> str:
    """Names of the committed files, and versions of what describes them. Files still being written are not among them."""
    parts = [*_names(store, "videos", "part-"), *_names(store, "data", "train-")]
    return "\n".join([*parts, *_version(store, "dataset.json"), *_version(store, "selection.json")])


def signature(place: str) -> str:
    """What the page shows: the state, and the labels and where they lie."""
    store = store_of(place)
    root = labels_root(store)
    return "\n".join([state(store), root, *_version(store_of(root), labels.NAME)])


def labels_root(place: str | os.PathLike[str] | Store) -> str:
    """Where labels of a dataset are kept: those of a curated one beside the annotated one that it was made of, where
    `winnow select` looks for them. In itself where that is gone or cannot be written, or where it has labels already."""
    store = store_of(place)
    try:
        recorded = str(json.loads(store.read("selection.json"))["dataset"]["path"])
        annotated = recorded if is_remote(recorded) else str(Path(recorded).resolve())
        path = os.path.join(annotated, labels.NAME)
        known = store_of(annotated).exists("dataset.json") and (
            is_remote(annotated) or os.access(path if os.path.exists(path) else annotated, os.W_OK)
        )
        return annotated if known and not labels.read(store) else store.url
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return store.url


def _names(store: Store, folder: str, begin: str) -> list[str]:
    if store.folder is None:
        names = [entry.name.rpartition("/")[2] for entry in store.list(f"{folder}/{begin}")]
    elif (store.folder / folder).is_dir():
        names = os.listdir(store.folder / folder)  # without a look at each
    else:
        names = []
    return sorted(name for name in names if name.startswith(begin) and name.endswith(".parquet"))


def _version(store: Store, name: str) -> list[str]:
    try:
        entry = store.head(name)
        return [f"{store.where(name)} {entry.bytes} {entry.version}"]
    except OSError:
        return []


def _annotated(store: Store, seen: str) -> Inspected:
    dataset = Dataset(store)
    clips = dataset.placed_sql("clips")
    try:
        filters = parse_filters(dataset.config.get("selection"))
    except SelectionError:
        filters = []
    return Inspected(
        root=store.url,
        kind="annotated",
        placed=clips,
        videos=dataset.placed_sql("videos"),
        schema=dataset.schema("clips"),
        types=_types(clips),
        config=dataset.config,
        models=dataset.models,
        filters=filters,
        why_null=why_empty(dataset.config),
        state=seen,
        dataset=dataset,
    )


def _curated(store: Store, seen: str) -> Inspected:
    made = json.loads(store.read("selection.json"))
    files = [store.where(f"data/{name}") for name in _names(store, "data", "train-")]
    if not files:
        raise InspectError(f"{store}: holds no shards (data/train-*.parquet); make it again with `winnow select`")
    listed = ", ".join(literal(readable_by_sql(file)) for file in files)
    clips = f"(SELECT * FROM read_parquet([{listed}], filename=true, file_row_number=true))"
    with opened(files[0]) as stream:
        schema = pq.read_schema(stream)
    return Inspected(
        root=store.url,
        kind="curated",
        placed=clips,
        videos="",
        schema=schema,
        types=_types(clips),
        config=made["dataset"]["config"],
        models=made["dataset"].get("models") or {},
        filters=[],
        why_null=why_empty(made["dataset"]["config"]),
        state=seen,
        made=made,
        labels_root=labels_root(store),
    )


def _types(clips: str) -> dict[str, str]:
    rows = database().execute(f"DESCRIBE SELECT * FROM {clips}").fetchall()
    return {row[0]: str(row[1]) for row in rows} | dict.fromkeys(labels.COLUMNS, "VARCHAR")
