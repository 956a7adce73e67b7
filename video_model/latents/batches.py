"""Batches of latents, captions and conditions. `batch(step)` is a pure function of the seed and the step.

train, held_out = open_index("curated", where="motion_score > 2").split(0.05)
cache = build_cache(train, codec, encoder, "run/cache", sizes=[(64, 64)], rates=[8])
batches = Batches(train, cache, BatchSpec(frames=[8], sizes=[(64, 64)], batch=16, rates=[8], images=0.25))
for batch in batches.iterate(0, 1000):
    ...
"""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from video_model.data.buckets import (
    Bucket,
    Plan,
    Size,
    draws,
    make_buckets,
    nearest_size,
)
from video_model.data.index import Index
from video_model.data.windows import Rates, Thinned, Window, check_kept, check_rates, shown
from video_model.errors import DataError
from video_model.latents.cache import Cache, Taken, pad
from video_model.latents.first_frames import FirstFrames
from video_model.latents.live import LiveLatents


class NoClip(DataError):
    """A clip that has no such frames, and none in its place."""


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


class Batches:
    """Batches of one stage: `batch(step)` of the clips and pictures of an index, whose latents are in a store.

    store: a `Cache`, or `LiveLatents`, which decodes. report: clips that are used, and how many are not by reason. A step is
    either of clips or of single frames. Raises DataError.
    """

    def __init__(self, index: Index, store: Cache | LiveLatents, spec: BatchSpec) -> None:
        self.index, self.store, self.spec = index, store, spec
        self.seed, self.rates = spec.seed, spec.rates
        self.frames, self.sizes = sorted(set(spec.frames)), [tuple(size) for size in spec.sizes]
        if self.frames[-1] > 1:
            check_kept(self.rates, store.rates)
        self.images = 1.0 if self.frames == [1] else spec.images
        self.clips = Thinned(index.num_frames, index.fps, store.rates, store.max_frames)
        self.columns = {name: index.number(column) for name, column in spec.columns.items()}
        self._first_frames = FirstFrames(index, spec.workers, spec.timeout) if spec.pixels else None
        self._why_not: Counter[str] = Counter()
        image_batch = spec.image_batch or spec.batch
        rows, stills = self._sort()
        buckets = self._buckets(rows, spec.batch) if self.images < 1 else []
        image_buckets = self._buckets(stills, image_batch) if self.images > 0 else []
        self.plan = Plan(buckets, spec.batch, self.seed, "clips")
        self.image_plan = Plan(image_buckets, image_batch, self.seed, "images")
        used = np.unique(np.concatenate([bucket.rows for bucket in (*buckets, *image_buckets)]))
        self.report: dict[str, Any] = {
            "rows": len(index),
            "used": len(used),
            "without a caption": int(index.silent[used].sum()),
            "left out of the sources": dict(index.report),
            "skipped": dict(self._why_not.most_common()),
            "buckets": {str(bucket): len(bucket.rows) for bucket in buckets},
            "image buckets": {str(bucket): len(bucket.rows) for bucket in image_buckets},
            "substituted": 0,
        }

    def __len__(self) -> int:
        """Steps in which every clip was offered once: an epoch of the clips, or of single frames where all are."""
        if self.images == 1:
            return self.image_plan.per_epoch
        return math.ceil(self.plan.per_epoch / (1 - self.images))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """The rows of one rank of the global batch of a step.

        latents [B, T, C, h, w] float32; text [B, L, D] and text_mask [B, L] bool; fps [B]: the true mean rate of these frames (0
        for single frames); each of `columns` [B] (nan where unknown, and for single frames); images [B] bool: single frames;
        keys: clip ids; captions; step; and with spec.pixels, pixels [B, 3, H, W] in [-1, 1] of the first frames. B is the
        batch over the world. Raises DataError.
        """
        bucket, rows, still = self._planned(step)
        if len(rows) % world:
            raise DataError(f"batch: {len(rows)} rows cannot be shared by {world}; make it a multiple")
        each = len(rows) // world
        mine = range(rank * each, (rank + 1) * each)
        chosen = [self._draw(step, place, int(rows[place]), bucket.frames) for place in mine]
        found = self.store.latents(self.index, [(row, bucket.size, window) for row, window, _ in chosen], self.clips)
        for i, one in enumerate(found):
            if isinstance(one, str):
                chosen[i], found[i] = self._substitute(step, rows, rank * each + i, bucket, one)
        states, mask = pad(self.store.texts([caption for *_, caption in chosen]))
        taken_from = [row for row, *_ in chosen]
        pixels = {}
        if self._first_frames is not None:
            windows = [replace(c[1], first=taken.first, length=1) for c, taken in zip(chosen, found, strict=True)]
            wanted = [(c[0], bucket.size, window) for c, window in zip(chosen, windows, strict=True)]
            pixels = {"pixels": self._first_frames(wanted, self.clips)}
        return {
            "step": step,
            "latents": torch.stack([taken.latents for taken in found]),
            "text": states,
            "text_mask": mask,
            "fps": torch.tensor([0.0 if still else taken.fps for taken in found], dtype=torch.float32),
            **{
                name: torch.tensor([math.nan if still else values[row] for row in taken_from]).float()
                for name, values in self.columns.items()
            },
            "images": torch.full((each,), still),
            **pixels,
            "keys": [self.index.keys[row] for row in taken_from],
            "captions": [caption for *_, caption in chosen],
        }

    def iterate(self, first: int, last: int, rank: int = 0, world: int = 1, ahead: int = 2) -> Iterator[dict[str, Any]]:
        """The batches of steps first to last - 1; `ahead` of them are made in the background meanwhile.

        What goes wrong there is raised here. Closing the iterator ends the background work.
        """
        made: queue.Queue = queue.Queue(maxsize=max(1, ahead))
        stop = threading.Event()

        def put(item: Any) -> bool:
            while not stop.is_set():
                try:
                    made.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for step in range(first, last):
                    if stop.is_set() or not put(self.batch(step, rank, world)):
                        return
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, name="batches", daemon=True)
        thread.start()
        try:
            for _ in range(first, last):
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()
            self.close()

    def close(self) -> None:
        """End what decodes first frames; it is started again if it is needed."""
        if self._first_frames is not None:
            self._first_frames.close()

    def _planned(self, step: int) -> tuple[Bucket, np.ndarray, bool]:
        """(bucket, rows of the global batch, whether they are single frames). Image steps are spread evenly."""
        before, after = (math.floor(count * self.images + 1e-9) for count in (step, step + 1))
        if after > before:
            return *self.image_plan.at(before), True
        return *self.plan.at(step - before), False

    def _draw(self, step: int, place: int, row: int, length: int, again: int = 0) -> tuple[int, Window, str]:
        """(row, window, caption): decided by seed, step and the place in the global batch."""
        rng = draws(self.seed, "window", step, place, again)
        caption = self.index.caption(row, rng.random())
        if length == 1:
            return row, Window(int(rng.integers(self.clips.count(row))), 1), caption
        return row, self.clips.draw(row, length, self.rates, rng), caption

    def _substitute(self, step: int, rows: np.ndarray, place: int, bucket: Bucket, why: str) -> tuple[Any, Taken]:
        """Another row of the bucket in place of one that could not be decoded; the same one whoever asks."""
        failed = [(int(rows[place]), why)]
        others = bucket.rows[draws(self.seed, "substitute", step, place).permutation(len(bucket.rows))]
        for again, row in enumerate(others[:16], 1):
            if row in rows:
                continue
            drawn = self._draw(step, place, int(row), bucket.frames, again)
            (found,) = self.store.latents(self.index, [(drawn[0], bucket.size, drawn[1])], self.clips)
            if not isinstance(found, str):
                self.report["substituted"] += 1
                self.report["skipped"][why] = self.report["skipped"].get(why, 0) + 1
                return drawn, found
            failed.append((int(row), found))
        key = self.index.keys[failed[0][0]]
        raise NoClip(f"{key}: {why}; nor can {len(failed) - 1} others in its place; make the shards again")

    def _sort(self) -> tuple[list[tuple[int, int, Size]], list[tuple[int, int, Size]]]:
        """(row, frames, size) of the clips that can be used, and of all that can give a single frame."""
        size_of = nearest_size(self.index.shape, self.sizes)
        rows, stills = [], []
        for row, key in enumerate(self.index.keys):
            size, count = self.sizes[size_of[row]], self.clips.count(row)
            if why := self.store.why_not(key, size):
                self._why_not[why] += 1
                continue
            if count < 1:
                self._why_not["its number of frames is not known"] += 1
                continue
            stills.append((row, 1, size))
            if self.index.is_image[row] or self.images == 1:
                continue
            if not self.clips.fps[row]:
                self._why_not["its frame rate is not known"] += 1
                continue
            if length := self.clips.longest(row, self.rates, self.frames):
                rows.append((row, length, size))
            else:
                self._why_not[f"too short for {self.frames[0]} frames at the rates {shown(self.rates)}"] += 1
        return rows, stills

    def _buckets(self, rows: list[tuple[int, int, Size]], batch: int) -> list[Bucket]:
        if not rows:
            why = "; ".join(f"{count}: {reason}" for reason, count in self._why_not.most_common()) or "all are pictures"
            raise DataError(f"none of {len(self.index)} clips can be used ({why}); use shorter frames or other rates")
        made, left_out = make_buckets(rows, batch, self.spec.merge)
        for bucket, why in left_out:
            self._why_not[why] += len(bucket.rows)
        return made
