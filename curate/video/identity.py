"""Whether a file is still the one that was looked at: its size and time of writing first, its content where these differ."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any

from curate.video.opening import VideoError

__all__ = ["READING", "SAMPLED", "checksum", "distinct", "fingerprint", "identify", "stamp"]

TRIES = 3
SAMPLED = 4 * 1024 * 1024  # bytes of a file, beyond which its fingerprint is that of samples
READING = 10_000_000  # bytes a second that a slow disk gives to one of several readers


def stamp(path: str) -> dict[str, int | None]:
    """`bytes` and `modified` (ns since 1970) of a file, as in the videos table; None both where it cannot be looked at."""
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


def checksum(path: str) -> str:
    """BLAKE2b of the whole file, 32 hex digits. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def distinct(content: str, whole: str) -> str:
    """Identity of a file whose fingerprint another one has too, 32 hex digits. whole: its checksum."""
    return content[:16] + hashlib.sha256((content + whole).encode()).hexdigest()[:16]


def fingerprint(path: str) -> str:
    """Identity of the content, 32 hex digits: size and whole content up to 4 MiB, else 16 blocks of 128 KiB.

    For finding the same file under two names; not safe against someone who wants two files to look the same.
    Raises OSError where the file cannot be read.
    """
    block, blocks = 128 * 1024, 16
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "not a regular file", path)  # a named pipe would wait for ever
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        total = hashlib.sha256(str(size).encode())
        if size <= SAMPLED:
            total.update(stream.read())
        else:
            for i in range(blocks):
                stream.seek((size - block) * i // (blocks - 1))
                total.update(stream.read(block))
    return total.hexdigest()[:32]
