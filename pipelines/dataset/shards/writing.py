"""Committing units as a shard: by whichever worker finished them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from curate.base.store import Store, store_of
from curate.clip import Unit
from pipelines.dataset.files import FOOTER, parquet_bytes
from pipelines.dataset.shards.footer import Footer, footer_rows, form_of
from pipelines.dataset.tables import Tables

__all__ = ["Writer", "commit_tables", "write_shard"]


def write_shard(
    store: Store,
    tables: Tables,
    units: Sequence[Unit],
    *,
    stages: Sequence[str],
    generation: int = 0,
    replaces: Sequence[str] = (),
    models: dict[str, Any],
    run: str = "",
) -> Footer:
    """Commit finished units as one shard: its clips, then its videos, whose footer is the record.

    The name is made of the content and the run, so that writing the same again changes nothing, and a worker that its run
    has left behind writes nothing in the name of the next. stages: all that the rows are of.
    replaces: ids of units whose rows of lower generations do not count any more. run: which job wrote it. Raises StoreError,
    DiskError."""
    units = sorted(units, key=lambda unit: unit.id)
    gone = sorted(replaces)
    footer: dict[str, Any] = {
        "units": [unit.id for unit in units],
        "stages": list(stages),
        "generation": generation,
        "replaces": gone,
        "models": models,
    }
    found = [tables.clip_row(unit, clip) for unit in units for clip in unit.clips]
    clips = pa.Table.from_pylist(found, schema=tables.clips)
    videos = pa.Table.from_pylist([tables.video_row(unit) for unit in units], schema=tables.videos)
    name, _ = commit_tables(store, clips, videos, footer, [[unit.status, unit.error] for unit in units], run=run)
    form = form_of(tables.clips, tables.videos)
    rows = footer_rows(name, units, stages=stages, generation=generation, replaces=gone, run=run, form=form)
    return Footer(name, rows)


def commit_tables(
    store: Store, clips: pa.Table, videos: pa.Table, footer: dict[str, Any], outcome: Any, *, run: str
) -> tuple[str, bytes]:
    """Commit rows as one shard: its name, and the bytes of its file of videos. outcome: how its units ended."""
    data = parquet_bytes(_with_footer(clips, footer))
    name = _shard_name(data, footer, [outcome, form_of(clips.schema, videos.schema), run])
    record = parquet_bytes(_with_footer(videos, footer | {"run": run}))
    store.put(f"clips/part-{name}.parquet", data)
    store.put(f"videos/part-{name}.parquet", record)
    return name, record


def _shard_name(clips: bytes, footer: dict[str, Any], outcome: Any) -> str:
    """Name of a shard, from its content: its file of clips, what its footer says, and how its units ended."""
    known = [footer["units"], list(footer["stages"]), footer["generation"], footer["replaces"], outcome]
    digest = hashlib.blake2b(json.dumps(known).encode("utf-8", "surrogatepass"), digest_size=8)
    digest.update(hashlib.blake2b(clips).digest())
    return digest.hexdigest()


def _with_footer(table: pa.Table, footer: dict[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({FOOTER: json.dumps(footer).encode()})


class Writer:
    """Collects finished units and commits them as shards. Units that are not committed when the process dies run again.

    A shard is committed at `shard_clips` clips, at 256 MB of stills, or `shard_seconds` after its first unit.
    """

    MAX_BYTES = 256 << 20

    def __init__(
        self,
        place: str | os.PathLike[str] | Store,
        tables: Tables,
        *,
        models: dict[str, Any],
        shard_clips: int = 1000,
        shard_seconds: float = 30.0,
        run: str = "",
    ) -> None:
        self.store, self.tables, self.models, self.run = store_of(place), tables, models, run
        self.shard_clips, self.shard_seconds = shard_clips, shard_seconds
        self._pending: dict[tuple[tuple[str, ...], int], list[Unit]] = {}
        self._replaced: dict[tuple[tuple[str, ...], int], set[str]] = {}
        self._since, self._clips, self._bytes = 0.0, 0, 0

    def add(
        self, unit: Unit, *, stages: Sequence[str], generation: int = 0, replaces: Sequence[str] = ()
    ) -> list[Footer]:
        """Take a finished unit. Returns the footers of what was committed now; [] mostly."""
        if not self._pending:
            self._since = time.monotonic()
        key = (tuple(stages), generation)
        self._pending.setdefault(key, []).append(unit)
        self._replaced.setdefault(key, set()).update(replaces)
        self._clips += len(unit.clips)
        self._bytes += sum(len(still) for clip in unit.clips for still in clip.stills())
        return self.flush() if self.due else []

    @property
    def due(self) -> bool:
        """Whether what is collected should be committed now."""
        old = bool(self._pending) and time.monotonic() - self._since > self.shard_seconds
        return self._clips >= self.shard_clips or self._bytes >= self.MAX_BYTES or old

    def flush(self) -> list[Footer]:
        """Commit what is collected. A shard that cannot be written stays collected."""
        made = []
        for key in list(self._pending):
            stages, generation = key
            footer = write_shard(
                self.store,
                self.tables,
                self._pending[key],
                stages=stages,
                generation=generation,
                replaces=sorted(self._replaced[key]),
                models=self.models,
                run=self.run,
            )
            made.append(footer)
            del self._pending[key], self._replaced[key]
        self._clips = self._bytes = 0
        return made
