"""What is inspected: an annotated or a curated dataset, as relations of its clips and its videos, and how to see that it
grew."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.selection.filters import Filter, SelectionError, parse_filters
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset, DatasetError
from pipelines.dataset.empty import why_empty


class InspectError(Exception):
    """A folder that cannot be shown. One line: the folder, what is wrong, the fix."""


@dataclass
class Inspected:
    """kind: "annotated" or "curated". clips, videos: DuckDB relations with filename and file_row_number; videos is ""
    where there is none.

    types: column of clips -> DuckDB's type. schema: with formula, unit, range and source of each column. filters: the
    selection that was recorded with it. made: of a curated dataset, its selection.json. signature: changes when shards
    or labels come or go. labels_root: the folder of labels.jsonl, see `labels_root`; None: root.
    """

    root: Path
    kind: str
    clips: str
    videos: str
    schema: pa.Schema
    types: dict[str, str]
    config: dict[str, Any]
    models: dict[str, Any]
    filters: list[Filter]
    why_null: dict[str, str]
    signature: str
    made: dict[str, Any] = field(default_factory=dict)
    labels_root: Path | None = None

    def __post_init__(self) -> None:
        self.labels_root = self.labels_root or self.root

    @property
    def annotated(self) -> str:
        """The annotated dataset that `winnow select` is run on; of a curated one, as recorded where it is not there."""
        if self.kind == "annotated":
            return str(self.root)
        recorded = Path(self.made["dataset"]["path"])
        return str(recorded.resolve() if (recorded / "dataset.json").is_file() else recorded)

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


def open_inspected(root: str | Path) -> Inspected:
    """Raises InspectError."""
    root = Path(root).resolve()
    if not root.is_dir():
        raise InspectError(f"{root}: there is no such folder; name one that `winnow annotate`, `select` or `run` made")
    seen = signature(root)
    try:
        if (root / "selection.json").exists():
            return _curated(root, seen)
        for inside in ("annotated", "curated"):
            if not (root / "dataset.json").exists() and (root / inside / "dataset.json").exists():
                raise InspectError(f"{root}: is no dataset itself; name {root / inside}, or {root / 'curated'}")
        return _annotated(root, seen)
    except (DatasetError, SelectionError) as error:
        raise InspectError(str(error)) from None
    except (duckdb.Error, pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise InspectError(
            f"{root}: damaged ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); "
            "restore it, or make it again"
        ) from None


def signature(root: Path) -> str:
    """Names of the committed files, and place and size of the labels. Files still being written are not among them."""
    parts = sorted(path.name for path in (root / "videos").glob("part-*.parquet"))
    parts += sorted(path.name for path in (root / "data").glob("train-*.parquet"))
    for path in (root / "dataset.json", root / "selection.json", labels_root(root) / labels.NAME):
        try:
            facts = path.stat()
            parts.append(f"{path} {facts.st_size} {facts.st_mtime_ns}")
        except OSError:
            pass
    return "\n".join(parts)


def labels_root(root: Path) -> Path:
    """Where labels of a dataset are kept: those of a curated one beside the annotated one that it was made of, where
    `winnow select` looks for them. In itself where that is gone or cannot be written, or where it has labels already."""
    try:
        recorded = json.loads((root / "selection.json").read_bytes())["dataset"]["path"]
        annotated = Path(recorded).resolve()
        path = annotated / labels.NAME
        known = (annotated / "dataset.json").is_file() and os.access(path if path.exists() else annotated, os.W_OK)
        return annotated if known and not labels.read(root) else root
    except (OSError, ValueError, KeyError, TypeError):
        return root


def _annotated(root: Path, seen: str) -> Inspected:
    dataset = Dataset(root)
    clips = dataset.placed_sql("clips")
    try:
        filters = parse_filters(dataset.config.get("selection"))
    except SelectionError:
        filters = []
    return Inspected(
        root=root,
        kind="annotated",
        clips=labels.labelled(clips, root),
        videos=dataset.placed_sql("videos"),
        schema=dataset.schema("clips"),
        types=_types(clips),
        config=dataset.config,
        models=dataset.models,
        filters=filters,
        why_null=why_empty(dataset.config),
        signature=seen,
    )


def _curated(root: Path, seen: str) -> Inspected:
    made = json.loads((root / "selection.json").read_text(encoding="utf-8"))
    files = sorted((root / "data").glob("train-*.parquet"))
    if not files:
        raise InspectError(f"{root}: holds no shards (data/train-*.parquet); make it again with `winnow select`")
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    clips = f"(SELECT * FROM read_parquet([{listed}], filename=true, file_row_number=true))"
    labels_at = labels_root(root)
    return Inspected(
        root=root,
        kind="curated",
        clips=labels.labelled(clips, labels_at),
        videos="",
        schema=pq.read_schema(files[0]),
        types=_types(clips),
        config=made["dataset"]["config"],
        models=made["dataset"].get("models") or {},
        filters=[],
        why_null=why_empty(made["dataset"]["config"]),
        signature=seen,
        made=made,
        labels_root=labels_at,
    )


def _types(clips: str) -> dict[str, str]:
    rows = duckdb.connect().execute(f"DESCRIBE SELECT * FROM {clips}").fetchall()
    return {row[0]: str(row[1]) for row in rows} | dict.fromkeys(labels.COLUMNS, "VARCHAR")
