"""How filters agree with the labels that a person gave to clips: keeping is the answer, good is the truth.

precision: of the labelled clips that are kept, the share that is good. recall: of the good clips, the share that is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.inspector.data.choice import Choice
from pipelines.inspector.data.columns import PLACE, Columns


def agreement(columns: Columns, choice: Choice) -> dict[str, Any]:
    """{good, bad, all, filters, scores}: the whole selection, each filter alone, and for each score the threshold with the
    highest F1."""
    rows = columns.query(f"SELECT {PLACE}, label = 'good' FROM clips WHERE label IS NOT NULL ORDER BY 1")
    places = np.array([row[0] for row in rows], np.int64)
    good = np.array([row[1] for row in rows], bool)
    found: dict[str, Any] = {"good": int(good.sum()), "bad": int((~good).sum()), "filters": [], "scores": []}
    if not len(places):
        return found | {"all": None}
    found["all"] = measured(choice.kept.take(places), good)
    for index, verdict in enumerate(choice.verdicts):
        if verdict.passed is not None:
            found["filters"].append({"index": index, **measured(verdict.passed.take(places), good)})
    if 0 < good.sum() < len(good):
        scores = [
            best(values[places].astype(np.float64), good) | {"column": name} for name, values in columns.values.items()
        ]
        found["scores"] = sorted(
            (s for s in scores if s["threshold"] is not None), key=lambda s: (-s["f1"], s["column"])
        )
    return found


def measured(kept: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """Counts, precision, recall and F1; null where nothing is there to divide by."""
    both, kept_count, good_count = int((kept & good).sum()), int(kept.sum()), int(good.sum())
    return {
        "kept_good": both,
        "kept_bad": kept_count - both,
        "dropped_good": good_count - both,
        "dropped_bad": len(good) - kept_count - good_count + both,
        "precision": both / kept_count if kept_count else None,
        "recall": both / good_count if good_count else None,
        "f1": 2 * both / (kept_count + good_count) if kept_count + good_count else None,
    }


def best(values: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """The threshold on one score with the highest F1 among those that drop a labelled clip; `sign` >= or <=. A null never
    passes. It lies at a labelled clip's value, which passes."""
    there = ~np.isnan(values)
    made: dict[str, Any] = {"threshold": None, "f1": -1.0}
    for sign in (">=", "<="):
        keys = -values[there] if sign == ">=" else values[there]
        order = np.argsort(keys, kind="stable")
        keys, hits = keys[order], np.cumsum(good[there][order])
        ends = np.flatnonzero(np.append(np.diff(keys) > 0, True)) if len(keys) else np.array([], int)
        for end in ends:
            if end + 1 == len(values):  # keeps all
                continue
            f1 = 2 * int(hits[end]) / (end + 1 + int(good.sum()))
            if f1 > made["f1"] + 1e-12:
                threshold = float(-keys[end] if sign == ">=" else keys[end])
                kept = (values >= threshold) if sign == ">=" else (values <= threshold)
                made = {"threshold": threshold, "sign": sign, **measured(kept, good)}
    return made
