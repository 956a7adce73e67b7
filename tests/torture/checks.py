"""What a dataset after kills is compared in: rows, ids, files that should not be there, bytes of a selection."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from curate.base.store.files import database
from pipelines.dataset.dataset import Dataset

COSTS = ("seconds", "bytes_read", "requests")  # of the run: a retry adds to them
OF_THE_PLACE = ("modified", "version")  # the same file has others on a disk and in a bucket
KEYS = {"videos": ("video_path", "unit"), "clips": ("clip_id",)}
SCRATCH_SECONDS = 180.0  # a minute, and what the last command takes
KEPT = (".lock",)  # hidden files that stay

Rows = dict[tuple, dict[str, Any]]


def rows_of(folder: Path, table: str, root: str) -> tuple[Rows, list[str]]:
    """Key -> row of a dataset's table, all columns but what a run costs, and the keys that are there twice. root: of the
    sources, taken out of every text, so that places can be compared."""
    dataset = Dataset(folder)
    sql = dataset.clips_sql if table == "clips" else dataset.videos_sql
    found: Rows = {}
    twice = []
    for row in database().sql(f"SELECT * FROM {sql}").to_arrow_table().to_pylist():
        row = {name: _without(value, root) for name, value in row.items() if name not in COSTS}
        key = tuple(row[name] for name in KEYS[table])
        if key in found:
            twice.append(f"{table}: {key} is there twice")
        found[key] = row
    return found, twice


def differences(found: Rows, wanted: Rows, table: str, also: tuple[str, ...] = ()) -> list[str]:
    """What differs, a line each. also: columns that are not compared."""
    lines = [f"{table}: {key} is missing" for key in wanted.keys() - found.keys()]
    lines += [f"{table}: {key} is too many ({found[key].get('error')})" for key in found.keys() - wanted.keys()]
    for key in found.keys() & wanted.keys():
        names = found[key].keys() | wanted[key].keys()
        for name in sorted(names - set(also)):
            if found[key].get(name) != wanted[key].get(name):
                lines.append(
                    f"{table}: {key}: {name} = {_short(found[key].get(name))}, not {_short(wanted[key].get(name))}"
                )
    return sorted(lines)


def leftovers(dataset: Path, temporary: Path) -> list[str]:
    """Temporary files in a dataset, and anything in the folders for temporary files of its commands."""
    inside = [path for path in dataset.rglob(".*") if path.name not in KEPT]
    inside += [path for path in dataset.rglob("*") if path.name.endswith(".tmp") and path not in inside]
    spools = [path for path in (temporary / "tmp").iterdir() if not _goes_with_the_next(path)]
    stale = list((temporary / "ray").rglob("ray_current_cluster"))
    return [f"left over: {path}" for path in [*inside, *spools, *stale]]


def _goes_with_the_next(path: Path) -> bool:
    """A folder of a killed process that the next start removes, if it is a minute old by then."""
    return path.name.startswith("winnow-scratch-") and time.time() - path.stat().st_ctime < SCRATCH_SECONDS


def bytes_of(curated: Path) -> dict[str, str]:
    """Name -> hash of each shard of a curated dataset."""
    return {
        str(path.relative_to(curated)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((curated / "data").rglob("*"))
        if path.is_file()
    }


def _without(value: Any, root: str) -> Any:
    if isinstance(value, str):
        return value.replace(root, "")
    if isinstance(value, list):
        return [_without(item, root) for item in value]
    if isinstance(value, dict):
        return {name: _without(item, root) for name, item in value.items()}
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."
