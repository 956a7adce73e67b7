"""How many shards, and which clips go in each."""

from __future__ import annotations

import numpy as np

from pipelines.curated.cutting import MapFn, Result
from pipelines.curated.passes import CutAhead
from pipelines.curated.rows import PlannedClips

SAMPLE_CLIPS, SAMPLE_BYTES = 32, 64_000_000  # cut first, to learn how many bytes a clip takes


def bounds_of(clips: PlannedClips, shard_bytes: int, cut: MapFn, ahead: CutAhead) -> tuple[list[int], list[Result]]:
    """The bounds of the shards: contiguous in the shuffled order, of about equal weight.

    The first clips of the order are a random sample: cutting them shows how many bytes a unit of weight takes. What was
    cut is returned too, so that it need not be cut again.
    """
    weights = clips.weights()
    jobs = [clips.job(row) for row in clips.rows(0, SAMPLE_CLIPS)]
    ahead.fill(len(jobs))
    taken = weight = 0.0
    results: list[Result] = []
    for job_weight, result in zip(weights, cut(jobs), strict=False):
        results.append(result)
        if not isinstance(result, str):
            taken, weight = taken + len(result.bytes), weight + job_weight
        if taken > SAMPLE_BYTES:
            break
    total = weights.sum() * (taken / weight if weight else 1.0)
    shards = int(min(max(1, round(total / shard_bytes)), len(weights)))
    ends = np.searchsorted(np.cumsum(weights), weights.sum() * np.arange(1, shards) / shards, side="left") + 1
    return np.unique([0, *ends, len(weights)]).tolist(), results
