"""Metrics of a run through Ray's own Prometheus endpoint; without Ray, none."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

BOUNDARIES = [1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600]  # s, of the histogram of units


class Metrics:
    """Counters and gauges of a run, all of which begin with `winnow_`. They are made when Ray is there, and first needed."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def unit(self, status: str, wall: float, footage: float, clips: int, stages: Mapping[str, float]) -> None:
        self._count("winnow_units", "Units that have a result, by status.", 1, status=status)
        self._count("winnow_footage_seconds", "Seconds of footage of units that have a result.", footage)
        self._count("winnow_clips", "Clips found.", clips)
        for name, seconds in stages.items():
            self._count("winnow_stage_seconds", "Seconds spent by stage.", seconds, stage=name)
        if made := self._metric("Histogram", "winnow_unit_seconds", "Seconds of a unit.", (), boundaries=BOUNDARIES):
            made.observe(wall)

    def lost(self, cause: str) -> None:
        self._count("winnow_lost_units", "Units lost by a machine and tried again, by cause.", 1, cause=cause)

    def committed(self, units: int, size: int) -> None:
        self._count("winnow_committed_units", "Units whose rows are committed.", units)
        self._count("winnow_committed_bytes", "Bytes of committed shards.", size)

    def workers(self, pool: str, there: int, wanted: int) -> None:
        for name, value in (("winnow_workers", there), ("winnow_workers_wanted", wanted)):
            if made := self._metric("Gauge", name, "Workers by pool.", ("pool",)):
                made.set(value, {"pool": pool})

    def _count(self, name: str, text: str, value: float, **tags: str) -> None:
        if value > 0 and (made := self._metric("Counter", name, text, tuple(tags))):
            made.inc(value, tags)

    def _metric(self, kind: str, name: str, text: str, tags: tuple[str, ...], **options: Any) -> Any:
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return None
        if name not in self._made:
            from ray.util import metrics

            self._made[name] = getattr(metrics, kind)(name, description=text, tag_keys=tags, **options)
        return self._made[name]
