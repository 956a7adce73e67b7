"""Pixels of the first frame of a window, decoded when they are needed: the cache has latents alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from video_model.data.buckets import Size
from video_model.data.decoders import Decoders
from video_model.data.decoding import Job
from video_model.data.reading import Reader
from video_model.data.rows import Index
from video_model.data.windows import Thinned, Window
from video_model.errors import DataError


class FirstFrames:
    """`first_frames(wanted) -> [B, 3, H, W]` in [-1, 1] of (row, size, window of one frame). Started when first
    asked; a clip is decoded up to that frame."""

    def __init__(self, index: Index, workers: int, timeout: float) -> None:
        self.index, self.workers, self.timeout = index, workers, timeout
        self._lock = threading.Lock()
        self._decoders: Decoders | None = None
        self._reader = Reader(index)

    def __call__(self, wanted: Sequence[tuple[int, Size, Window]], clips: Thinned) -> torch.Tensor:
        with self._lock:
            decoders = self._decoders = self._decoders or Decoders(self.workers, timeout=self.timeout)
            found = []
            for one, frames in zip(wanted, decoders(self._job(*place, clips) for place in wanted), strict=True):
                if isinstance(frames, str):  # a machine may be busy for a while: once more, alone
                    frames = next(iter(decoders([self._job(*one, clips)])))
                if isinstance(frames, str):
                    raise DataError(
                        f"{self.index.key(one[0])}: {frames}, twice, although its latents were made: use the same shards, "
                        "or raise data.decode_seconds"
                    )
                found.append(frames.pixels[0])
        return torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 127.5 - 1

    def _job(self, row: int, size: Size, window: Window, clips: Thinned) -> Job:
        return Job(self.index.kind(row), replace(clips.stretch(row), window=window), size, self._reader(row))

    def close(self) -> None:
        """End the decoding processes."""
        with self._lock:
            if self._decoders is not None:
                self._decoders.close()
                self._decoders = None
