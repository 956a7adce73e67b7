"""Training without a cache: clips are decoded and encoded when they are needed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from cachetools import LRUCache

from video_model.codecs import Codec
from video_model.data.buckets import Size
from video_model.data.decoders import Decoders
from video_model.data.decoding import Job
from video_model.data.reading import Reader
from video_model.data.rows import Index
from video_model.data.windows import Thinned, Window, rate_of
from video_model.encoders import TextEncoder
from video_model.latents.cache import Taken
from video_model.latents.encoding import encode
from video_model.latents.texts import encode_texts

KEEP_TEXTS = 10_000  # states of captions that are kept


class LiveLatents:
    """Latents and text states in place of a `Cache`: the same batches, at the price of decoding and encoding them.

    rates, max_frames: how clips are thinned; give what a cache would have. workers, timeout, memory_gb: of decoding.
    """

    folder = None  # of what is kept

    def __init__(
        self,
        codec: Codec,
        encoder: TextEncoder,
        *,
        rates: Sequence[float] | None = None,
        max_frames: int | None = 128,
        workers: int | None = None,
        timeout: float = 60.0,
        memory_gb: float = 4.0,
    ) -> None:
        self.codec, self.encoder, self.rates, self.max_frames = codec, encoder, rates, max_frames
        self.decoders = Decoders(workers, timeout=timeout, memory_gb=memory_gb)
        self._readers: dict[int, tuple[Index, Reader]] = {}
        self._texts: LRUCache[str, torch.Tensor] = LRUCache(KEEP_TEXTS)
        self._lock = threading.Lock()  # batches are made in a thread of their own

    def unusable(self, index: Index, rows: Any, size: Size) -> dict[int, str]:
        """Nothing is known beforehand."""
        return {}

    def latents(self, index: Index, wanted: Iterable[tuple[int, Size, Window]], clips: Thinned) -> list[Taken | str]:
        """The frames of each (row, size, window), or why there are none."""
        reader = self._reader(index)
        jobs = (
            Job(index.kind(row), replace(clips.stretch(row), window=window), size, reader(row))
            for row, size, window in wanted
        )
        found: list[Taken | str] = []
        for frames in self.decoders(jobs):
            if isinstance(frames, str):
                found.append(frames)
                continue
            found.append(Taken(encode(self.codec, frames.pixels[None])[0], rate_of(frames.times), frames.first))
        return found

    def texts(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """[L, D] float32 of each text."""
        with self._lock:
            return self._states(texts)

    def close(self) -> None:
        """End the decoding processes."""
        self.decoders.close()

    def __enter__(self) -> LiveLatents:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _reader(self, index: Index) -> Reader:
        with self._lock:
            if id(index) not in self._readers:
                self._readers[id(index)] = index, Reader(index)  # holds the index, so that its id is not given again
            return self._readers[id(index)][1]

    def _states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        known = {text: self._texts[text] for text in texts if text in self._texts}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode_texts(self.encoder, new), strict=True))
            self._texts.update(known)
        return [known[text] for text in texts]
