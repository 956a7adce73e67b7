"""Identity of a file's content: the fingerprint of samples, and a checksum where large files share one.

A file over 4 MiB that was edited in place between the samples (raw video, DV) keeps its fingerprint. So if a fingerprint is
recorded already, the checksum of the file decides; if that differs, the content gets an id made of both, with the same
first digits, by which it is found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.clip import text_to_path
from curate.video.identity import SAMPLED, distinct_id
from pipelines.annotation.planning.planner import Identity, Planner
from pipelines.annotation.planning.recorded import RecordedUnits

__all__ = ["identities", "stamps", "tell_apart"]

FINGERPRINT_DIGITS = 16  # first hex digits that ids of one fingerprint share


def identities(paths: Sequence[str], state: RecordedUnits, planner: Planner) -> dict[str, Identity]:
    """Path, as in tables, -> identity, with the recorded `video_id` if the content is recorded.

    `checksum` is set if it was needed to decide. Raises ExecutorError.
    """
    found = planner.identities(paths)
    for path, identity in found.items():
        sampled = (identity["bytes"] or 0) > SAMPLED and identity["video_id"]
        if not sampled:
            continue
        sums = {
            content: recorded_checksum(state.ledger.of_content(content))
            for content in state.ledger.contents_like(sampled[:FINGERPRINT_DIGITS])
        }
        if any(sums.values()) and (checksum := planner.checksum(text_to_path(path))):
            own = distinct_id(sampled, checksum)
            identity["checksum"] = checksum
            first = sampled in sums and sums[sampled] in (checksum, None) and own not in sums
            identity["video_id"] = sampled if first else own  # no two contents get the same id
    return found


def recorded_checksum(rows: Sequence[dict[str, Any]]) -> str | None:
    """The recorded checksum of a content; it is in the row of its first stretch."""
    return next((row["checksum"] for row in rows if row["checksum"]), None)


def tell_apart(path: str, identity: Identity, owner: str, planner: Planner) -> bool:
    """Whether two files with one fingerprint differ; if so, the identity of the first gets its own id.

    path, owner: as in tables. A file whose checksum cannot be read is no copy.
    """
    if (identity["bytes"] or 0) <= SAMPLED:
        return False
    own, other = (planner.checksum(text_to_path(name)) for name in (path, owner))
    if own is None or own == other:
        return False
    identity["video_id"], identity["checksum"] = distinct_id(identity["video_id"], own), own
    return True


def stamps(identity: Identity) -> dict[str, Any]:
    """Facts of a file's units from its identity: size, version, time of writing, and checksum if known."""
    known = ["checksum"] if identity.get("checksum") else []
    return {name: identity[name] for name in ("bytes", "modified", "version", *known)}
