"""The recorded units of a dataset, by path and by unit: what a job can skip, and which rows new ones replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from curate.clip import SKIPPED, TOO_SHORT, Unit, Video, path_to_text, text_to_path
from curate.parts import Parts
from curate.video.identity import stamp
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.tables import video_of
from pipelines.sources.listed import list_changed, spans_changed

COLUMNS = """video_id, video_path, unit, units, unit_start, unit_end, status, error, duration, bytes,
    source_caption, source_captions, source_columns, source_spans"""
OLD_ROW_VALUES = {  # column -> value for rows of an older Winnow, which has it in the error only
    "modified": "NULL::BIGINT",
    "checksum": "NULL::VARCHAR",
    "duplicate_of": "CASE WHEN status = 'duplicate' THEN substr(error, length('same content as ') + 1) END",
    "kind": """CASE WHEN status <> 'failed' THEN 'file' WHEN starts_with(error, 'folder may not be read') THEN 'folder'
        WHEN starts_with(error, 'list entry ') THEN 'entry' WHEN starts_with(error, 'link to ') THEN 'link' ELSE 'file' END""",
}


class RecordedUnits:
    """wanted: stages of this job. retry_failed: repeat failed videos, and clips on which a wanted stage failed.

    parts: of this job. changed: paths, as in tables, whose file has other content than recorded (see
    `pipelines.annotation.changes`).
    """

    def __init__(self, dataset: Dataset, wanted: Sequence[str], retry_failed: bool, parts: Parts) -> None:
        self.wanted, self.retry_failed, self.parts = wanted, retry_failed, parts
        self.changed: set[str] = set()
        self.moved: set[str] = set()
        self.read(dataset)

    def read(self, dataset: Dataset) -> None:
        """Read the rows of the dataset again."""
        self.dataset = dataset
        self.rows: dict[str, dict[str, Any]] = {}
        self.paths: dict[str, list[dict[str, Any]]] = {}
        self.contents: dict[str, list[dict[str, Any]]] = {}
        self.copies: dict[str, list[str]] = {}
        if dataset.newest:
            for row in _recorded(dataset):
                self.rows[_id(row)] = row
                self.paths.setdefault(row["video_path"], []).append(row)
                if row["status"] == "duplicate":
                    self.copies.setdefault(row["duplicate_of"], []).append(row["video_path"])
                else:
                    self.contents.setdefault(row["video_id"], []).append(row)

    @property
    def done(self) -> int:
        """How many units are recorded as ok."""
        return sum(row["status"] == "ok" for row in self.rows.values())

    def videos(self) -> list[Video]:
        """Every recorded video, with its captions, columns and spans; without refused folders and rows of lists."""
        found = (rows[0] for _, rows in sorted(self.paths.items()))
        return [replace(video_of(row), video_id="") for row in found if not _is_no_file(row)]

    def accepted_now(self, accepted: Callable[[str], bool]) -> list[str]:
        """Ids of rows of folders, links and entries of lists that were refused before and are accepted now."""
        refused = (row for row in self.rows.values() if _is_no_file(row))
        return [_id(row) for row in refused if accepted(text_to_path(row["video_path"]))]

    def planned(self, video: Video) -> bool:
        """Whether every unit of this video is recorded, so that it need not be opened. Lost units do not count."""
        path = path_to_text(video.path)
        rows = self.paths.get(path, [])
        again = {"lost", "failed"} if self.retry_failed else {"lost"}
        if path in self.changed or any(row["status"] in again for row in rows):
            return False
        return bool(rows) and len(rows) >= rows[0]["units"] and not self._spans_changed(video)

    def _spans_changed(self, video: Video) -> bool:
        """Whether the list names other spans than those of the recorded clips, which then have to be found again."""
        rows = self.paths.get(path_to_text(video.path), ())
        return any(row["status"] == "ok" and spans_changed(video, video_of(row)) for row in rows)

    def contents_of(self, path: str) -> set[str]:
        """The recorded `video_id` of this path; of a duplicate, that of the first file."""
        found = set()
        for row in self.paths.get(path, ()):
            copied = row["duplicate_of"]
            found |= (
                {row["video_id"]} if copied is None else {other["video_id"] for other in self.paths.get(copied, ())}
            )
        return found

    def may_have_changed(self, path: str) -> bool:
        """Whether a file exists with another size or time of writing than recorded, or is not recorded."""
        rows = self.paths.get(path, [])
        if not rows:
            return True
        if self._differs(path):
            return True
        if rows[0]["status"] != "duplicate":
            return False
        owner = rows[0]["duplicate_of"]
        return owner not in self.paths or self._differs(owner) or not os.path.exists(text_to_path(owner))

    def _differs(self, path: str) -> bool:
        """Whether the file exists with another size or time of writing than recorded."""
        now = stamp(text_to_path(path))
        return None not in now.values() and any(row[name] != now[name] for row in self.paths[path] for name in now)

    def stamped(self, path: str) -> bool:
        """Whether size and time of writing are recorded."""
        return all(row["modified"] is not None for row in self.paths.get(path, ()))

    def failures(self, paths: set[str]) -> list[tuple[str, str]]:
        """(path, reason) of the recorded failures of these videos."""
        failed = (
            (path, row) for path in sorted(paths) for row in self.paths.get(path, ()) if row["status"] == "failed"
        )
        return [(text_to_path(path), row["error"]) for path, row in failed]

    def lost(self, unit: Unit) -> bool:
        """Whether an earlier run lost the unit."""
        row = self.rows.get(unit.id)
        return row is not None and row["status"] == "lost"

    def recorded(self, unit: Unit) -> bool:
        row = self.rows.get(unit.id)
        if row is None or row["status"] == "lost" or path_to_text(unit.video.path) in self.changed:
            return False
        if self._spans_changed(unit.video):
            return False
        return not (self.retry_failed and row["status"] == "failed")

    def has_good_rows(self, unit: Unit) -> bool:
        """Whether the unit is recorded as ok, which a failure must not replace."""
        row = self.rows.get(unit.id)
        return row is not None and row["status"] == "ok"

    def stages_of(self, unit: Unit) -> tuple[str, ...]:
        """Stages of the unit that are recorded as ok."""
        return self.dataset.newest[unit.id].stages if self.has_good_rows(unit) else ()

    def replacement(self, unit: Unit, keep: Collection[str] = (), drop: Iterable[str] = ()) -> dict[str, Any]:
        """The rows that the new ones of a unit replace, as arguments for `Writer.add`: those of its path with other content.

        keep: contents whose rows stay. drop: other units to remove.
        """
        rows = self.paths.get(path_to_text(unit.video.path), [])
        above = (
            row for folder in Path(unit.video.path).parents for row in self.paths.get(path_to_text(str(folder)), ())
        )
        rows = [*rows, *(row for row in above if _is_no_file(row))]  # a refused folder that is readable now
        kept = (unit.video.video_id, *keep)
        gone = {_id(row) for row in rows if row["video_id"] not in kept}
        gone |= {_id(row) for row in rows if row["video_id"] == unit.video.video_id and row["unit"] >= unit.count}
        gone |= set(drop)
        known = {unit.id, *gone, *(_id(row) for row in rows)}
        generations = [shard.generation for name in known if (shard := self.dataset.newest.get(name))]
        return {"generation": max(generations, default=-1) + 1, "replaces": sorted(gone)}

    def owner(self, video_id: str) -> str | None:
        """Path of the recorded video with this content, if the file still has it."""
        row = self.rows.get(f"{video_id}-0000")
        if row is None or row["status"] == "duplicate" or row["video_path"] in self.changed:
            return None
        return row["video_path"] if os.path.exists(text_to_path(row["video_path"])) else None

    def incomplete(self, listed: Mapping[str, Video]) -> Iterator[Unit]:
        """Units that lack a wanted stage, or whose list entry changed, as references into their shards.

        listed: path -> video, of those with captions, columns or spans from a list.
        """
        failed = self._failed_stages() if self.retry_failed else {}
        for unit_id, row in self.rows.items():
            shard = self.dataset.newest[unit_id]
            todo = [name for name in self.wanted if name not in shard.stages or name in failed.get(unit_id, ())]
            video = listed.get(row["video_path"])
            if (video and self._spans_changed(video)) or row["video_path"] in self.changed:
                continue
            if row["status"] == "ok" and (todo or (video and list_changed(video, video_of(row)))):
                same = replace(video, video_id=row["video_id"]) if video else None
                yield Unit(
                    same or Video(text_to_path(row["video_path"]), row["video_id"]),
                    index=row["unit"],
                    count=row["units"],
                    start=row["unit_start"],
                    end=row["unit_end"],
                    facts={
                        "duration": row["duration"],
                        **(stamp(text_to_path(row["video_path"])) if row["modified"] is None else {}),
                    },
                    todo=todo,
                    stored=(str(self.dataset.root.absolute()), shard.name),
                )

    def _failed_stages(self) -> dict[str, set[str]]:
        """Unit -> stages that failed on one of its clips."""
        found: dict[str, set[str]] = {}
        each = f"SELECT video_id, unit, unnest(map_entries(errors)) AS error FROM {self.dataset.clips_sql}"
        query = f"""SELECT DISTINCT video_id, unit, error.key FROM ({each})
                    WHERE NOT starts_with(error.value, ?) AND NOT starts_with(error.value, ?)"""
        for video_id, unit, key in (
            duckdb.execute(query, [TOO_SHORT, SKIPPED]).fetchall() if self.dataset.newest else ()
        ):
            found.setdefault(f"{video_id}-{unit:04d}", set()).add(self.parts.stage_of(key))
        return found


def duplicate(unit: Unit, owner: str) -> Unit:
    """Mark a unit as a second copy. owner: path of the first, as in tables."""
    unit.status, unit.error, unit.duplicate_of = "duplicate", f"same content as {owner}", owner
    return unit


def _recorded(dataset: Dataset) -> list[dict[str, Any]]:
    there = duckdb.sql(f"SELECT * FROM {dataset.videos_sql}").columns
    late = [
        f"coalesce({name}, {old}) AS {name}" if name in there else f"{old} AS {name}"
        for name, old in OLD_ROW_VALUES.items()
    ]
    return duckdb.sql(f"SELECT {COLUMNS}, {', '.join(late)} FROM {dataset.videos_sql}").to_arrow_table().to_pylist()


def _is_no_file(row: dict[str, Any]) -> bool:
    """Whether the row is of a refused folder, link or entry of a list."""
    return row["kind"] != "file"


def _id(row: dict[str, Any]) -> str:
    return f"{row['video_id']}-{row['unit']:04d}"
