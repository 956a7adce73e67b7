"""The recorded units of a dataset, by path and by unit: what a job can skip, and which rows new ones replace."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.base.store.files import database, opened
from curate.clip import SKIPPED, TOO_SHORT, Unit, Video, path_to_text, text_to_path
from curate.parts import Parts
from curate.video.identity import is_gone, same_stamp, stamp
from pipelines.annotation.planning.ledger import COLUMNS, Ledger
from pipelines.dataset.dataset import Dataset
from pipelines.dataset.shards import source_digests
from pipelines.dataset.shards.footer import REPLACED
from pipelines.dataset.tables import video_of

__all__ = ["RecordedUnits", "duplicate"]

SOURCE_COLUMNS = "source_caption", "source_captions", "source_columns", "source_spans"


class RecordedUnits:
    """What is recorded about the inputs of a job.

    wanted: stages of this job. retry_failed: repeat failed videos, and clips on which a wanted stage failed.
    changed: paths, as in tables, whose file has other content than recorded (see `pipelines.annotation.planning.changes`).
    """

    def __init__(self, dataset: Dataset, wanted: Sequence[str], retry_failed: bool, parts: Parts) -> None:
        self.wanted, self.retry_failed, self.parts = wanted, retry_failed, parts
        self.changed: set[str] = set()
        self.moved: set[str] = set()
        self.ledger = Ledger()
        self.read(dataset)

    def close(self) -> None:
        self.ledger.close()

    def read(self, dataset: Dataset) -> None:
        """Read the rows of the dataset again."""
        self.dataset = dataset
        self.ledger.load(_recorded(dataset))
        self.failed_stages = self._failed_stages() if self.retry_failed else {}
        self.refused_before = bool(self.ledger.no_files())

    @property
    def done(self) -> int:
        """How many units are recorded as ok."""
        return self.ledger.count("ok")

    def videos(self) -> Iterator[Video]:
        """Every recorded video, with its captions, columns and spans; without refused folders and rows of lists."""
        for path in self.ledger.paths():
            row = self.ledger.of_path(path)[0]
            yield replace(self._listed(row) if _has_list(row) else Video(text_to_path(path)), video_id="")

    def planned(self, video: Video, rows: Sequence[dict[str, Any]] | None = None) -> bool:
        """Whether every unit of this video is recorded, so that it need not be opened. Lost units do not count."""
        path = path_to_text(video.path)
        rows = self.ledger.of_path(path) if rows is None else rows
        again = {"lost", "failed"} if self.retry_failed else {"lost"}
        if path in self.changed or any(row["status"] in again for row in rows):
            return False
        return bool(rows) and len(rows) >= rows[0]["units"] and not self.spans_changed(video, rows)

    def spans_changed(self, video: Video, rows: Sequence[dict[str, Any]] | None = None) -> bool:
        """Whether the list names other spans than those of the recorded clips, which then have to be found again."""
        if not video.spans:
            return False
        rows = self.ledger.of_path(path_to_text(video.path)) if rows is None else rows
        now = source_digests(video)
        return any(row["status"] == "ok" and _other_spans(now, row) for row in rows)

    def contents_of(self, path: str) -> set[str]:
        """The recorded `video_id` of this path; of a duplicate, that of the first file."""
        found = set()
        for row in self.ledger.of_path(path):
            copied = row["duplicate_of"]
            found |= (
                {row["video_id"]} if copied is None else {other["video_id"] for other in self.ledger.of_path(copied)}
            )
        return found

    def may_have_changed(self, path: str, now: dict[str, Any] | None = None) -> bool:
        """Whether a file exists with another size or time of writing than recorded, or is not recorded."""
        rows = self.ledger.of_path(path)
        if not rows or self._differs(path, rows, now):
            return True
        if rows[0]["status"] != "duplicate":
            return False
        owner = rows[0]["duplicate_of"]
        theirs = self.ledger.of_path(owner)
        return not theirs or self._differs(owner, theirs) or is_gone(text_to_path(owner))

    def _differs(self, path: str, rows: Sequence[dict[str, Any]], now: dict[str, Any] | None = None) -> bool:
        """Whether the file exists with another size, version or time of writing than recorded. now: its stamp, if known."""
        now = now or stamp(text_to_path(path))
        return now["bytes"] is not None and not all(same_stamp(row, now) for row in rows)

    def stamped(self, path: str) -> bool:
        """Whether size and time of writing are recorded."""
        return all(row["modified"] is not None for row in self.ledger.of_path(path))

    def lost(self, unit: Unit) -> bool:
        """Whether an earlier run lost the unit."""
        row = self.ledger.row(unit.id)
        return row is not None and row["status"] == "lost"

    def recorded(self, unit: Unit) -> bool:
        row = self.ledger.row(unit.id)
        if row is None or row["status"] == "lost" or path_to_text(unit.video.path) in self.changed:
            return False
        if self.spans_changed(unit.video):
            return False
        return not (self.retry_failed and row["status"] == "failed")

    def has_good_rows(self, unit: Unit) -> bool:
        """Whether the unit is recorded as ok, which a failure must not replace."""
        row = self.ledger.row(unit.id)
        return row is not None and row["status"] == "ok"

    def stages_of(self, unit: Unit) -> tuple[str, ...]:
        """Stages of the unit that are recorded as ok."""
        row = self.ledger.row(unit.id)
        return tuple(row["stages"]) if row is not None and row["status"] == "ok" else ()

    def replacement(self, unit: Unit, keep: Collection[str] = (), drop: Iterable[str] = ()) -> dict[str, Any]:
        """The rows that the new ones of a unit replace, as `generation` and `replaces`: those of its path with other content.

        keep: contents whose rows stay. drop: other units to remove.
        """
        if self.ledger.empty:
            return {"generation": self.dataset.current.floor([unit.id]) + 1, "replaces": ()}
        rows = self.ledger.of_path(path_to_text(unit.video.path))
        if self.refused_before:  # a refused folder that is readable now
            above = [
                row
                for folder in Path(unit.video.path).parents
                for row in self.ledger.of_path(path_to_text(str(folder)))
            ]
            rows += [row for row in above if row["kind"] != "file"]
        kept = (unit.video.video_id, *keep)
        gone = {row["id"] for row in rows if row["video_id"] not in kept}
        gone |= {row["id"] for row in rows if row["video_id"] == unit.video.video_id and row["unit"] >= unit.count}
        gone |= set(drop)
        known = {unit.id, *gone, *(row["id"] for row in rows)}
        generations = [row["generation"] for name in known if (row := self.ledger.row(name))]
        generations.append(self.dataset.current.floor([unit.id]))  # its rows were replaced once, and it is back
        return {"generation": max(generations) + 1, "replaces": sorted(gone)}

    def owner(self, video_id: str) -> str | None:
        """Path of the recorded video with this content, if the file still has it."""
        row = self.ledger.row(f"{video_id}-0000")
        if row is None or row["status"] == "duplicate" or row["video_path"] in self.changed:
            return None
        return None if is_gone(text_to_path(row["video_path"])) else row["video_path"]

    def incomplete(self, video: Video, rows: Sequence[dict[str, Any]] | None = None) -> Iterator[Unit]:
        """Units of a video that lack a wanted stage, or whose list entry changed, as references into their shards."""
        path = path_to_text(video.path)
        rows = self.ledger.of_path(path) if rows is None else rows
        listed = bool(video.captions or video.columns or video.spans)
        if path in self.changed or self.spans_changed(video, rows):
            return
        for row in rows:
            again = self.failed_stages.get(row["id"], ())
            todo = [name for name in self.wanted if name not in row["stages"] or name in again]
            if row["status"] == "ok" and (todo or (listed and _other_list(source_digests(video), row))):
                same = replace(video, video_id=row["video_id"]) if listed else Video(video.path, row["video_id"])
                old = row["modified"] is None  # an older Winnow wrote the row
                facts = {"duration": row["duration"], **(stamp(video.path) if old else {})}
                yield Unit(
                    same,
                    index=row["unit"],
                    count=row["units"],
                    start=row["unit_start"],
                    end=row["unit_end"],
                    facts=facts,
                    todo=todo,
                    stored=(self.dataset.place, row["shard"]),
                )

    def _listed(self, row: dict[str, Any]) -> Video:
        """A recorded video with what its list says of it, from its shard."""
        place = self.dataset.store.where(f"videos/part-{row['shard']}.parquet")
        wanted = [("video_id", "=", row["video_id"]), ("unit", "=", row["unit"])]
        with opened(place) as stream:
            there = set(pq.read_schema(stream).names)
            stream.seek(0)
            columns = ["video_path", "video_id", *(name for name in SOURCE_COLUMNS if name in there)]
            (found,) = pq.read_table(stream, columns=columns, filters=wanted, use_threads=False).to_pylist()
        return video_of(found)

    def _failed_stages(self) -> dict[str, set[str]]:
        """Unit -> stages that failed on one of its clips."""
        found: dict[str, set[str]] = {}
        each = f"SELECT video_id, unit, unnest(map_entries(errors)) AS error FROM {self.dataset.clips_sql}"
        query = f"""SELECT DISTINCT video_id, unit, error.key FROM ({each})
                    WHERE NOT starts_with(error.value, ?) AND NOT starts_with(error.value, ?)"""
        for video_id, unit, key in (
            database().execute(query, [TOO_SHORT, SKIPPED]).fetchall() if not self.ledger.empty else ()
        ):
            found.setdefault(f"{video_id}-{unit:04d}", set()).add(self.parts.stage_of(key))
        return found


def duplicate(unit: Unit, owner: str) -> Unit:
    """Mark a unit as a second copy. owner: path of the first, as in tables."""
    unit.status, unit.error, unit.duplicate_of = "duplicate", f"same content as {owner}", owner
    return unit


def _recorded(dataset: Dataset) -> Iterator[tuple[Any, ...]]:
    """The current units as the manifest has them, for `Ledger.load`."""
    for batch in dataset.current.rows():
        rows = batch.filter(pc.not_equal(batch["status"], REPLACED))
        columns = {name: rows[name].to_pylist() for name in COLUMNS if name != "id"}
        pairs = zip(columns["video_id"], columns["unit"], strict=True)
        yield from zip([f"{video_id}-{unit:04d}" for video_id, unit in pairs], *columns.values(), strict=True)


def _has_list(row: dict[str, Any]) -> bool:
    """Whether a source list says anything of the video."""
    return row["source_spans"] is not None or row["source_list"] != NO_LIST


def _other_spans(now: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a list that names spans names other ones than recorded, so that the clips have to be found again. now: its
    `source_digests`."""
    if now["source_spans"] is None:
        return False
    # Without recorded clips of a span, its captions cannot be updated.
    unplaced = row["source_unplaced"] and now["source_texts"] != row["source_texts"]
    return now["source_spans"] != row["source_spans"] or unplaced


def _other_list(now: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether the list has other captions or columns of the video, or of its spans, than recorded."""
    spans = now["source_spans"] is not None and now["source_texts"] != row["source_texts"]
    return spans or now["source_list"] != row["source_list"]


NO_LIST = source_digests(Video(""))["source_list"]
