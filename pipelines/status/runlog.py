"""What a run tells of itself while it works: DATASET/status.json, events, and metrics.

    DATASET/status.json                replaced every few seconds: counts, what runs now, rates, what it waits for
    DATASET/events/<run>-<n>.jsonl     JSON lines, in parts

The state is bounded, whatever the number of units. A thread of its own writes, so that a store that does not answer
delays no unit; what cannot be written is told once in the log, and stops nothing.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from curate.base.files import DiskError
from curate.base.store import Changed, Store, StoreError, shown
from curate.clip import path_to_text
from pipelines.status.events import Events
from pipelines.status.metrics import Metrics

STATUS = "status.json"
EVERY = 5.0  # s between two states
SHOWN = 20  # longest running units, slowest units, last failures
REASONS = 50  # of failures; the others are counted together
RATE_SECONDS = 300.0  # rates are those of this time
CLOSE_SECONDS = 60.0  # for the last state to be written
OTHER = "other reasons"
LOG = logging.getLogger("winnow")


@dataclass
class _Running:
    """A unit in a worker's hands. limit: seconds that its decode may take, or None."""

    path: str
    worker: str
    pool: str
    footage: float
    limit: float | None
    first: float
    since: float


class RunLog:
    """The account of one run. Every method returns at once and may be called from any thread.

    store: of the dataset, or None: only metrics. run: a name that no other run has.
    """

    def __init__(self, store: Store | None, run: str, every: float = EVERY) -> None:
        self.store, self.run = store, run
        self.every = max(every, store.pause) if store is not None else every
        self.events = Events(store, run) if store is not None else None
        self.metrics = Metrics()
        self._lock = threading.Lock()
        self._began = self._moved = time.time()
        self._planned = [0, 0.0, False]  # units, seconds of footage, whether that is all
        self._already = self._retried = 0
        self._done: Counter[str] = Counter()
        self._work = {"footage": 0.0, "handled": 0.0, "clips": 0, "committed": 0, "shards": 0}
        self._stages: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._failures: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        self._slowest: list[tuple[float, str, str, float]] = []
        self._running: dict[str, _Running] = {}
        self._pools: dict[str, dict[str, Any]] = {}
        self._waiting: tuple[str, float] | None = None
        self._steps: deque[tuple[float, float, int]] = deque([(time.monotonic(), 0.0, 0)])  # when, footage, units
        self._state, self._reason = "running", None
        self._beats, self._version, self._told = 0, None, False
        self._wake, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._event("began", host=socket.gethostname(), pid=os.getpid())
        if store is not None:
            self._thread = threading.Thread(target=self._write_always, daemon=True, name="winnow-status")
            self._thread.start()

    # --- what the driver says

    def planned(self, units: int, seconds: float, final: bool = False) -> None:
        """More units to come, and their seconds of footage; also those that planning itself fails. final: these were the last."""
        with self._lock:
            self._planned = [self._planned[0] + units, self._planned[1] + seconds, self._planned[2] or final]
            self._moved = time.time()
        if final:
            self._event("planned", units=self._planned[0], footage=self._planned[1])

    def already(self, units: int) -> None:
        """How many inputs, in all, have their rows from earlier runs."""
        with self._lock:
            self._already = units

    def started(
        self,
        unit: str,
        path: str,
        worker: str = "",
        *,
        pool: str = "",
        footage: float = 0.0,
        limit: float | None = None,
    ) -> None:
        """A worker has begun with a unit; again for the next pool. limit: seconds that its decode may take."""
        now = time.time()
        with self._lock:
            first = self._running[unit].first if unit in self._running else now
            self._running[unit] = _Running(path_to_text(shown(path)), worker, pool, footage, limit, first, now)
            self._moved = now

    def finished(
        self,
        unit: str,
        status: str,
        *,
        path: str = "",
        footage: float = 0.0,
        clips: int = 0,
        seconds: Mapping[str, float] | None = None,
        error: str | None = None,
    ) -> None:
        """A unit has its result. status: "ok", "failed" or "duplicate". seconds: by stage."""
        now, spent = time.time(), sum((seconds or {}).values())
        with self._lock:
            known = self._running.pop(unit, None)
            path = path_to_text(shown(path)) if path else (known.path if known else "")
            wall = now - known.first if known else spent
            self._done[status] += 1
            self._work["footage"] += footage
            self._work["handled"] += known.footage if known else footage  # as it was planned
            self._work["clips"] += clips
            self._stages.update(seconds or {})
            if status == "failed":
                self._fail(path, error or "no reason was recorded")
            heapq.heappush(self._slowest, (wall, unit, path, footage))
            if len(self._slowest) > SHOWN:
                heapq.heappop(self._slowest)
            self._moved = now
            self._step()
        facts = {"path": path, "status": status, "wall": round(wall, 3), "footage": round(footage, 3), "clips": clips}
        facts |= {"stages": {name: round(value, 3) for name, value in (seconds or {}).items()}}
        facts |= {"worker": known.worker, "pool": known.pool} if known else {}
        self._event("unit", unit=unit, **facts, **({"error": error} if error else {}))
        self.metrics.unit(status, wall, footage, clips, seconds or {})

    def lost(self, unit: str, cause: str, reason: str = "") -> None:
        """A unit was lost with its worker, or by its machine, and is tried again."""
        with self._lock:
            known = self._running.pop(unit, None)
            self._retried += 1
        self._event("lost", unit=unit, cause=cause, reason=reason, worker=known.worker if known else "")
        self.metrics.lost(cause)

    def committed(self, shard: str, units: int, clips: int = 0, size: int = 0) -> None:
        """A worker has put a shard. size: bytes."""
        with self._lock:
            self._work["committed"] += units
            self._work["shards"] += 1
        self._event("committed", shard=shard, units=units, clips=clips, bytes=size)
        self.metrics.committed(units, size)

    def workers(self, pool: str, there: int, wanted: int, waits_for: str = "") -> None:
        """How many workers of a pool work, of how many wanted. waits_for: what the others wait for, e.g. "1 GPU each"."""
        facts = {"there": there, "wanted": wanted, "waits_for": waits_for}
        with self._lock:
            if self._pools.get(pool) == facts:
                return
            self._pools[pool] = facts
        self._event("workers", pool=pool, **facts)
        self.metrics.workers(pool, there, wanted)

    def waiting(self, reason: str | None) -> None:
        """What the whole job waits for; None: it works."""
        with self._lock:
            if reason == (self._waiting[0] if self._waiting else None):
                return
            self._waiting = (reason, time.time()) if reason else None
        self._event("waiting", reason=reason)

    def close(self, state: str = "finished", reason: str | None = None) -> None:
        """The run has ended. state: "finished", "stopped" (with the reason) or "interrupted"."""
        with self._lock:
            if self._ended:
                return
            self._state, self._reason, self._waiting, self._ended = state, reason, None, True
            self._running.clear()
        self._event("ended", state=state, reason=reason, **dict(self._done))
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    # --- what others read

    def state(self) -> dict[str, Any]:
        """The content of status.json. Times in seconds since 1970 by this machine's clock, durations in seconds."""
        now = time.time()
        with self._lock:
            units, footage, final = self._planned
            longest = sorted(self._running.items(), key=lambda item: item[1].since)
            by_units, by_footage = self._rates()
            found = {
                "run": self.run, "state": self._state, "reason": self._reason, "beats": self._beats, "every": self.every,
                "time": now, "began": self._began, "moved": self._moved, "holder": holder(),
                "planned": {"units": units, "footage": footage, "final": final, "already": self._already},
                "done": dict(self._done), **self._work, "lost": self._retried,
                "rate": {"units": by_units, "footage": by_footage},
                "running": {"units": len(longest), "longest": [_running(name, unit, now) for name, unit in longest[:SHOWN]]},
                "slowest": [
                    {"unit": unit, "path": path, "wall": wall, "footage": of}
                    for wall, unit, path, of in sorted(self._slowest, reverse=True)
                ],
                "stages": dict(self._stages.most_common()), "failures": list(self._failures),
                "reasons": dict(self._reasons.most_common()), "pools": dict(self._pools),
                "waiting": {"for": self._waiting[0], "since": self._waiting[1]} if self._waiting else None,
            }  # fmt: skip
        return found | {"left": _left(found), "events": {"parts": self.events.parts, "dropped": self.events.dropped}
                        if self.events else None}  # fmt: skip

    # --- its own

    def _event(self, kind: str, **facts: Any) -> None:
        if self.events is not None:
            self.events.add(kind, **facts)

    def _fail(self, path: str, error: str) -> None:
        self._failures.append({"path": path, "error": error})
        self._reasons[error if error in self._reasons or len(self._reasons) < REASONS else OTHER] += 1

    def _step(self) -> None:
        """Note the totals, at most every hundredth of RATE_SECONDS."""
        now = time.monotonic()
        if now - self._steps[-1][0] >= RATE_SECONDS / 100:
            self._steps.append((now, self._work["handled"], sum(self._done.values())))
        while len(self._steps) > 2 and now - self._steps[1][0] > RATE_SECONDS:
            self._steps.popleft()

    def _rates(self) -> tuple[float, float]:
        """(units, seconds of footage) a second, over the last RATE_SECONDS."""
        when, footage, units = self._steps[0]
        spent = max(time.monotonic() - when, 1e-3)
        return (sum(self._done.values()) - units) / spent, (self._work["handled"] - footage) / spent

    def _write_always(self) -> None:
        with suppress(StoreError, DiskError, OSError):
            self.events.forget_old()
        last = False
        while not last:
            last = self._ended  # before the state is taken: what is written last is the end
            if not self._write(last):
                return
            if not last:
                self._wake.wait(self.every)

    def _write(self, last: bool) -> bool:
        """Write what there is; False where another run writes here now."""
        try:
            if last or self.events.due:
                self.events.flush()
            self._beats += 1
            return self._replace(json.dumps(self.state(), indent=1).encode())
        except (StoreError, DiskError, OSError) as error:
            if not self._told:
                LOG.warning("the status of the run cannot be written (%s): the work goes on", error)
            self._told = True
        return True

    def _replace(self, data: bytes) -> bool:
        try:
            self._version = self.store.replace(STATUS, data, self._version)
        except Changed:  # by a driver that took over, or by a write of ours that seemed to have failed
            found = json.loads(self.store.read(STATUS))
            if found.get("run") != self.run:
                LOG.warning("%s: another run writes here: %s", self.store, found.get("run"))
                return False
            self._version = self.store.head(STATUS).version
        return True


def holder() -> dict[str, Any]:
    """The process that this is, for others to find. machine: of its boot and its process ids; "" where that is not known."""
    machine = ""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        machine = f"{stream.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine}


def _running(name: str, unit: _Running, now: float) -> dict[str, Any]:
    return {
        "unit": name, "path": unit.path, "worker": unit.worker, "pool": unit.pool, "footage": unit.footage,
        "limit": unit.limit, "seconds": now - unit.since, "all_seconds": now - unit.first,
    }  # fmt: skip


def _left(state: Mapping[str, Any]) -> float | None:
    """Seconds that the rest takes at the present rate: by footage, or by units where footage is not known."""
    planned, rate, done = state["planned"], state["rate"], sum(state["done"].values())
    footage, units = planned["footage"] - state["handled"], planned["units"] - done
    if units <= 0:
        return 0.0
    if planned["footage"] > 0 and footage > 0:
        return footage / rate["footage"] if rate["footage"] > 0 else None
    return units / rate["units"] if rate["units"] > 0 else None


__all__ = ["STATUS", "RunLog", "holder"]
