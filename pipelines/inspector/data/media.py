"""Pictures and clips by id: stills out of the shards, clips cut from their source on demand and kept in a bounded cache.

No name that a browser sends reaches the file system: an id is looked up among the dataset's own, and what is opened is the
shard that its row lies in, the source that its row records, and cache files named by a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from curate.base.files import write_atomic
from curate.base.store import StoreError, is_remote, join, locate, store_of
from curate.base.store.files import opened
from curate.clip import text_to_path
from curate.export.extract import Span
from pipelines.curated.cutting import CutJob, CutterError, Cutters
from pipelines.curated.plan.planned import job_of
from pipelines.inspector.data.columns import Columns
from pipelines.inspector.data.inspected import Gone

STILLS = ("first", "middle", "last")
PLAYABLE = {"h264", "vp9", "av1", "libdav1d"}  # in browsers without licences; copied where they are 8-bit 4:2:0
PLAIN_PIXELS = {"yuv420p", "yuvj420p"}
GROUPS_BYTES, OPEN_FILES, STRIPES = 64_000_000, 48, 16
CACHE_BYTES = 1_000_000_000
SPAN = ("start_frame", "end_frame", "start_time", "end_time")
FACTS = (
    "codec",
    "pixel_format",
    "bytes",
    "modified",
    "version",
    "checksum",
    "first_packet",
    "first_pts",
    "first_frame",
    "unit_start",
)


class MediaError(Exception):
    """A clip or a still that cannot be shown. One line."""


class Media:
    def __init__(self, columns: Columns, clips: ClipCache) -> None:
        self.columns, self.clips = columns, clips
        self.inspected = columns.inspected
        self.lock = threading.Lock()
        self._reading = [
            threading.Lock() for _ in range(STRIPES)
        ]  # of shards, by their names: several are read at once
        self._files: LRUCache[str, tuple[pq.ParquetFile, np.ndarray]] = LRUCache(OPEN_FILES)
        # One row group that is larger than all that may be held is held alone.
        self._groups: LRUCache[tuple[str, int, str], Any] = LRUCache(
            GROUPS_BYTES, getsizeof=lambda values: min(values.nbytes, GROUPS_BYTES)
        )

    def still(self, place: int, which: str) -> bytes | None:
        """JPEG bytes; None where the clip has none."""
        column = f"still_{which}"
        if which not in STILLS or column not in self.inspected.schema.names:
            return None
        return self._value(place, column)

    def clip(self, place: int) -> Path:
        """An mp4 file in the cache. Raises MediaError."""
        clip_id = self.columns.id(place)
        if self.inspected.kind == "curated":
            key = [self.inspected.root, clip_id, self.inspected.state]
            return self.clips.get(key, lambda: self._value(place, "video")["bytes"])
        there = [name for name in ("clock",) if name in self.inspected.schema.names]  # not in datasets of old
        (row,) = self.columns.rows([place], [*SPAN, *there, "video_path", "video_id", "unit"])
        path = text_to_path(row["video_path"])
        version = _version(path, row["video_path"])
        video = self.video_row(place, row["video_id"], row["unit"], list(FACTS))
        plan = row | {name if name in ("codec", "pixel_format") else f"_{name}": video.get(name) for name in FACTS}
        options = {} if _plays(plan) else {"codec": "h264", "size": 480, "crf": 23, "preset": "ultrafast"}
        job = job_of(plan | {"clip_id": clip_id, "_keyframes": None}, options)
        key = [clip_id, row["video_path"], *version, asdict(job.span), options]
        return self.clips.get(key, lambda: self.clips.cut(job))

    def video_row(self, place: int, video_id: str, unit: int, names: list[str]) -> dict[str, Any]:
        """The row of videos/ of the unit that a clip lies in: it is in the twin of the clip's shard. {} without one."""
        if self.inspected.kind != "annotated":
            return {}
        file = int(self.columns.file[place])
        rows, _ = video_rows(self.columns, file, lambda has: [n for n in names if n in has.names], video_id, unit)
        return rows[0] if rows else {}

    def _value(self, place: int, column: str) -> Any:
        path, row = self.columns.files[self.columns.file[place]], int(self.columns.row[place])
        with self._reading[hash(path) % STRIPES]:
            try:
                file, ends = self._known(self._files, path, lambda: _open(path))
                group = int(np.searchsorted(ends, row, side="right"))
                values = self._known(
                    self._groups,
                    (path, group, column),
                    lambda: file.read_row_group(group, columns=[column], use_threads=False)[column],
                )
            except FileNotFoundError:
                raise Gone(path) from None
            except (OSError, StoreError) as error:
                raise MediaError(f"{path}: cannot be read: {error}") from None
            return values[row - (int(ends[group - 1]) if group else 0)].as_py()

    def _known(self, cache: LRUCache, key: Any, make: Callable[[], Any]) -> Any:
        with self.lock:
            if key in cache:
                return cache[key]
        made = make()
        with self.lock:
            cache[key] = made
        return made


