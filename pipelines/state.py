"""What a dataset already records, by path and by unit: what a job need not do again, and which rows new ones replace."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from curate.clip import SKIPPED, TOO_SHORT, Unit, Video, path_to_text, text_to_path
from pipelines.curation import RECALL, stage_of
from pipelines.dataset import Dataset
from pipelines.tables import video_of

COLUMNS = """video_id, video_path, unit, units, unit_start, unit_end, status, duration, source_caption, source_captions, source_columns, source_spans"""


class State:
    """wanted: stages of this job. retry_failed: failed videos, and clips on which a wanted stage failed, are not done."""

    def __init__(self, dataset: Dataset, wanted: Sequence[str], retry_failed: bool) -> None:
        self.dataset, self.wanted, self.retry_failed = dataset, wanted, retry_failed
        self.rows: dict[str, dict[str, Any]] = {}
        self.paths: dict[str, list[dict[str, Any]]] = {}
        self.moved: set[str] = set()
        if dataset.newest:
            for row in duckdb.sql(f"SELECT {COLUMNS} FROM {dataset.videos_sql}").to_arrow_table().to_pylist():
                self.rows[_id(row)] = row
                self.paths.setdefault(row["video_path"], []).append(row)

    def videos(self) -> list[Video]:
        """Every recorded video, with what its source list said of it."""
        return [replace(video_of(rows[0]), video_id="") for _, rows in sorted(self.paths.items())]

    def planned(self, video: Video) -> bool:
        """Every unit of this video is recorded, so that it need not be opened again."""
        rows = self.paths.get(path_to_text(video.path), [])
        if self.retry_failed and any(row["status"] == "failed" for row in rows):
            return False
        return bool(rows) and len(rows) >= rows[0]["units"]

    def failed(self, paths: set[str]) -> int:
        """How many of these videos are recorded as failed."""
        return sum(any(row["status"] == "failed" for row in self.paths.get(path, ())) for path in paths)

    def recorded(self, unit: Unit) -> bool:
        row = self.rows.get(unit.id)
        if row is None or unit.video.video_id in self.moved:
            return False
        return not (self.retry_failed and row["status"] == "failed")

    def holds(self, unit: Unit) -> bool:
        """There are good rows of this unit, which a failure must not replace."""
        row = self.rows.get(unit.id)
        return row is not None and row["status"] == "ok"

    def stages_of(self, unit: Unit) -> tuple[str, ...]:
        shard = self.dataset.newest.get(unit.id)
        return shard.stages if shard else ()

    def succession(self, unit: Unit) -> dict[str, Any]:
        """Which rows the new ones of a unit take the place of: arguments for `Writer.add`."""
        rows = self.paths.get(path_to_text(unit.video.path), [])
        old = {_id(row) for row in rows}
        generations = [shard.generation for name in old | {unit.id} if (shard := self.dataset.newest.get(name))]
        gone = [_id(row) for row in rows if row["video_id"] != unit.video.video_id]
        return {"generation": max(generations, default=-1) + 1, "replaces": gone}

    def owner(self, video_id: str) -> str | None:
        """Path of the recorded video that has this content. A path that is gone owns nothing: the file has moved."""
        row = self.rows.get(f"{video_id}-0000")
        if row is None or row["status"] == "duplicate":
            return None
        if not os.path.exists(text_to_path(row["video_path"])):
            self.moved.add(video_id)
            return None
        return row["video_path"]

    def incomplete(self) -> Iterator[Unit]:
        """Units whose rows lack a stage that is wanted now, as references into their shards."""
        failed = self._failed_stages() if self.retry_failed else {}
        for unit_id, row in self.rows.items():
            shard = self.dataset.newest[unit_id]
            todo = [name for name in self.wanted if name not in shard.stages or name in failed.get(unit_id, ())]
            if todo and row["status"] == "ok":
                yield Unit(
                    Video(text_to_path(row["video_path"]), row["video_id"]),
                    index=row["unit"],
                    count=row["units"],
                    start=row["unit_start"],
                    end=row["unit_end"],
                    facts={RECALL: [str(self.dataset.root.absolute()), shard.name], "duration": row["duration"]},
                    todo=todo,
                )

    def _failed_stages(self) -> dict[str, set[str]]:
        """Unit -> stages that failed on a clip of it."""
        found: dict[str, set[str]] = {}
        each = f"SELECT video_id, unit, unnest(map_entries(errors)) AS error FROM {self.dataset.clips_sql}"
        query = f"""SELECT DISTINCT video_id, unit, error.key FROM ({each})
                    WHERE NOT starts_with(error.value, ?) AND NOT starts_with(error.value, ?)"""
        for video_id, unit, key in (
            duckdb.execute(query, [TOO_SHORT, SKIPPED]).fetchall() if self.dataset.newest else ()
        ):
            found.setdefault(f"{video_id}-{unit:04d}", set()).add(stage_of(key))
        return found


def _id(row: dict[str, Any]) -> str:
    return f"{row['video_id']}-{row['unit']:04d}"
