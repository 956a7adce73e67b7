"""The shards of a curated dataset, whatever their format: each appears whole or not at all, and says what is in it.

A shard of a format that keeps its counts inside (Parquet) is one object, put if there is none of its name: the first that
comes is the shard. Of other formats the counts lie beside it, and are written when all of the shard is there: without
them what lies there is a leftover of an interrupted worker.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.base.files import commit, writing
from curate.base.store.places import Store
from curate.export.span import Extracted
from pipelines.curated.cutting import Result
from pipelines.curated.exported import row_of
from pipelines.formats.format import Format

__all__ = ["ShardCounts", "ShardPlan", "ShardSet"]


@dataclass
class ShardCounts:
    """Counts over shards. trimmed: copies that lost frames of what was scored, frames_lost of frames_scored."""

    clips: int = 0
    hours: float = 0.0
    bytes: int = 0
    shards: int = 0
    copied: int = 0
    transcoded: int = 0
    trimmed: int = 0
    frames_scored: int = 0
    frames_lost: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    why_transcoded: dict[str, int] = field(default_factory=dict)

    @classmethod
    def over(cls, footers: Mapping[int, Mapping[str, Any]]) -> ShardCounts:
        """footers: of all shards by their index; added in its order, so that sums are the same however they came."""
        counts = cls()
        for _, footer in sorted(footers.items()):
            counts.add(footer)
        counts.failed.sort(key=lambda failure: failure["clip_id"])
        return counts

    def add(self, footer: Mapping[str, Any]) -> None:
        """Add the counts that the footer of a shard has."""
        made = dict(footer["made"])
        for reason, count in made.pop("why_transcoded").items():
            self.why_transcoded[reason] = self.why_transcoded.get(reason, 0) + count
        for name, value in made.items():
            setattr(self, name, getattr(self, name) + value)
        self.shards += 1

    def footer(self) -> dict[str, Any]:
        """Of one shard, as `add` reads it."""
        return {"made": {name: value for name, value in asdict(self).items() if name != "shards"}}

    def clip(self, row: Mapping[str, Any], made: Extracted) -> None:
        """Count a clip. row: as it was scored."""
        copied = made.how == "copy"
        lost = row["num_frames"] - made.num_frames if copied else 0
        self.clips += 1
        self.hours += (made.end_time - made.start_time) / 3600
        self.bytes += len(made.bytes)
        self.copied += copied
        self.trimmed += lost > 0
        self.frames_lost += lost
        self.frames_scored += row["num_frames"]
        if not copied:
            self.transcoded += 1
            self.why_transcoded[made.why] = self.why_transcoded.get(made.why, 0) + 1

    def failure(self, row: Mapping[str, Any], reason: str) -> None:
        self.failed.append({"clip_id": row["clip_id"], "video_path": row["video_path"], "reason": reason})


@dataclass(frozen=True)
class ShardPlan:
    """A shard that is to be: the index-th of `of`, with the clips at positions [first, end)."""

    index: int
    of: int
    first: int
    end: int

    @property
    def stem(self) -> str:
        return f"train-{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class ShardSet:
    """Where the shards lie, and how they are written.

    store: of the curated dataset. folder, footers: names in it, of what holds the shards, and of what holds the counts of
    those whose format has no place for them. scratch: a local folder for shards in the making, where the store is none.
    """

    store: Store
    folder: str
    footers: str
    format: Format
    schema: pa.Schema
    scratch: Path

    @property
    def counted(self) -> bool:
        """Whether a shard holds its own counts."""
        return type(self.format).footer is not Format.footer

    def name(self, plan: ShardPlan) -> str:
        return f"{self.folder}/{plan.stem}{self.format.suffix}"

    def there(self, plans: Iterable[ShardPlan]) -> list[ShardPlan]:
        """Those of the shards that are whole."""
        found = {entry.name for entry in self.store.list(f"{self.folder if self.counted else self.footers}/")}
        return [plan for plan in plans if (self.name(plan) if self.counted else self._beside(plan)) in found]

    def footer(self, plan: ShardPlan) -> dict[str, Any]:
        """Of a shard that is there."""
        if not self.counted:
            return json.loads(self.store.read(self._beside(plan)))
        with self.store.open(self.name(plan)) as shard:
            return self.format.footer(shard)  # type: ignore[return-value] # it holds its counts

    def clear(self) -> None:
        """Remove what interrupted processes left of shards that they were writing. For the one process that leads."""
        if self.store.folder is None:
            return
        folder = self.store.folder / self.folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.tmp"):
            _remove(leftover)

    def write(self, plan: ShardPlan, clips: Iterable[tuple[Mapping[str, Any], Result]]) -> dict[str, Any]:
        """Write a shard of (row, result), and return its footer: aside, and put in its place when it is whole."""
        aside = self._aside(plan)
        try:
            counts = self._fill(aside, clips).footer()
            with writing(aside.parent):
                if self.counted:
                    return counts if self.store.put(self.name(plan), aside) else self.footer(plan)
                self._put(plan, aside)
                self.store.replace(self._beside(plan), json.dumps(counts).encode())
            return counts
        finally:
            _remove(aside)

    def _put(self, plan: ShardPlan, aside: Path) -> None:
        """A file or folder into its place, and over what an interrupted worker may have left there."""
        name = self.name(plan)
        if self.store.folder is not None:
            _remove(self.store.folder / name)
            commit(aside, self.store.folder / name)
            return
        for leftover in list(self.store.list(name)):
            self.store.delete(leftover.name)
        for path in [aside] if aside.is_file() else sorted(path for path in aside.rglob("*") if path.is_file()):
            within = "" if path == aside else f"/{path.relative_to(aside).as_posix()}"
            self.store.put(name + within, path)

    def _fill(self, aside: Path, clips: Iterable[tuple[Mapping[str, Any], Result]]) -> ShardCounts:
        counts, added = ShardCounts(), {column.name for column in self.format.columns}
        names = [name for name in self.schema.names if name not in added]
        with writing(aside.parent):
            aside.parent.mkdir(parents=True, exist_ok=True)
            shard = self.format.open(aside, self.schema)
        try:
            for row, result in clips:
                if isinstance(result, str):
                    counts.failure(row, result)
                    continue
                counts.clip(row, result)
                made = row_of(row, result)
                with writing(aside.parent):
                    shard.add({name: made.get(name) for name in names}, result.bytes)
            with writing(aside.parent):
                shard.finish(counts.footer())
        finally:
            shard.abandon()
        return counts

    def _aside(self, plan: ShardPlan) -> Path:
        """On the disk of the shards, if that is a local one; of this process alone."""
        folder = self.store.folder / self.folder if self.store.folder is not None else self.scratch
        return folder / f"{plan.stem}.{socket.gethostname()}-{os.getpid()}.tmp"

    def _beside(self, plan: ShardPlan) -> str:
        return f"{self.footers}/{plan.stem}.json"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
