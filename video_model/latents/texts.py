"""The states of captions, encoded once; several workers divide those that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from video_model.data.index import Index
from video_model.encoders import TextEncoder
from video_model.latents.cache import DTYPES, digest, shards_in
from video_model.latents.packed import map_shard, write_shard
from video_model.latents.together import PARTS, Counts, Progress, reporting, seen_alike, work_together
from video_model.memory import ENCODING_HELP, memory_for
from video_model.workers import TrainingWorker

TEXT_BATCH, TEXT_SHARD = 32, 4096  # captions


def build_texts(
    index: Index, encoder: TextEncoder, home: Path, dtype: str, progress: Progress | None, worker: TrainingWorker
) -> None:
    """Encode the captions of an index whose states are not in the folder `home`."""
    columns = [index.rows[name] for name, share in index.captions.items() if share > 0]
    wanted = {"": None} | {text: None for column in columns for text in column.unique().to_pylist() if text}

    def look() -> tuple[str, list[str]]:
        have = {name.tobytes() for path in shards_in(home) for name in map_shard(path)["digests"]}
        missing = [text for text in wanted if digest(text) not in have]
        return hashlib.sha256(b"".join(map(digest, missing))).hexdigest(), missing

    missing = seen_alike(worker, look, home)
    if not missing:
        return
    size = TEXT_SHARD
    if worker.world > 1:
        size = min(size, max(TEXT_BATCH, -(-len(missing) // (PARTS * worker.world))))
    parts = [missing[first : first + size] for first in range(0, len(missing), size)]
    mine = parts[len(parts) * worker.rank // worker.world : len(parts) * (worker.rank + 1) // worker.world]
    work_together(worker, _encode_texts(mine, encoder, home, dtype), reporting("texts", progress))


def _encode_texts(parts: Sequence[list[str]], encoder: TextEncoder, home: Path, dtype: str) -> Iterator[Counts]:
    done, total = 0, sum(map(len, parts))
    for part in parts:
        states = []
        for start in range(0, len(part), TEXT_BATCH):
            states += [s.numpy().astype(DTYPES[dtype]) for s in encode_texts(encoder, part[start : start + TEXT_BATCH])]
            yield done + len(states), total, 0
        done += len(part)
        offsets = np.cumsum([0, *map(len, states)], dtype=np.int64)
        digests = np.frombuffer(b"".join(map(digest, part)), np.uint8).reshape(-1, 16)
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
