"""Which clips a stage uses, and the buckets that they go to: found once, and mapped by all workers where there is a cache.

CACHE/plans/<key>.arrow     rows of the buckets, one bucket after the other; beside them their shapes, and the report
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from video_model.data.buckets import Bucket, Size, make_buckets, nearest_size
from video_model.data.mapped import map_columns, write_columns
from video_model.data.rows import Index, number_type
from video_model.data.windows import Rates, Thinned, check_rates, shown
from video_model.errors import DataError


@dataclass(frozen=True)
class BatchSpec:
    """What the batches of a stage are made of.

    frames: lengths of a clip; each clip goes to the longest that it holds. sizes: (height, width) px; each clip goes to the
    nearest proportions. rates: frame rates to choose from, or {"min": ..., "max": ...}; a clip of fewer frames a second gives
    its own. batch: rows over all ranks. images:
    the share of steps that are of single frames (T = 1), of pictures and of random frames of clips. image_batch: rows of
    these, default `batch`. merge: a bucket with fewer clips than a batch joins the next shorter at its size, or is left out
    and counted where there is none; otherwise it is an error. (For sizes: `usable_sizes(train.shape, sizes, batch)`, given
    to the cache and to all batches of a stage alike.) columns: entry of a batch -> the column of the clips that it is read
    from. pixels: whether a batch holds the pixels of first frames, which `workers` processes decode, in `timeout` s each
    at most. Raises DataError.
    """

    frames: Sequence[int]
    sizes: Sequence[Size]
    batch: int
    rates: Rates = (8,)
    images: float = 0.0
    image_batch: int | None = None
    seed: int = 0
    merge: bool = False
    columns: Mapping[str, str] = field(default_factory=lambda: {"motion": "motion_score"})
    pixels: bool = False
    workers: int = 1
    timeout: float = 120.0

    def __post_init__(self) -> None:
        check_rates(self.rates)
        if not self.frames or min(self.frames) < 1 or self.batch < 1 or not 0 <= self.images <= 1 or not self.sizes:
            raise DataError(
                f"frames {list(self.frames)}, sizes {list(self.sizes)}, batch {self.batch}, images {self.images:g}: lengths "
                "and the batch must be at least 1, the share of images between 0 and 1, and a size must be given"
            )


class Latents(Protocol):
    """What is known of latents beforehand. rates, max_frames: how clips are thinned. folder: where what is made of it is kept,
    with `state`, which changes when more is known; None: nowhere."""

    rates: Sequence[float] | None
    max_frames: int | None
    folder: Path | None

    def unusable(self, index: Index, rows: np.ndarray, size: Size) -> Mapping[int, str]:
        """Those of some rows, which are wanted at a size, that have no latents, and why."""


Groups = dict[tuple[int, Size], np.ndarray]  # (frames, size) -> rows, ascending


def buckets_of(
    index: Index, store: Latents, spec: BatchSpec, clips: Thinned
) -> tuple[list[Bucket], list[Bucket], dict[str, Any]]:
    """Buckets of clips, buckets of single frames, and the report. Raises DataError."""
    path = _kept_at(index, store, spec)
    if path is not None and path.exists():
        columns, about = map_columns(path)
        made, image = (
            [Bucket(frames, tuple(size), columns["rows"][a:b]) for frames, size, a, b in about[which]]
            for which in ("buckets", "image_buckets")
        )
        return made, image, about["report"]
    made, image, report = _Sorting(index, store, spec, clips).buckets()
    if path is not None:
        ends = np.cumsum([0, *(len(bucket.rows) for bucket in (*made, *image))]).tolist()
        shapes = [[b.frames, list(b.size), *ends[i : i + 2]] for i, b in enumerate((*made, *image))]
        about = {"buckets": shapes[: len(made)], "image_buckets": shapes[len(made) :], "report": report}
        write_columns(path, {"rows": np.concatenate([bucket.rows for bucket in (*made, *image)])}, about)
    return made, image, report


def _kept_at(index: Index, store: Latents, spec: BatchSpec) -> Path | None:
    if store.folder is None:
        return None
    parts = [
        index.fingerprint, index.report, store.rates, store.max_frames, store.state, spec.frames, spec.sizes,
        spec.rates if isinstance(spec.rates, Mapping) else list(spec.rates),
        spec.batch, spec.image_batch, spec.images, spec.merge,
    ]  # fmt: skip
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return store.folder / "plans" / f"{name}.arrow"


class _Sorting:
    """Rows by length and size. why_not: reason -> how many are not used because of it."""

    def __init__(self, index: Index, store: Latents, spec: BatchSpec, clips: Thinned) -> None:
        self.index, self.store, self.spec, self.clips = index, store, spec, clips
        self.frames, self.sizes = sorted(set(spec.frames)), [tuple(size) for size in spec.sizes]
        self.images = 1.0 if self.frames == [1] else spec.images
        self.why_not: Counter[str] = Counter()
        self.rows: dict[tuple[int, Size], list[np.ndarray]] = {}
        self.stills: dict[tuple[int, Size], list[np.ndarray]] = {}

    def buckets(self) -> tuple[list[Bucket], list[Bucket], dict[str, Any]]:
        for rows in self.index.parts():
            self._sort(rows)
        spec, made, image = self.spec, [], []
        if self.images < 1:
            made = self._made(self.rows, spec.batch)
        if self.images > 0:
            image = self._made(self.stills, spec.image_batch or spec.batch)
        used = np.zeros(len(self.index), bool)
        for bucket in (*made, *image):
            used[bucket.rows] = True
        report = {
            "rows": len(self.index),
            "used": int(used.sum()),
            "without a caption": int((used & self.index.silent).sum()),
            "left out of the sources": dict(self.index.report),
            "skipped": dict(self.why_not.most_common()),
            "buckets": {str(bucket): len(bucket.rows) for bucket in made},
            "image buckets": {str(bucket): len(bucket.rows) for bucket in image},
            "substituted": 0,
        }
        return made, image, report

    def _sort(self, rows: np.ndarray) -> None:
        """Some rows: those of clips that can be used, and of all that can give a single frame."""
        size_of, counts = nearest_size(self.index.shape_of(rows), self.sizes), self.clips.counts(rows)
        fps = np.asarray(self.clips.fps[rows])
        reasons: dict[int, str] = {}
        for i, size in enumerate(self.sizes):
            reasons |= self.store.unusable(self.index, rows[size_of == i], size)
        usable = np.ones(len(rows), bool)
        usable[np.fromiter(reasons, np.int64, len(reasons)) - rows[0]] = False

        def left_out(which: np.ndarray, why: str) -> None:
            reasons.update(dict.fromkeys(rows[which].tolist(), why))

        left_out(usable & (counts < 1), "its number of frames is not known")
        usable &= counts >= 1
        _group(self.stills, rows, np.where(usable, 1, 0), size_of, self.sizes)
        if self.images < 1:
            clip = usable & ~self.index.image_of(rows)
            paced = np.isfinite(fps) & (fps > 0)
            left_out(clip & ~paced, "its frame rate is not known")
            lengths = np.zeros(len(rows), np.int64)
            lengths[clip & paced] = self.clips.longests(rows[clip & paced], self.spec.rates, self.frames)
            short = f"too short for {self.frames[0]} frames at the rates {shown(self.spec.rates)}"
            left_out(clip & paced & (lengths == 0), short)
            _group(self.rows, rows, lengths, size_of, self.sizes)
        self.why_not.update(reasons[row] for row in sorted(reasons))

    def _made(self, found: dict[tuple[int, Size], list[np.ndarray]], batch: int) -> list[Bucket]:
        if not found:
            why = "; ".join(f"{count}: {reason}" for reason, count in self.why_not.most_common()) or "all are pictures"
            raise DataError(f"none of {len(self.index)} clips can be used ({why}); use shorter frames or other rates")
        kind = number_type(len(self.index))
        groups = {key: np.concatenate(parts).astype(kind) for key, parts in found.items()}
        made, left_out = make_buckets(groups, batch, self.spec.merge)
        for bucket, why in left_out:
            self.why_not[why] += len(bucket.rows)
        return made


def _group(
    into: dict[tuple[int, Size], list[np.ndarray]],
    rows: np.ndarray,
    lengths: np.ndarray,
    size_of: np.ndarray,
    sizes: Sequence[Size],
) -> None:
    """Add rows to those of their length and size; not those of length 0."""
    for i, size in enumerate(sizes):
        of_size = size_of == i
        for length in np.unique(lengths[of_size]).tolist():
            if length:
                into.setdefault((length, size), []).append(rows[of_size & (lengths == length)])
