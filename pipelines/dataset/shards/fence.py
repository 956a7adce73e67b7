"""What keeps workers of a dead driver out: shards of an earlier run that come after the next one has begun do not count.

    DATASET/fence.json    the run that writes the dataset, or did last, and the shards that were there when it began

A shard counts if it was there then, or is of that run. Whoever holds the lock writes it, before anything else; everything that
it commits, also what it merges, is of its own run. Datasets that were never written by such a run have none.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from curate.base.store import Changed, Store
from pipelines.dataset.files import DatasetError

__all__ = ["FENCE", "Fence", "read_fence", "write_fence"]

FENCE = "fence.json"


@dataclass(frozen=True)
class Fence:
    """run: "" where there is none. shards: names of those that were there when it began."""

    run: str
    shards: Collection[str]
    version: str | None = None

    def admits(self, shard: str, run: str | None) -> bool:
        """Whether a shard of a run counts. Those of older versions name no run."""
        return not self.run or not run or run == self.run or shard in self.shards


def read_fence(store: Store) -> Fence:
    try:
        version = store.head(FENCE).version
        found = json.loads(store.read(FENCE))
    except FileNotFoundError:
        return Fence("", frozenset())
    return Fence(found["run"], frozenset(found["shards"]), version)


def write_fence(store: Store, before: Fence, run: str, shards: Collection[str]) -> None:
    """before: the fence that is there. run: that begins, and holds the lock. shards: names of all that count.

    Raises DatasetError where another run has written one since: this write came too late."""
    data = json.dumps({"run": run, "shards": sorted(shards)}).encode()
    try:
        late = not store.put(FENCE, data) if before.version is None else not store.replace(FENCE, data, before.version)
    except Changed:
        late = True
    if late:
        raise DatasetError(f"{store}: another process has begun to write there: wait for it, or choose another --out")
