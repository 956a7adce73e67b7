"""Whether a file is still the one that was looked at: its size and time of writing first, its content where these differ."""

from __future__ import annotations

import os
from typing import Any

from curate.video import VideoError, fingerprint

__all__ = ["identify", "stamp"]

TRIES = 3


def stamp(path: str) -> dict[str, int | None]:
    """`bytes` and `modified` (ns since 1970) of a file, as in `VIDEO_COLUMNS`; None both where it cannot be looked at."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return {"bytes": None, "modified": None}
    return {"bytes": found.st_size, "modified": found.st_mtime_ns}


def identify(path: str) -> dict[str, Any]:
    """`video_id`, the fingerprint of the content (None where it cannot be read), and the `stamp` it belongs to.

    A file that is written to while it is read gets another try, so that id and stamp are of one content.
    """
    for _ in range(TRIES):
        before = stamp(path)
        try:
            content = fingerprint(path)
        except (VideoError, OSError, ValueError):
            content = None
        if stamp(path) == before:
            break
    return {"video_id": content, **before}
