"""The states of captions, encoded once; several workers divide those that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from video_model.data.rows import Index, digests_of, first_of_each
from video_model.encoders import TextEncoder
from video_model.latents.cache import DTYPES
from video_model.latents.packed import write_shard
from video_model.latents.places import text_places
from video_model.latents.together import PARTS, Counts, Progress, reporting, seen_alike, work_together
from video_model.memory import ENCODING_HELP, memory_for
from video_model.workers import TrainingWorker, first_goes_ahead

TEXT_BATCH, TEXT_SHARD = 32, 4096  # captions


def build_texts(
    index: Index, encoder: TextEncoder, home: Path, dtype: str, progress: Progress | None, worker: TrainingWorker
) -> None:
    """Encode the captions of an index whose states are not in the folder `home`."""
    captions = Captions(index)

    def look() -> tuple[str, Captions]:
        with first_goes_ahead(worker):
            have = text_places(home)
        missing = captions.select(have.find(captions.high, captions.low) < 0)
        return hashlib.sha256(missing.high.tobytes() + missing.low.tobytes()).hexdigest(), missing

    missing = seen_alike(worker, look, home)
    if not len(missing):
        return
    size = TEXT_SHARD
    if worker.world > 1:
        size = min(size, max(TEXT_BATCH, -(-len(missing) // (PARTS * worker.world))))
    starts = range(0, len(missing), size)
    mine = starts[len(starts) * worker.rank // worker.world : len(starts) * (worker.rank + 1) // worker.world]
    parts = [missing.select(slice(first, first + size)) for first in mine]
    work_together(worker, _encode_texts(parts, encoder, home, dtype), reporting("texts", progress))


class Captions:
    """The captions of an index that can be drawn, each once, in the order in which they come; first of all the empty one.

    high, low: [N] their digests; texts are looked up.
    """

    def __init__(self, index: Index, chosen: Sequence[np.ndarray] | None = None) -> None:
        self.index = index
        self._names = [name for name, share in index.captions.items() if share > 0]
        self.high, self.low, self._column, self._row = chosen or self._distinct()

    def __len__(self) -> int:
        return len(self.high)

    def select(self, which: np.ndarray | slice) -> Captions:
        return Captions(self.index, [values[which] for values in (self.high, self.low, self._column, self._row)])

    def texts(self) -> list[str]:
        pairs = zip(self._column.tolist(), self._row.tolist(), strict=True)
        return [self.index.text_at(self._names[column], row) if column >= 0 else "" for column, row in pairs]

    def _distinct(self) -> Sequence[np.ndarray]:
        parts = [(*digests_of([""]), np.array([-1], np.int8), np.zeros(1, np.int64))]
        for number, name in enumerate(self._names):
            for rows in self.index.parts():
                texts = self.index.texts_at(name, rows)
                said = [i for i, text in enumerate(texts) if text]
                high, low = digests_of(texts[i] for i in said)
                parts.append((high, low, np.full(len(said), number, np.int8), rows[np.array(said, np.int64)]))
        columns = [np.concatenate(values) for values in zip(*parts, strict=True)]
        first = first_of_each(columns[0], columns[1])
        return columns if first is None else [values[first] for values in columns]


def _encode_texts(parts: Sequence[Captions], encoder: TextEncoder, home: Path, dtype: str) -> Iterator[Counts]:
    done, total = 0, sum(map(len, parts))
    for part in parts:
        states, texts = [], part.texts()
        for start in range(0, len(texts), TEXT_BATCH):
            batch = texts[start : start + TEXT_BATCH]
            states += [state.numpy().astype(DTYPES[dtype]) for state in encode_texts(encoder, batch)]
            yield done + len(states), total, 0
        done += len(part)
        offsets = np.cumsum([0, *map(len, states)], dtype=np.int64)
        digests = np.stack([part.high, part.low], 1).view(np.uint8)
        arrays = {"states": np.concatenate(states), "offsets": offsets, "digests": digests}
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]
        write_shard(home / f"{name}.safetensors", arrays, {})


def encode_texts(encoder: TextEncoder, texts: list[str]) -> list[torch.Tensor]:
    """[L, D] float32 states of the tokens that count, of each text."""
    what = f"the text encoder, {len(texts)} captions"
    with torch.no_grad(), memory_for(what, *ENCODING_HELP):
        states, mask = encoder.encode(texts)
    states, mask = states.float().cpu(), mask.bool().cpu()
    return [line[counts] for line, counts in zip(states, mask, strict=True)]
