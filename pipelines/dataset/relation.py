"""The current rows of a dataset, as one DuckDB relation over shards of all versions.

Shards of an older Winnow look like current ones: pairs are maps, for `errors['text']` in a condition, however they are
stored; a single caption is a list; and clips have the facts of their video, from the shard's file in videos/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from curate.base.sql import literal, quoted
from pipelines.dataset.tables import OF_VIDEO

PAIRED = {"clips": "errors", "videos": "seconds"}


def missing_facts(clips: pa.Schema) -> tuple[str, ...]:
    """Facts of the video that a shard of clips has no columns for."""
    held = set(clips.names)
    return tuple(name for name in OF_VIDEO if name not in held)


def relation(
    table: str,
    files: Sequence[tuple[Path, pa.Schema, pa.Schema | None]],
    stale: Mapping[str, Sequence[str]],
    places: bool,
) -> str:
    """files: with the schema of each, and that of its twin in videos/ if its clips lack facts. stale: shards with some
    current rows -> their replaced units. places: keep the columns filename and file_row_number."""
    groups: dict[tuple[bool, bool, tuple[str, ...], tuple[str, ...]], list[Path]] = {}
    for path, schema, twin in files:
        missing = missing_facts(schema) if twin is not None else ()
        there = tuple(name for name in missing if twin is not None and name in twin.names)
        old = any(pa.types.is_map(field.type) for field in schema)
        groups.setdefault((old, _shard(path) in stale, missing, there), []).append(path)
    parts = []
    for (old, mixed, missing, there), paths in groups.items():
        options = ", filename=true, file_row_number=true" if places else ", filename=true" if mixed or there else ""
        hidden = "EXCLUDE (filename)" if options and not places else ""
        nulls = [f"NULL::{OF_VIDEO[name]} AS {quoted(name)}" for name in missing if name not in there]
        columns = [_columns(table, old, hidden), *(f"v.{quoted(name)}" for name in there), *nulls]
        parts.append(
            f"SELECT {', '.join(columns)} FROM {_parquet(paths, options)} c"
            + (_facts(paths, there) if there else "")
            + (_current(paths, stale) if mixed else "")
        )
    return f"({' UNION ALL BY NAME '.join(parts)})"


def _facts(paths: Sequence[Path], names: Sequence[str]) -> str:
    """Each clip's row in the twin of its own file: other files may have older rows of the same unit."""
    twins = _parquet([path.parent.parent / "videos" / path.name for path in paths], ", filename=true")
    wanted = ", ".join(map(quoted, names))
    return (
        f" LEFT JOIN (SELECT parse_filename(filename) AS _file, video_id, unit, {wanted} FROM {twins}) v "
        "ON v._file = parse_filename(c.filename) AND v.video_id = c.video_id AND v.unit = c.unit"
    )


def _current(paths: Sequence[Path], stale: Mapping[str, Sequence[str]]) -> str:
    """Condition that excludes replaced units. They are one string, as the parser takes seconds for thousands of literals."""
    gone = " ".join(f"part-{name}/{unit}" for name in sorted(map(_shard, paths)) for unit in stale[name])
    return (
        " WHERE printf('%s/%s-%04d', parse_filename(c.filename, true), c.video_id, c.unit) "
        f"NOT IN (SELECT unnest(string_split({literal(gone)}, ' ')))"
    )


def _columns(table: str, old: bool, hidden: str) -> str:
    if old:
        captions = "CASE WHEN c.source_caption IS NOT NULL THEN [c.source_caption] END AS source_captions"
        return f"c.* {hidden}, {captions}, " + (
            "'shots' AS bounds" if table == "clips" else "NULL::VARCHAR AS source_spans"
        )
    return f"c.* {hidden} REPLACE (map_from_entries(c.{PAIRED[table]}) AS {PAIRED[table]})"


def _parquet(paths: Sequence[Path], options: str) -> str:
    """Columns are matched by name: those that a shard of an older version lacks are null."""
    return f"read_parquet([{', '.join(map(literal, paths))}], union_by_name=true{options})"


def _shard(path: Path) -> str:
    return path.stem.removeprefix("part-")
