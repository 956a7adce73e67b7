"""Videos on a store: what is known of an object, readers of it, and what reading it has cost.

What a process knows of an object (size, version, time) is trusted for a minute: every range is read of that version only,
so that a change meanwhile is a lost unit, and never a mixture.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from curate.base.store import Entry, is_remote, locate, store_of
from curate.base.store.blocks import enter, kept
from curate.base.store.ranges import BLOCK, Ranges

__all__ = [
    "add_cost",
    "checksum_seen",
    "entry_of",
    "is_remote",
    "reader",
    "remember",
    "samples",
    "spent",
    "spooled",
    "stand_in",
    "trust",
]

WHOLE = 8 << 20  # bytes of an object that is read by one request by who will read most of it anyway
TRUSTED = 60.0  # s
REMEMBERED = 256  # objects
READERS = 8  # requests at a time for the samples of a fingerprint

READ_LAST = 2  # objects of which a thread remembers blocks

_memory = threading.local()
_entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
_readers: OrderedDict[str, Ranges] = OrderedDict()  # the last that read an object through
_stand_ins: dict[str, tuple[str, Entry]] = {}
_spent: dict[str, list[int]] = {}


def entry_of(url: str, *, fresh: bool = False) -> Entry:
    """Size, version and time of an object. fresh: ask the store now. Raises FileNotFoundError, StoreError."""
    found = _entries.get(url)
    if found is not None and not fresh and time.monotonic() < found[1] + TRUSTED:
        return found[0]
    if url in _stand_ins:
        return _stand_ins[url][1]
    folder, name = locate(url)
    _count(url, 0)
    _entries.pop(url, None)
    if not name:
        raise FileNotFoundError(url)
    entry = store_of(folder).head(name)
    remember(url, entry)
    return entry


def remember(url: str, entry: Entry) -> None:
    """Trust what a listing says of an object."""
    _entries[url] = entry, time.monotonic()
    while len(_entries) > REMEMBERED:
        _entries.popitem(last=False)


def trust(url: str, facts: Mapping[str, Any]) -> None:
    """Read that version of an object only which these facts are of. Nothing for a local file."""
    if is_remote(url) and facts.get("version") and facts.get("bytes") is not None:
        remember(url, Entry(locate(url)[1], facts["bytes"], facts["version"], facts.get("modified")))


def reader(url: str, *, through: bool = False, keep: bool = False) -> Ranges:
    """A stream of an object, or of a file. through: it is read to the end. keep: on this machine's disk, for other processes
    of the job; blocks that are kept already are used in any case. Raises FileNotFoundError, StoreError.
    """
    if not is_remote(url):
        folder, name = locate(os.path.abspath(url))
        return Ranges(store_of(folder), name, store_of(folder).head(name))
    if keep or through:
        enter()
    entry = entry_of(url)
    folder, name = locate(_stand_ins[url][0] if url in _stand_ins else url)
    blocks = kept(url, entry, BLOCK)
    found = Ranges(
        store_of(folder),
        name,
        entry,
        through=through,
        kept=blocks,
        counted=lambda count: _count(url, count),
        held=_held_before(url, entry),
    )
    found.keep = keep
    if (through or keep) and entry.bytes <= WHOLE:
        found.keep = True
        found.fetch(0, entry.bytes)
    if through:
        _readers[url] = found
        while len(_readers) > 2:
            _readers.popitem(last=False)
    return found


def _held_before(url: str, entry: Entry) -> OrderedDict[int, bytes]:
    """Blocks in memory that the last readers of an object had, in this thread: its header and index, most often."""
    blocks: OrderedDict[tuple[str, str], OrderedDict[int, bytes]] = _memory.__dict__.setdefault("blocks", OrderedDict())
    found = blocks.setdefault((url, entry.version), OrderedDict())
    blocks.move_to_end((url, entry.version))
    while len(blocks) > READ_LAST:
        blocks.popitem(last=False)
    return found


def checksum_seen(url: str) -> str | None:
    """BLAKE2b of an object that this process has just read through, 32 hex digits; None where it would have to be read
    again."""
    found = _readers.pop(url, None)
    return found and found.checksum()


def samples(url: str, places: list[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of an object for each place, read side by side."""
    stream = reader(url, keep=True)
    with ThreadPoolExecutor(READERS) as threads:
        list(threads.map(lambda place: stream.fetch(*place), places))
    found = []
    for start, end in places:
        stream.seek(start)
        found.append(stream.exactly(end - start))
    return found


@contextmanager
def spooled(url: str) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """For `stand_in` of another process: a temporary file, and what is known of the object, where only this process sees
    it (memory://); else None."""
    folder, name = locate(url)
    if store_of(folder).shared:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="winnow-") as temporary:
        try:
            entry = store_of(folder).head(name)
        except FileNotFoundError:
            yield None
            return
        path = os.path.join(temporary, os.path.basename(name))
        with open(path, "wb") as file:
            file.write(store_of(folder).read(name))
        yield path, asdict(entry)


def stand_in(url: str, found: tuple[str, dict[str, Any]]) -> None:
    """Read a local file instead of an object that this process cannot see. found: by `spooled`."""
    _stand_ins[url] = found[0], Entry(**found[1])


def spent(url: str) -> dict[str, int | None]:
    """Facts `bytes_read` and `requests` of an object since this was last asked; None for a local file."""
    if not is_remote(url):
        return {"bytes_read": None, "requests": None}
    requests, read = _spent.pop(url, (0, 0))
    return {"bytes_read": read, "requests": requests}


def add_cost(facts: dict[str, Any], cost: Mapping[str, Any]) -> None:
    """Add what `spent` said to facts."""
    for name in ("bytes_read", "requests"):
        if cost.get(name) is not None:
            facts[name] = cost[name] + (facts.get(name) or 0)


def _count(url: str, read: int) -> None:
    found = _spent.setdefault(url, [0, 0])
    found[0] += 1
    found[1] += read
