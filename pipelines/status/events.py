"""The events of a run as JSON lines: a bounded number of parts, whatever the number of units.

A part is put when it is large, or when it is old; the age that it may reach grows with the run's, so that a day's run and a
month's have some hundreds of parts each.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from curate.base.store import Store

FOLDER = "events"
PART_BYTES = 8 << 20  # of a part; 10 million units are about 300 parts
MOST_BYTES = 32 << 20  # held while a store does not answer; then the oldest are dropped, and counted
FIRST_AGE = 10.0  # s, of a part that is put though it is small ...
AGE_SHARE = 0.03  # ... or this share of the run's age, whichever is longer
KEPT = 2000  # parts of a dataset, of all its runs


class Events:
    """Collects lines and puts them as parts. `add` never waits for the store; `flush` does. Both may be called at once."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.parts = self.dropped = 0
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._began = self._flushed = time.monotonic()

    def add(self, kind: str, **facts: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), "run": self.run, "event": kind} | facts, default=str) + "\n"
        with self._lock:
            self._lines.append(line.encode())
            self._bytes += len(line)
            while self._bytes > MOST_BYTES:
                self._bytes -= len(self._lines.popleft())
                self.dropped += 1

    @property
    def due(self) -> bool:
        now = time.monotonic()
        age = max(FIRST_AGE, AGE_SHARE * (now - self._began))
        return bool(self._lines) and (self._bytes >= PART_BYTES or now - self._flushed >= age)

    def flush(self) -> None:
        """Put what was collected as one part. Raises StoreError, DiskError; nothing is forgotten then."""
        with self._lock:
            taken = list(self._lines)
        if not taken:
            return
        while not self.store.put(f"{FOLDER}/{self.run}-{self.parts:06d}.jsonl", b"".join(taken)):
            self.parts += 1  # an attempt of ours that seemed to have failed
        self.parts += 1
        self._flushed = time.monotonic()
        with self._lock:
            for line in taken:
                if self._lines and self._lines[0] is line:
                    self._bytes -= len(self._lines.popleft())

    def forget_old(self) -> None:
        """Delete the oldest parts of earlier runs beyond `KEPT`."""
        found = sorted(self.store.list(f"{FOLDER}/"), key=lambda entry: (entry.modified or 0, entry.name))
        for entry in found[: max(0, len(found) - KEPT)]:
            self.store.delete(entry.name)


def read_events(store: Store, run: str) -> list[Mapping[str, Any]]:
    """The events of a run, in order. For tests and short runs: DuckDB's read_json reads the parts of long ones."""
    lines = (line for entry in store.list(f"{FOLDER}/{run}-") for line in store.read(entry.name).splitlines())
    return [json.loads(line) for line in lines]


__all__ = ["FOLDER", "Events", "read_events"]
