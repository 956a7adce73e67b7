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
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from video_model.data.buckets import Bucket, Plan, draws
from video_model.data.rows import Index
from video_model.data.windows import Thinned, Window, check_kept
from video_model.errors import DataError
from video_model.latents.cache import Cache, Taken, pad
from video_model.latents.first_frames import FirstFrames
from video_model.latents.live import LiveLatents
from video_model.latents.sorting import BatchSpec, buckets_of


class NoClip(DataError):
    """A clip that has no such frames, and none in its place."""


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
        self.clips = Thinned(index.view("num_frames"), index.view("fps"), store.rates, store.max_frames)
        self.columns = {name: index.view(column) for name, column in spec.columns.items()}
        self._first_frames = FirstFrames(index, spec.workers, spec.timeout) if spec.pixels else None
        image_batch = spec.image_batch or spec.batch
        buckets, image_buckets, self.report = buckets_of(index, store, spec, self.clips)
        self.plan = Plan(buckets, spec.batch, self.seed, "clips")
        self.image_plan = Plan(image_buckets, image_batch, self.seed, "images")

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
            "keys": [self.index.key(row) for row in taken_from],
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
        key = self.index.key(failed[0][0])
        raise NoClip(f"{key}: {why}; nor can {len(failed) - 1} others in its place; make the shards again")


__all__ = ["BatchSpec", "Batches", "NoClip"]
