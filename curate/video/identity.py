"""Identity of files: by size and time of writing, and by content where these differ."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any

from curate.video.opening import VideoError

__all__ = ["READING", "SAMPLED", "checksum", "distinct_id", "fingerprint", "identify", "stamp"]

TRIES = 3
SAMPLED = 4 * 1024 * 1024  # bytes of a file beyond which its fingerprint is of samples
READING = 10_000_000  # bytes a second from a slow disk with several readers


def stamp(path: str) -> dict[str, int | None]:
    """`bytes` and `modified` (ns since 1970) of a file, as in the videos table; both None where it cannot be accessed."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return {"bytes": None, "modified": None}
    return {"bytes": found.st_size, "modified": found.st_mtime_ns}


def identify(path: str) -> dict[str, Any]:
    """`video_id`, the fingerprint of the content (None where it cannot be read), and its `stamp`.

    Repeated for a file that is written to meanwhile, so that id and stamp are of one content.
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


def distinct_id(content: str, checksum: str) -> str:
    """Identity of a file whose fingerprint another file has too, 32 hex digits. checksum: of the file."""
    return content[:16] + hashlib.sha256((content + checksum).encode()).hexdigest()[:16]


def fingerprint(path: str) -> str:
    """Identity of the content, 32 hex digits: of size and content up to 4 MiB, beyond that of 16 blocks of 128 KiB.

    For finding the same file under two names; not safe against deliberate collisions.
    Raises OSError where the file cannot be read.
    """
    block, blocks = 128 * 1024, 16
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "not a regular file", path)  # opening a named pipe would block
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
