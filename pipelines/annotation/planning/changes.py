"""Changes of the recorded files since the last run: modified, replaced, renamed, moved, exchanged.

A file is identified by its content. If its path has other content now, or is gone, and the content is found at another
path, its rows are adopted there without computing anything. If it is not found, the path is annotated again, and the old
rows are replaced by the first new ones. A file with the recorded size and time of writing is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.clip import Unit, Video, path_to_text, text_to_path
from curate.video.identity import is_gone
from pipelines.annotation.planning.contents import identities
from pipelines.annotation.planning.planner import Identity, Planner
from pipelines.annotation.planning.recorded import RecordedUnits, duplicate
from pipelines.annotation.stages import tables_of
from pipelines.annotation.tasks import Task
from pipelines.dataset.dataset import read_unit

__all__ = ["Changes", "Record", "find_changes"]

Record = Callable[[Task], None]  # commits the rows of a unit that nothing is computed on


@dataclass
class Changes:
    """seen: path, as in tables, -> identity found there. changed: paths with other content than recorded. moved: content ->
    its path now. touched: paths that were written again with the same content."""

    seen: dict[str, Identity] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def adopt(self, videos: Iterable[Video], state: RecordedUnits, record: Record) -> bool:
        """Rewrite the rows of moved and touched files, without decoding; True if there were any."""
        named = {path_to_text(video.path): video for video in videos}
        for content, path in self.moved.items():
            rows = state.ledger.of_content(content)
            copies = [copy for copy in state.ledger.copies(rows[0]["video_path"]) if copy != path]
            alike = {copy for copy in copies if self.seen.get(copy, {}).get("video_id") == content}
            drop = [row_id for copy in copies if copy not in alike for row_id in _duplicates(state, copy)]
            for row in rows:
                self._rewrite(row, path, named.get(path), state, record, drop)
            for copy in alike:
                for row in state.ledger.of_path(copy):
                    self._rewrite(row, copy, None, state, record, owner=path)
        for path in self.touched:
            for row in state.ledger.of_path(path):
                self._rewrite(row, path, None, state, record)
        return bool(self.moved or self.touched)

    def _rewrite(
        self,
        row: dict[str, Any],
        path: str,
        video: Video | None,
        state: RecordedUnits,
        record: Record,
        drop: Sequence[str] = (),
        owner: str | None = None,
    ) -> None:
        """Rewrite one unit with the current path and stamp of its file, and the captions and columns of a new list."""
        reference = Unit(Video(text_to_path(row["video_path"]), row["video_id"]), index=row["unit"])
        tables = tables_of(state.parts).with_stored(state.dataset.store, [row["shard"]])
        unit = read_unit(state.dataset.store, row["shard"], reference, tables)
        unit.video.path = text_to_path(path)
        if video is not None and (video.captions or video.columns):
            unit.video.captions, unit.video.columns = video.captions, video.columns
        unit.facts |= {name: self.seen[path][name] for name in ("bytes", "modified", "version")}
        if owner is not None:
            duplicate(unit, owner)
        replaced = state.replacement(unit, keep=self.moved.keys(), drop=drop)
        record(Task(unit, stages=row["stages"], **replaced))


def find_changes(paths: Iterable[str], state: RecordedUnits, planner: Planner) -> Changes:
    """Compare files with the recorded ones. paths: as in tables, of those that may have changed.

    Contents are read completely only if the samples of two files agree."""
    seen: dict[str, Identity] = {}
    doubtful = set(paths)
    while doubtful:
        seen |= identities([text_to_path(path) for path in sorted(doubtful)], state, planner)
        doubtful = _related_paths(seen, state) - seen.keys()
    found = Changes(seen)
    for path, identity in sorted(seen.items()):
        content = identity["video_id"]
        if content is None:
            continue
        if _has_moved(content, path, seen, state):
            found.moved.setdefault(content, path)
    for path, identity in seen.items():
        content = identity["video_id"]
        if content is None or found.moved.get(content) == path or not state.ledger.of_path(path):
            continue
        if content not in state.contents_of(path):
            found.changed.add(path)
        elif content not in found.moved and state.stamped(path):  # an older Winnow recorded no stamp to update
            found.touched.add(path)
    return found


def _related_paths(seen: dict[str, Identity], state: RecordedUnits) -> set[str]:
    """Other files that decide whether rows move: recorded paths of the contents, and copies of changed files."""
    more = set()
    for path, identity in seen.items():
        content = identity["video_id"]
        if content is None:
            continue
        left = {path} if content not in state.contents_of(path) else set()  # paths that may have lost their content
        for row in state.ledger.of_content(content)[:1]:
            place = row["video_path"]
            if is_gone(text_to_path(place)):
                left.add(place)
            elif state.may_have_changed(place):
                more.add(place)
        more |= {copy for place in left for copy in state.ledger.copies(place) if not is_gone(text_to_path(copy))}
    return more


def _has_moved(content: str, path: str, seen: dict[str, Identity], state: RecordedUnits) -> bool:
    """Whether the content is recorded, and no longer at its recorded path."""
    rows = state.ledger.of_content(content)
    if not rows or any(row["status"] == "lost" for row in rows):
        return False
    place = rows[0]["video_path"]
    if place == path:
        return False
    if place in seen:
        return seen[place]["video_id"] not in (content, None)
    return is_gone(text_to_path(place))


def _duplicates(state: RecordedUnits, path: str) -> list[str]:
    return [
        f"{row['video_id']}-{row['unit']:04d}" for row in state.ledger.of_path(path) if row["status"] == "duplicate"
    ]
