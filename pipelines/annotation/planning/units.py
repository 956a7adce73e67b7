"""Units of the videos that a job has to open, with second copies marked as duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from curate.base.child import LATE, Lost
from curate.clip import Unit, Video, path_to_text
from curate.video.remote import add_cost
from curate.watching.isolation import record_loss
from pipelines.annotation.planning.contents import identities, stamps, tell_apart
from pipelines.annotation.planning.planner import Identity, Planner
from pipelines.annotation.planning.recorded import RecordedUnits, duplicate

__all__ = ["plan_videos"]


def plan_videos(
    videos: Sequence[Video], planner: Planner, seen: dict[str, Identity], state: RecordedUnits
) -> Iterator[list[Unit]]:
    """The units of each video; a second copy is one duplicate. seen: the known identities of their files."""
    missing = [video.path for video in videos if path_to_text(video.path) not in seen]  # lost or failed before
    seen |= identities(missing, state, planner)
    named = [replace(video, video_id=seen[path_to_text(video.path)]["video_id"] or "") for video in videos]
    for units in planner.units(named):
        yield _identified(units, planner, seen, state)


def _identified(units: list[Unit], planner: Planner, seen: dict[str, Identity], state: RecordedUnits) -> list[Unit]:
    """The units of one video with the identity of its content."""
    path = path_to_text(units[0].video.path)
    opened = units[0].status == "ok"
    if opened and seen[path]["video_id"] is None:  # identifying it stalled, planning did not
        seen |= identities([units[0].video.path], state, planner)
    if opened and seen[path]["video_id"] is None:
        return [record_loss(Unit(units[0].video), Lost("could be opened, but its content not be read", LATE))]
    owner = _owner(path, seen[path], state, planner) if opened else path
    if opened:
        units = [replace(unit, video=replace(unit.video, video_id=seen[path]["video_id"])) for unit in units]
    units = [replace(unit, facts=unit.facts | stamps(seen[path])) for unit in units]
    add_cost(units[0].facts, seen[path])
    if owner != path:
        return [duplicate(Unit(replace(units[0].video, video_id=""), facts=units[0].facts), owner)]
    return units


def _owner(path: str, identity: Identity, state: RecordedUnits, planner: Planner) -> str:
    """The first file with this content, maybe this one. If only the fingerprints agree, the identity gets its own id."""
    while True:
        content = identity["video_id"]
        owner = state.ledger.claim(content, state.owner(content) or path)
        if owner == path or not tell_apart(path, identity, owner, planner):
            return owner
