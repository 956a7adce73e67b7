"""Identity of files and objects: by size and version or time of writing, and by content where these differ."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any

from curate.base.store import StoreError
from curate.video.opening import VideoError
from curate.video.remote import checksum_seen, entry_of, is_remote, reader, samples, spent

__all__ = [
    "READING",
    "SAMPLED",
    "cheap_checksum",
    "checksum",
    "distinct_id",
    "fingerprint",
    "identify",
    "is_gone",
    "is_readable",
    "same_stamp",
    "stamp",
]

TRIES = 3
SAMPLED = 4 * 1024 * 1024  # bytes of a file beyond which its fingerprint is of samples
READING = 10_000_000  # bytes a second from a slow disk with several readers


def stamp(path: str, *, fresh: bool = True) -> dict[str, Any]:
    """`bytes`, `modified` (ns since 1970) and `version` (ETag; None for a file) as in the videos table; all None where it
    cannot be accessed. fresh: of an object, ask the store even if it was asked a moment ago."""
    try:
        if is_remote(path):
            entry = entry_of(path, fresh=fresh)
            return {"bytes": entry.bytes, "modified": entry.modified, "version": entry.version}
        found = os.stat(path)
    except (OSError, ValueError, StoreError):
        return {"bytes": None, "modified": None, "version": None}
    return {"bytes": found.st_size, "modified": found.st_mtime_ns, "version": None}


def is_gone(path: str) -> bool:
    """Whether there surely is no such file or object any more: where it cannot be asked for, it may be there."""
    try:
        if is_remote(path):
            entry_of(path, fresh=True)
        else:
            os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError, StoreError):
        return False
    return False


def is_readable(path: str) -> bool:
    """Whether this machine may read the file or object. Also True for an object that is gone, since that is so everywhere."""
    if not is_remote(path):
        return os.access(path, os.R_OK)
    try:
        entry_of(path, fresh=True)
    except FileNotFoundError:
        return True
    except StoreError:
        return False
    return True


def same_stamp(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two stamps are of one content: the versions decide where both have one, else the times of writing."""
    by = "version" if one.get("version") and other.get("version") else "modified"
    return one.get("bytes") is not None and all(one.get(name) == other.get(name) for name in ("bytes", by))


def identify(path: str) -> dict[str, Any]:
    """`video_id`, the fingerprint of the content (None where it cannot be read), its `stamp`, and what reading it cost.

    Repeated for a file that is written to meanwhile, so that id and stamp are of one content; of an object, all reads are of
    one version.
    """
    for _ in range(TRIES):
        before = stamp(path)
        try:
            content = fingerprint(path)
        except (VideoError, OSError, ValueError, StoreError):
            content = None
        if is_remote(path) or stamp(path) == before:
            break
    return {"video_id": content, **before, **spent(path)}


def checksum(path: str) -> str:
    """BLAKE2b of the whole file, 32 hex digits. An object is read for it from end to end. Raises OSError, StoreError."""
    with reader(path, through=True) if is_remote(path) else open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def cheap_checksum(path: str) -> str | None:
    """`checksum` of a file, or of an object that was just read; None for others, whose ETag must do. Raises OSError."""
    return checksum_seen(path) if is_remote(path) else checksum(path)


def distinct_id(content: str, checksum: str) -> str:
    """Identity of a file whose fingerprint another file has too, 32 hex digits. checksum: of the file."""
    return content[:16] + hashlib.sha256((content + checksum).encode()).hexdigest()[:16]


def fingerprint(path: str) -> str:
    """Identity of the content, 32 hex digits: of size and content up to 4 MiB, beyond that of 16 blocks of 128 KiB.

    For finding the same file under two names, wherever they lie; not safe against deliberate collisions.
    Raises OSError or StoreError where it cannot be read.
    """
    block, blocks = 128 * 1024, 16
    if is_remote(path):
        size = entry_of(path).bytes
        places = [(start, start + block) for start in ((size - block) * i // (blocks - 1) for i in range(blocks))]
        parts = samples(path, places if size > SAMPLED else [(0, size)])
        return hashlib.sha256(str(size).encode() + b"".join(parts)).hexdigest()[:32]
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
