"""Units of the videos that a job has to open, with second copies marked as duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from curate.base.child import LATE, Lost
from curate.clip import Unit, Video, path_to_text
from curate.watching.isolation import record_loss
from pipelines.annotation.contents import identities, stamps, tell_apart
from pipelines.annotation.planner import Identity, Planner
from pipelines.annotation.recorded import RecordedUnits, duplicate

__all__ = ["plan_videos"]


def plan_videos(
    videos: Sequence[Video], planner: Planner, seen: dict[str, Identity], state: RecordedUnits, progress: Callable
) -> Iterator[Unit]:
    """The units of the videos; second copies are duplicates. seen: the known identities of their files."""
    owners: dict[str, str] = {}
    identified, missing = [], []
    for video in videos:
        path = path_to_text(video.path)
        if path not in seen:  # lost or failed before, and retried
            missing.append(video.path)
    seen |= identities(missing, state, planner, progress)
    for video in videos:
        identified.append(replace(video, video_id=seen[path_to_text(video.path)]["video_id"] or ""))
    for units in planner.units(identified, progress):
        first = units[0]
        path = path_to_text(first.video.path)
        if first.status == "ok" and seen[path]["video_id"] is None:  # identifying it stalled, planning did not
            seen |= identities([first.video.path], state, planner, lambda done, total: None)
            units = [replace(unit, video=replace(unit.video, video_id=seen[path]["video_id"] or "")) for unit in units]
            first = units[0]
        if first.status == "ok" and seen[path]["video_id"] is None:
            yield record_loss(Unit(first.video), Lost("could be opened, but its content not be read", LATE))
            continue
        if first.status == "ok":
            owner = _owner(path, seen[path], owners, state, planner)
            own = seen[path]["video_id"]
            units = [replace(unit, video=replace(unit.video, video_id=own)) for unit in units]
        units = [replace(unit, facts=unit.facts | stamps(seen[path])) for unit in units]
        if first.status == "ok" and owner != path:
            copy = replace(first.video, video_id="")
            yield duplicate(Unit(copy, facts=units[0].facts), owner)
            continue
        yield from units


def _owner(path: str, identity: Identity, owners: dict[str, str], state: RecordedUnits, planner: Planner) -> str:
    """The first file with this content, maybe this one. If only the fingerprints agree, the identity gets its own id."""
    while True:
        content = identity["video_id"]
        owner = owners.setdefault(content, state.owner(content) or path)
        if owner == path or not tell_apart(path, identity, owner, planner):
            return owner
