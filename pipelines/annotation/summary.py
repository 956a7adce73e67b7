"""The counts of a run. What can be many is counted; of what is told by name the first are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipelines.annotation.tasks import Report
from pipelines.sources.folders import SkippedFiles

__all__ = ["MOST", "Summary"]

MOST = 1000  # failures that are kept with their names; `videos/` has all


@dataclass
class Summary:
    """Counts of one run. already, failed_before: videos recorded before, and the failed ones of them. footage: seconds.

    bytes_read, requests: of the sources' store. changed: videos whose file has other content than recorded. moved: those found at another path. failed, lost_videos:
    videos of which a unit failed, or was lost. failures, earlier, lost: (path, reason) of the first `MOST` units that
    failed now, failed before, and were lost. reasons: how many failed or were lost for each.
    """

    videos: int = 0
    already: int = 0
    failed: int = 0
    failed_before: int = 0
    lost_videos: int = 0
    duplicates: int = 0
    warned: int = 0
    clips: int = 0
    clip_failures: int = 0
    changed: int = 0
    moved: int = 0
    footage: float = 0.0
    bytes_read: int = 0
    requests: int = 0
    wall: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    earlier: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    long: set[tuple[str, str]] = field(
        default_factory=set
    )  # (status, path) of long videos, of which several units fail

    @property
    def anything_failed(self) -> bool:
        """Whether videos failed, now or earlier, stages failed on clips of this run, or units were lost."""
        return bool(self.failed or self.failed_before or self.clip_failures or self.lost)

    @property
    def nothing_to_do(self) -> bool:
        return not (self.videos or self.clips or self.failures or self.lost or self.moved or self.changed)

    def count(self, unit: Report) -> None:
        self.videos += unit.index == 0
        self.clips += unit.clips
        self.footage += unit.footage if unit.status == "ok" else 0.0
        self.warned += unit.warned
        self.bytes_read += unit.bytes_read
        self.requests += unit.requests
        self.duplicates += unit.status == "duplicate"
        self.clip_failures += unit.clip_failures
        if unit.status in ("failed", "lost"):
            self._unlucky(unit)

    def count_earlier(self, path: str, reason: str, first: bool) -> None:
        """Count a failure of an earlier run. first: of its video."""
        self.failed_before += first
        _keep(self.earlier, path, reason)

    def with_earlier(self, other: Summary) -> Summary:
        """With the counts of a process before this one, whose units are recorded and so were found as done already."""
        for name in ("videos", "duplicates", "warned", "clips", "clip_failures", "footage"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.already = max(0, self.already - other.videos)
        self.failed_before = max(0, self.failed_before - other.failed)
        self.failed += other.failed
        self.failures = (other.failures + self.failures)[:MOST]
        self.reasons += other.reasons
        return self

    def plain(self) -> dict[str, Any]:
        """As plain values, to cross a process boundary."""
        skipped = {"suffixes": dict(self.skipped.suffixes), "others": dict(self.skipped.others)}
        skipped["examples"] = self.skipped.examples
        return {**self.__dict__, "long": [], "reasons": dict(self.reasons), "skipped": skipped}

    @classmethod
    def of_plain(cls, values: dict[str, Any]) -> Summary:
        """The inverse of `plain`."""
        found = cls(**values)
        for name in ("failures", "earlier", "lost"):
            setattr(found, name, [(path, reason) for path, reason in getattr(found, name)])
        found.reasons, found.long = Counter(found.reasons), set()
        skipped = values["skipped"]
        found.skipped = SkippedFiles(Counter(skipped["suffixes"]), Counter(skipped["others"]), skipped["examples"])
        return found

    def _unlucky(self, unit: Report) -> None:
        reason = unit.error or "no reason was recorded"
        if len(self.reasons) < MOST or reason in self.reasons:
            self.reasons[reason] += 1
        told = (unit.status, unit.path)
        first = unit.count == 1 or told not in self.long
        if unit.count > 1:
            self.long.add(told)
        if unit.status == "failed":
            self.failed += first
            _keep(self.failures, unit.path, reason)
        else:
            self.lost_videos += first
            _keep(self.lost, unit.path, reason)


def _keep(examples: list[tuple[str, str]], path: str, reason: str) -> None:
    if len(examples) < MOST:
        examples.append((path, reason))