def _open(path: str) -> tuple[pq.ParquetFile, np.ndarray]:
    """A shard, with the ends of its row groups. It is closed when nobody reads it any more."""
    file = pq.ParquetFile(opened(path) if is_remote(path) else path)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return file, np.cumsum(counts)


def video_rows(
    columns: Columns, file: int, names: Callable[[pa.Schema], list[str]], video_id: str, unit: int | None = None
) -> tuple[list[dict[str, Any]], pa.Schema]:
    """Rows of a video's units in the twin of a shard of clips, and the twin's schema. names: of the columns, given the
    schema. Raises Gone."""
    path = join(columns.inspected.root, "videos", locate(columns.files[file])[1])
    wanted = [("video_id", "=", video_id), *([("unit", "=", unit)] if unit is not None else [])]
    try:
        with opened(path) as stream:
            schema = pq.read_schema(stream)
            stream.seek(0)
            table = pq.read_table(stream, columns=names(schema), filters=wanted, use_threads=False)
            return table.to_pylist(), schema
    except FileNotFoundError:
        raise Gone(path) from None
    except (OSError, StoreError) as error:
        raise MediaError(f"{path}: cannot be read: {error}") from None


def _version(path: str, shown: str) -> tuple[int, str]:
    """Size and version of a source. Raises MediaError."""
    try:
        folder, name = locate(path)
        entry = store_of(folder).head(name)
        return entry.bytes, entry.version
    except StoreError as error:
        raise MediaError(str(error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or ("no such object" if is_remote(path) else "its name is no path")
        raise MediaError(f"{shown}: {reason}: put the source back where the dataset recorded it") from None


def _plays(video: dict[str, Any]) -> bool:
    """Whether a browser can play packets of the source as they are."""
    return video.get("codec") in PLAYABLE and video.get("pixel_format") in PLAIN_PIXELS


class ClipCache:
    """Clips as files, at most `most` bytes of them, those longest unused go first. Cutting is done in child processes."""

    def __init__(self, folder: Path, *, most: int = CACHE_BYTES) -> None:
        self.folder, self.most = folder, most
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cutters = Cutters(1, timeout=120.0, memory_gb=2.0)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: list[Any], make: Any) -> Path:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
        path = self.folder / f"{name}.mp4"
        with self._lock:
            mine = self._locks.setdefault(name, threading.Lock())
        with mine:
            if path.exists():
                os.utime(path)
                return path
            data = make()
            write_atomic(path, data, durable=False)
        with self._lock:
            self._locks.pop(name, None)
        self._trim(path)
        return path

    def cut(self, job: CutJob) -> bytes:
        try:
            (made,) = self.cutters([job])
        except CutterError as error:
            raise MediaError(str(error)) from None
        if isinstance(made, str):
            raise MediaError(made)
        return made.bytes

    def warm(self) -> None:
        """Start the child process, with a job that it refuses."""
        with suppress(CutterError):  # the first clip that is asked for says so
            list(self.cutters([CutJob("", os.devnull, Span(0, 1, 0.0, 1.0))]))

    def close(self) -> None:
        self.cutters.__exit__()

    def _trim(self, keep: Path) -> None:
        with self._lock:
            found = []
            for path in self.folder.glob("*.mp4"):
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue
                found.append((facts.st_mtime_ns, facts.st_size, path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.most:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size
