"""Where the latents of each clip lie, or the states of each caption: by the digest of its name, in a file that workers map.

HOME/places-<key>.arrow is made of the headers of all shards that are there; the key is that of their names and sizes.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache

from video_model.data.mapped import map_columns, write_columns
from video_model.data.rows import digests_of, first_of_each
from video_model.latents.packed import map_shard, read_about

KEPT = 2048  # shards that are mapped at once, of one kind; a process may have some 65,000 maps
OLD = 7 * 86_400  # seconds after which a file of places that was replaced is deleted: others may have it mapped


class Sorted:
    """Digests [N], to be found again. order: of the given ones; None: they are sorted by their upper half."""

    def __init__(self, high: np.ndarray, low: np.ndarray, order: np.ndarray | None = None) -> None:
        self.high, self.low, self.order = high, low, order

    @classmethod
    def of(cls, high: np.ndarray, low: np.ndarray) -> Sorted:
        order = np.argsort(high, kind="stable")
        return cls(high[order], low[order], order)

    def find(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """[M] int: where each digest is; -1: it is not there."""
        if not len(self.high):
            return np.full(len(high), -1)
        at = np.searchsorted(self.high, high)
        found = np.full(len(high), -1)
        open_ = np.arange(len(high))
        while len(open_):  # of digests with the same upper half there are hardly ever two
            at_, last = at[open_], len(self.high) - 1
            alike = (at_ <= last) & (self.high[np.minimum(at_, last)] == high[open_])
            open_, at_ = open_[alike], at_[alike]
            same = self.low[at_] == low[open_]
            found[open_[same]] = at_[same]
            open_ = open_[~same]
            at[open_] += 1
        return found if self.order is None else np.where(found < 0, -1, self.order[found])


class Places:
    """What some shards hold. skipped: name -> why there is nothing, of clips. state: of the shards' names and sizes."""

    def __init__(self, home: Path, shards: Sequence[str], read: Callable[[Path], Any]) -> None:
        """read(shard) -> (high, low, first, count of each, skipped), where shards are below `home`."""
        self.home, self.state = home, state_in(home, shards)
        path = home / f"places-{self.state}.arrow"
        if not path.exists():
            _write(path, home, shards, read)
        columns, about = map_columns(path)
        self._sorted = Sorted(columns["high"], columns["low"])
        self._shard, self._first, self._count = columns["shard"], columns["first"], columns["count"]
        self._shards, self.skipped = about["shards"], about["skipped"]
        self._maps: LRUCache[int, dict[str, np.ndarray]] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def find(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """[M] int: the place of each; -1: it was never tried."""
        return self._sorted.find(high, low)

    def holds(self, places: np.ndarray) -> np.ndarray:
        """[M] bool: whether there is something; not for what was skipped."""
        return (places >= 0) & (self._count[np.maximum(places, 0)] >= 0) if len(self._count) else places >= 0

    def read(self, place: int) -> tuple[dict[str, np.ndarray], int, int]:
        """(arrays of the shard, first, count)."""
        shard = int(self._shard[place])
        with self._lock:
            arrays = self._maps.get(shard)
            if arrays is None:
                arrays = self._maps[shard] = map_shard(self.home / self._shards[shard])
        return arrays, int(self._first[place]), int(self._count[place])


def latent_places(home: Path, identities: Sequence[str]) -> Places:
    """Of the clips of some data files."""
    return Places(home, latent_shards(home, identities), _clips_in)


def text_places(home: Path) -> Places:
    return Places(home, names_in(home), _texts_in)


def latent_shards(home: Path, identities: Sequence[str]) -> list[str]:
    return [f"{identity}/{name}" for identity in dict.fromkeys(identities) for name in names_in(home / identity)]


def names_in(folder: Path) -> list[str]:
    """Shards in a folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(e.name for e in found if e.name.endswith(".safetensors") and not e.name.startswith("."))
    except FileNotFoundError:
        return []


def state_in(home: Path, shards: Sequence[str]) -> str:
    """Of these shards and their sizes: one that was cut short since is looked at again, and told."""
    return state_of([f"{name} {_size(home / name)}" for name in shards])


def _size(shard: Path) -> int:
    try:
        return shard.stat().st_size
    except FileNotFoundError:
        return -1


def state_of(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _write(path: Path, home: Path, shards: Sequence[str], read: Callable[[Path], Any]) -> None:
    parts, skipped = [], {}
    for number, name in enumerate(shards):
        high, low, first, count, why = read(home / name)
        parts.append((high, low, np.full(len(high), number, np.int32), first, count))
        skipped |= why
    kinds = np.uint64, np.uint64, np.int32, np.int64, np.int32
    columns = [
        np.concatenate([np.empty(0, kind), *(part[i] for part in parts)]).astype(kind) for i, kind in enumerate(kinds)
    ]
    last = first_of_each(columns[0][::-1], columns[1][::-1])  # of what is there twice
    if last is not None:
        columns = [column[::-1][last] for column in columns]
    order = np.argsort(columns[0], kind="stable")
    names = ("high", "low", "shard", "first", "count")
    about = {"shards": list(shards), "skipped": skipped}
    write_columns(path, {name: column[order] for name, column in zip(names, columns, strict=True)}, about)
    for other in home.glob("places-*.arrow"):
        if other != path and time.time() - other.stat().st_mtime > OLD:
            other.unlink(missing_ok=True)


def _clips_in(shard: Path) -> Any:
    about = read_about(shard)
    clips, skipped = about["clips"], about["skipped"]
    high, low = digests_of([*clips, *skipped])
    spans = np.array([*clips.values(), *([0, -1] for _ in skipped)], np.int64).reshape(-1, 2)
    return high, low, spans[:, 0], spans[:, 1], skipped


def _texts_in(shard: Path) -> Any:
    arrays = map_shard(shard)
    high, low = np.ascontiguousarray(arrays["digests"]).view("<u8").reshape(-1, 2).T
    offsets = arrays["offsets"]
    return high, low, offsets[:-1], np.diff(offsets), {}
