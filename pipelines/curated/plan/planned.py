"""The plan of a curated dataset, as those read it who cut its clips (see `pipelines.curated.plan.rows`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.base.store.places import Store, join
from curate.base.store.protocol import is_remote
from curate.clip import path_to_text, text_to_path
from curate.export.span import Span, origin_of
from pipelines.curated.cutting import CutJob, SourceFile
from pipelines.curated.plan.rows import GROUP_ROWS, ROWS

SAMPLE_CLIPS, SAMPLE_BYTES = 32, 64_000_000  # cut first, to learn how many bytes a clip takes

__all__ = ["PlannedClips", "SourceRoots", "job_of"]


class SourceRoots:
    """Where a source lies now. roots: old -> new beginning of paths and URLs (see `absolute`)."""

    def __init__(self, roots: Mapping[str, str]) -> None:
        self.roots = dict(roots)

    def __call__(self, video_path: str) -> str:
        """video_path: as a table has it (`path_to_text`)."""
        path = text_to_path(video_path)
        for old, new in self.roots.items():
            within = _within(path, old)
            if within is not None:
                return path_to_text(join(new, *within) if is_remote(new) else str(Path(new, *within)))
        return video_path

    @staticmethod
    def absolute(place: str) -> str:
        """A folder as the beginning of absolute paths, or a URL without a slash at its end."""
        return place.rstrip("/") if is_remote(place) else os.path.abspath(place)


def _within(path: str, folder: str) -> list[str] | None:
    """The parts of a path or URL below a folder; None if it is not there."""
    if is_remote(folder) or is_remote(path):
        return path[len(folder) + 1 :].split("/") if path.startswith(folder + "/") else None
    found = Path(path)
    return list(found.relative_to(folder).parts) if found.is_relative_to(folder) else None


def job_of(row: Mapping[str, Any], options: Mapping[str, Any], spool: str | None = None) -> CutJob:
    """row: of a clip, with _bytes, _keyframes and the unit's marks, as the plan has them."""
    facts = {name: row.get(f"_{name}") for name in ("first_packet", "first_pts", "first_frame")}
    origin = origin_of(row.get("clock"), facts, row.get("_unit_start"))
    span = Span(row["start_frame"], row["end_frame"], row["start_time"], row["end_time"], origin)
    source = SourceFile(row["video_id"], row["_bytes"], row.get("_modified"), row.get("_checksum"), row.get("_version"))
    return CutJob(
        row["clip_id"], text_to_path(row["video_path"]), span, row["_keyframes"], dict(options), source, spool
    )


@dataclass(frozen=True)
class PlannedClips:
    """The clips that are to be cut, in the order of the shards.

    plan: where `write_plan` put them. count: how many. options: of `curate.export.span.ClipForm`. roots: where their
    sources lie now. spool: folder or URL of the clips that were cut ahead.
    """

    plan: Store
    count: int
    options: Mapping[str, Any]
    roots: SourceRoots
    spool: str

    def rows(self, first: int, end: int) -> Iterator[dict[str, Any]]:
        """The rows at positions [first, end), with their sources' paths of now. Holds one row group."""
        for index in range(first // ROWS, -(-end // ROWS)):
            before = index * ROWS
            with self.plan.open(f"rows-{index:05d}.parquet") as stream:
                file = pq.ParquetFile(stream)
                here = max(first - before, 0), min(end - before, file.metadata.num_rows)
                for group in range(here[0] // GROUP_ROWS, -(-here[1] // GROUP_ROWS)):
                    start, stop = (min(max(at - group * GROUP_ROWS, 0), GROUP_ROWS) for at in here)
                    rows = file.read_row_group(group, use_threads=False).slice(start, stop - start)
                    yield from map(self._moved, rows.to_pylist(maps_as_pydicts="strict"))

    def groups(self) -> Iterator[tuple[int, list[CutJob], list[int]]]:
        """Of each group that is cut in one pass: the first of its positions, the jobs of its clips, their positions."""
        for first, rows in groupby(self._together(), key=lambda row: row["_group"]):
            group = list(rows)
            yield first, [self.job(row) for row in group], [row["_position"] for row in group]

    def job(self, row: Mapping[str, Any], **options: Any) -> CutJob:
        return job_of(row, {**self.options, **options}, self.spool if self.ahead(row) else None)

    def ahead(self, row: Mapping[str, Any]) -> bool:
        """Whether a clip may lie in the spool."""
        return row["_together"] or row["_position"] < SAMPLE_CLIPS

    @property
    def sample(self) -> int:
        """How many clips, from the first on, are cut first. The order is shuffled: they are a random sample."""
        return min(SAMPLE_CLIPS, self.count)

    def bounds(self, shard_bytes: int, sample: Mapping[int, int | None]) -> list[int]:
        """The bounds of shards that are contiguous in the order and of about equal weight: the k-th has the positions
        bounds[k] to bounds[k + 1].

        sample: bytes of the clips that were cut first by position, None where it could not be cut; they show how many
        bytes a unit of weight takes.
        """
        first = np.concatenate([np.zeros(0), *self._first(max(sample, default=0) + 1)])
        taken = weight = 0.0
        for position, size in sorted(sample.items()):
            if size is not None and taken <= SAMPLE_BYTES:
                taken, weight = taken + size, weight + float(first[position])
        whole = float(sum(part.sum() for part in self._weights()))
        total = whole * (taken / weight if weight else 1.0)
        shards = int(min(max(1, round(total / shard_bytes)), self.count))
        targets, bounds, before, at = whole * np.arange(1, shards) / shards, [0], 0.0, 0
        for part in self._weights():
            sums = before + np.cumsum(part)
            ends = np.searchsorted(sums, targets[: np.searchsorted(targets, sums[-1], side="right")], side="left")
            bounds += (at + ends + 1).tolist()
            targets = targets[len(ends) :]
            before, at = float(sums[-1]), at + len(part)
        return sorted({min(bound, self.count) for bound in [*bounds, self.count]})

    def _first(self, count: int) -> Iterator[np.ndarray]:
        """Weights of at least so many clips, if there are."""
        for part in self._weights():
            yield part
            count -= len(part)
            if count <= 0:
                return

    def _weights(self) -> Iterator[np.ndarray]:
        """[N] about how many bytes each clip takes, in a unit of its own; some at a time."""
        with self.plan.open("weights.parquet") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(1 << 16):
                yield batch["_weight"].to_numpy(zero_copy_only=False)

    def _together(self) -> Iterator[dict[str, Any]]:
        with self.plan.open("together.parquet") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(1024):
                yield from map(self._moved, batch.to_pylist())

    def _moved(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"video_path": self.roots(row["video_path"])}
