"""Which content a file has: its fingerprint, of samples, and for large files that agree in it the whole of them.

A file over 4 MiB that was edited in place between the samples, with its size kept (raw video, DV), has the fingerprint that
it had. So where a fingerprint is known already the checksum of the whole file decides; where it differs the content gets an
id of its own, made of both. Ids begin alike then, which is how they are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from curate.clip import text_to_path
from curate.video.identity import SAMPLED, distinct_id
from pipelines.annotation.planner import Identity, Planner
from pipelines.annotation.recorded import RecordedUnits

__all__ = ["identities", "stamps", "tell_apart"]

ALIKE = 16  # hex digits that ids of one fingerprint begin with


def identities(
    paths: Sequence[str], state: RecordedUnits, planner: Planner, progress: Callable[[int, int], None]
) -> dict[str, Identity]:
    """Path, as in tables, -> identity, with `video_id` as it is recorded where the content is recorded.

    Where it took the whole file to tell, `checksum` is set. Raises ExecutorError.
    """
    found = planner.identities(paths, progress)
    known: dict[str, list[str]] = {}
    for content in state.contents:
        known.setdefault(content[:ALIKE], []).append(content)
    for path, identity in found.items():
        sampled = (identity["bytes"] or 0) > SAMPLED and identity["video_id"]
        if not sampled:
            continue
        sums = {content: recorded(state.contents[content]) for content in known.get(sampled[:ALIKE], ())}
        if any(sums.values()) and (whole := planner.checksum(text_to_path(path))):
            own = distinct_id(sampled, whole)
            identity["checksum"] = whole
            first = sampled in sums and sums[sampled] in (whole, None) and own not in sums
            identity["video_id"] = sampled if first else own  # an id is never given to a second content
    return found


def recorded(rows: Sequence[dict[str, Any]]) -> str | None:
    """The checksum that one of the rows of a content has: that of its first stretch."""
    return next((row["checksum"] for row in rows if row["checksum"]), None)


def tell_apart(path: str, identity: Identity, owner: str, planner: Planner) -> bool:
    """Whether two files with one fingerprint differ; the identity of the first has an id of its own then.

    path, owner: as in tables. What cannot be read whole is not taken for a copy.
    """
    if (identity["bytes"] or 0) <= SAMPLED:
        return False
    own, other = (planner.checksum(text_to_path(name)) for name in (path, owner))
    if own is None or own == other:
        return False
    identity["video_id"], identity["checksum"] = distinct_id(identity["video_id"], own), own
    return True


def stamps(identity: Identity) -> dict[str, Any]:
    """Facts of a file's units: what the file was when it was identified."""
    whole = ["checksum"] if identity.get("checksum") else []
    return {name: identity[name] for name in ("bytes", "modified", *whole)}
