"""The shards of a curated dataset, whatever their format: each appears whole or not at all, and says what is in it."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.base.files import commit, write_json, writing
from curate.export.span import Extracted
from pipelines.curated.cutting import CutJob, MapFn, Result
from pipelines.curated.exported import row_of
from pipelines.curated.passes import CutAhead
from pipelines.curated.rechecking import Recheck
from pipelines.curated.rows import PlannedClips
from pipelines.formats.format import Format

__all__ = ["Cutting", "ShardCounts", "ShardSet", "write_shards"]


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


class Cutting:
    """`cut`, for jobs of which the first have their results already."""

    def __init__(self, cut: MapFn, results: Iterable[Result] = ()) -> None:
        self.cut, self.results = cut, deque(results)

    def __call__(self, jobs: Iterable[CutJob]) -> Iterator[Result]:
        jobs = iter(jobs)
        while self.results and next(jobs, None):
            yield self.results.popleft()
        yield from self.cut(jobs)

    def one(self, job: CutJob) -> Result:
        (result,) = self.cut([job])
        return result


@dataclass(frozen=True)
class ShardSet:
    """The shards of a dataset: the k-th holds the rows at positions bounds[k] to bounds[k + 1].

    folder: where they lie. footers: folder for what says how much is in each, where their format has no place for it.
    """

    folder: Path
    footers: Path
    format: Format
    schema: pa.Schema
    bounds: Sequence[int]

    @property
    def count(self) -> int:
        return len(self.bounds) - 1

    def path(self, k: int) -> Path:
        return self.folder / f"{self._stem(k)}{self.format.suffix}"

    def missing(self) -> list[int]:
        return [k for k in range(self.count) if not self.path(k).exists()]

    def footer(self, k: int) -> dict[str, Any]:
        """Of a shard that is there."""
        found = self.format.footer(self.path(k))
        return json.loads(self._beside(k).read_text()) if found is None else found

    def clear(self) -> None:
        """Remove what an interrupted job left of shards that it was writing."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            _remove(leftover)

    def write(self, k: int, clips: Iterable[tuple[Mapping[str, Any], Result]]) -> None:
        """Write a shard of (row, result): aside, flushed to the disk, and renamed when it is whole."""
        aside = self.folder / f"{self._stem(k)}.tmp"
        try:
            counts = self._fill(aside, clips)
            with writing(self.folder):
                if self.format.footer(aside) is None:
                    self.footers.mkdir(exist_ok=True)
                    write_json(self._beside(k), counts.footer())
                commit(aside, self.path(k))
        finally:
            _remove(aside)

    def _fill(self, aside: Path, clips: Iterable[tuple[Mapping[str, Any], Result]]) -> ShardCounts:
        counts, added = ShardCounts(), {column.name for column in self.format.columns}
        names = [name for name in self.schema.names if name not in added]
        with writing(self.folder):
            shard = self.format.open(aside, self.schema)
        try:
            for row, result in clips:
                if isinstance(result, str):
                    counts.failure(row, result)
                    continue
                counts.clip(row, result)
                made = row_of(row, result)
                with writing(self.folder):
                    shard.add({name: made.get(name) for name in names}, result.bytes)
            with writing(self.folder):
                shard.finish(counts.footer())
        finally:
            shard.abandon()
        return counts

    def _stem(self, k: int) -> str:
        return f"train-{k:05d}-of-{self.count:05d}"

    def _beside(self, k: int) -> Path:
        return self.footers / f"{self._stem(k)}.json"


def write_shards(
    shards: ShardSet, clips: PlannedClips, cutting: Cutting, recheck: Recheck, ahead: CutAhead
) -> ShardCounts:
    """Write the shards that are not there yet. Counts are over all.

    cutting: called once, with the jobs of all missing shards. recheck: a copy that fails it is cut again, whole.
    ahead: asked for the clips of each shard before they are cut; it drops them when the shard is written.
    """
    shards.clear()
    missing, counts, bounds = shards.missing(), ShardCounts(), shards.bounds
    there = sorted(set(range(shards.count)) - set(missing))
    for k in there:
        counts.add(shards.footer(k))
    ahead.written = [(bounds[k], bounds[k + 1]) for k in there]
    ahead.progress.add(counts.clips + len(counts.failed), len(counts.failed))
    handed_out: deque[dict[str, Any]] = deque()  # rows whose jobs were handed out and whose results are to come

    def jobs() -> Iterator[CutJob]:
        for k in missing:
            ahead.fill(bounds[k + 1])
            for row in clips.rows(bounds[k], bounds[k + 1]):
                handed_out.append(row)
                yield clips.job(row)

    results, taken = cutting(jobs()), []

    def cut_rows(k: int) -> Iterator[tuple[dict[str, Any], Result]]:
        for _ in range(bounds[k], bounds[k + 1]):
            result, row = next(results), handed_out.popleft()
            if not isinstance(result, str) and (why := recheck.fails(row, result)):
                result = cutting.one(clips.job(row, snap=False))
                result = result if isinstance(result, str) else replace(result, why=why)
            yield row, result
            taken.append(row["clip_id"])
            ahead.progress.one(row["clip_id"], isinstance(result, str))

    for k in missing:
        taken.clear()
        shards.write(k, cut_rows(k))
        ahead.drop(taken)
        counts.add(shards.footer(k))
    counts.failed.sort(key=lambda failure: failure["clip_id"])
    return counts


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


SAMPLE_CLIPS, SAMPLE_BYTES = 32, 64_000_000  # cut first, to learn how many bytes a clip takes


def bounds_of(clips: PlannedClips, shard_bytes: int, cut: MapFn, ahead: CutAhead) -> tuple[list[int], list[Result]]:
    """The bounds of the shards: contiguous in the shuffled order, of about equal weight.

    The first clips of the order are a random sample: cutting them shows how many bytes a unit of weight takes. What was
    cut is returned too, so that it need not be cut again.
    """
    weights = clips.weights()
    jobs = [clips.job(row) for row in clips.rows(0, SAMPLE_CLIPS)]
    ahead.fill(len(jobs))
    taken = weight = 0.0
    results: list[Result] = []
    for job_weight, result in zip(weights, cut(jobs), strict=False):
        results.append(result)
        if not isinstance(result, str):
            taken, weight = taken + len(result.bytes), weight + job_weight
        if taken > SAMPLE_BYTES:
            break
    total = weights.sum() * (taken / weight if weight else 1.0)
    shards = int(min(max(1, round(total / shard_bytes)), len(weights)))
    ends = np.searchsorted(np.cumsum(weights), weights.sum() * np.arange(1, shards) / shards, side="left") + 1
    return np.unique([0, *ends, len(weights)]).tolist(), results
