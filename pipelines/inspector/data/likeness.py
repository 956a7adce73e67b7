"""Clips like one clip, or like a sentence: cosines of image embeddings, read from the shards when they are asked for."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from curate.base.child import Child, Lost
from curate.base.store import StoreError
from curate.base.store.files import opened
from curate.selection.filters import SelectionError
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.inspected import Gone
from pipelines.inspector.data.listing import Find
from pipelines.inspector.data.media import MediaError

EMBEDDING = "image_embedding"
REMEMBERED = 200_000_000  # bytes of cosines


class Likeness:
    """Call it with a Find that has `like` or `sentence`: float32 [N] cosines, NaN where a clip has no embedding."""

    def __init__(self, columns: Columns, encoder: SentenceEncoder) -> None:
        self.columns, self.encoder = columns, encoder
        self.lock = threading.Lock()
        self._known: LRUCache[tuple[str, str], np.ndarray] = LRUCache(
            REMEMBERED, getsizeof=lambda found: min(found.nbytes, REMEMBERED)
        )
        self._rows: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def possible(self) -> bool:
        return EMBEDDING in self.columns.inspected.schema.names

    def __call__(self, find: Find) -> np.ndarray:
        if not self.possible:
            raise SelectionError("the dataset has no image_embedding: annotate with the stage appearance")
        key = find.like, find.sentence
        with self.lock:
            if key not in self._known:
                self._known[key] = self._cosines(self._asked(find))
            return self._known[key]

    def _asked(self, find: Find) -> np.ndarray:
        if find.like:
            place = self.columns.place(find.like)
            path, row = self.columns.files[self.columns.file[place]], int(self.columns.row[place])
            value = _embeddings(path)[row].as_py()
            if value is None:
                raise SelectionError(f"{find.like}: has no embedding: its errors name the reason")
            vector = np.asarray(value, np.float32)
        else:
            vector = self.encoder.encode(self.columns.inspected.config, find.sentence)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)

    def _cosines(self, vector: np.ndarray) -> np.ndarray:
        found = np.full(self.columns.count, np.nan, np.float32)
        if self._rows is None:
            order = np.lexsort((self.columns.row, self.columns.file))
            self._rows = order, np.searchsorted(self.columns.file[order], np.arange(len(self.columns.files) + 1))
        order, starts = self._rows
        for number, path in enumerate(self.columns.files):
            places = order[starts[number] : starts[number + 1]]
            column = _embeddings(path).combine_chunks().take(pa.array(self.columns.row[places]))
            there = np.asarray(column.value_lengths().fill_null(0)) == len(vector)
            if there.any():
                rows = column.filter(pa.array(there)).flatten().to_numpy().reshape(-1, len(vector)).astype(np.float32)
                norms = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
                found[places[there]] = rows @ vector / norms
        return found


def _embeddings(path: str) -> pa.ChunkedArray:
    """Of all clips of a shard. Raises Gone, MediaError."""
    try:
        with opened(path) as stream:
            return pq.read_table(stream, columns=[EMBEDDING], use_threads=False)[EMBEDDING]
    except FileNotFoundError:
        raise Gone(path) from None
    except (OSError, StoreError) as error:
        raise MediaError(f"{path}: cannot be read: {error}") from None


class SentenceEncoder:
    """The pack's text encoder, in a child process that is started at the first sentence and stays."""

    def __init__(self) -> None:
        self.child = Child("pipelines.inspector.data.likeness", timeout=300.0, memory_gb=6.0, name="text encoder")
        self.lock = threading.Lock()

    def encode(self, config: dict[str, Any], sentence: str) -> np.ndarray:
        with self.lock:
            try:
                made = self.child.ask({"config": config, "sentence": sentence})
            except Lost as lost:
                raise SelectionError(f"the text encoder cannot be used: {lost}") from None
        return np.asarray(made["vector"], np.float32)

    def close(self) -> None:
        self.child.close()


_embedders: dict[str, Any] = {}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the child process does."""
    from pipelines.annotation.models import ModelCache
    from pipelines.config import load_recorded

    config = load_recorded(request["config"], "dataset.json")
    if config.embedder is None or config.embedder.kind != request["config"]["embedder"]["kind"]:
        raise ValueError("the dataset's embedder is a plugin's, which the inspector does not run")
    key = config.embedder.model_dump_json()
    if key not in _embedders:
        _embedders[key] = ModelCache(config).get(config.embedder)
    return {"vector": _embedders[key].texts([request["sentence"]])[0].astype(float).tolist()}
