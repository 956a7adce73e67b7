"""The current rows of a dataset, as one DuckDB relation over shards of all versions.

Shards of an older Winnow look like current ones: pairs are maps, for `errors['text']` in a condition, however they are
stored; a single caption is a list; and clips have the facts of their video, from the shard's file in videos/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from curate.base.sql import literal, quoted
from curate.base.store import Store
from curate.base.store.files import readable_by_sql
from pipelines.dataset.tables import OF_VIDEO

PAIRED = {"clips": "errors", "videos": "seconds"}


@dataclass(frozen=True)
class Files:
    """Shards of one form. schema: of their files in this table; twin: of those in videos/, if clips lack facts of their
    videos. stale: a Parquet file that names their rows that do not count (see `Current.stale_file`); None: all count."""

    names: Sequence[str]
    schema: pa.Schema
    twin: pa.Schema | None
    stale: Path | None

    @property
    def missing(self) -> tuple[str, ...]:
        return missing_facts(self.schema) if self.twin is not None else ()

    @property
    def there(self) -> tuple[str, ...]:
        return tuple(name for name in self.missing if self.twin is not None and name in self.twin.names)

    @property
    def old(self) -> bool:
        return any(pa.types.is_map(field.type) for field in self.schema)


def missing_facts(clips: pa.Schema) -> tuple[str, ...]:
    """Facts of the video that a shard of clips has no columns for."""
    held = set(clips.names)
    return tuple(name for name in OF_VIDEO if name not in held)


def relation(store: Store, table: str, files: Sequence[Files], places: bool) -> str:
    """places: keep the columns filename and file_row_number."""
    parts = []
    for some in files:
        named = bool(some.stale or some.there)
        options = ", filename=true, file_row_number=true" if places else ", filename=true" if named else ""
        hidden = "EXCLUDE (filename)" if options and not places else ""
        nulls = [f"NULL::{OF_VIDEO[name]} AS {quoted(name)}" for name in some.missing if name not in some.there]
        columns = [_columns(table, some.old, hidden), *(f"v.{quoted(name)}" for name in some.there), *nulls]
        parts.append(
            f"SELECT {', '.join(columns)} FROM {_parquet(store, table, some.names, options)} c"
            + (_facts(store, some) if some.there else "")
            + (_current(some.stale) if some.stale else "")
        )
    return f"({' UNION ALL BY NAME '.join(parts)})"


def _facts(store: Store, some: Files) -> str:
    """Each clip's row in the twin of its own file: other files may have older rows of the same unit."""
    twins = _parquet(store, "videos", some.names, ", filename=true")
    wanted = ", ".join(map(quoted, some.there))
    return (
        f" LEFT JOIN (SELECT parse_filename(filename) AS _file, video_id, unit, {wanted} FROM {twins}) v "
        "ON v._file = parse_filename(c.filename) AND v.video_id = c.video_id AND v.unit = c.unit"
    )


def _current(stale: Path) -> str:
    return (
        f" ANTI JOIN read_parquet({literal(stale)}) s "
        "ON s.file = parse_filename(c.filename) AND s.video_id = c.video_id AND s.unit = c.unit"
    )


def _columns(table: str, old: bool, hidden: str) -> str:
    if old:
        captions = "CASE WHEN c.source_caption IS NOT NULL THEN [c.source_caption] END AS source_captions"
        return f"c.* {hidden}, {captions}, " + (
            "'shots' AS bounds" if table == "clips" else "NULL::VARCHAR AS source_spans"
        )
    return f"c.* {hidden} REPLACE (map_from_entries(c.{PAIRED[table]}) AS {PAIRED[table]})"


def _parquet(store: Store, table: str, names: Sequence[str], options: str) -> str:
    """All files have the same columns (`pipelines.dataset.shards.footer.form_of`), so that only one is opened to plan.

    DuckDB takes a list of files as a parameter of one query or a variable of one connection, and this text is for any. Names
    cost about 13 us each to parse, of some 90 us for opening a local file; compaction keeps them few."""
    paths = [literal(readable_by_sql(store.where(f"{table}/part-{name}.parquet"))) for name in names]
    return f"read_parquet([{', '.join(paths)}]{options})"
