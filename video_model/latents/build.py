"""Building the latent cache: a stream of clips, decoded in child processes, encoded, written shard by shard.

Several workers divide the shards that are missing among them, in the order of the files and alike in bytes, so that each
reads a stretch of the files. What a worker has written stays, whoever is there the next time.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from video_model.codecs import Codec
from video_model.data.buckets import Size, nearest_size
from video_model.data.decoders import Decoders
from video_model.data.decoding import Frames, Job
from video_model.data.index import Index, join
from video_model.data.reading import stream
from video_model.data.windows import Thinned
from video_model.encoders import TextEncoder
from video_model.errors import DataError
from video_model.latents.cache import (
    DTYPES,
    Cache,
    latents_folder,
    shards_in,
    texts_folder,
    write_skipped,
)
from video_model.latents.packed import full_disk, read_about, write_shard
from video_model.latents.texts import build_texts
from video_model.latents.together import PARTS, Counts, Progress, locked, reporting, seen_alike, work_together
from video_model.memory import ENCODING_HELP, memory_for
from video_model.workers import TrainingWorker, first_goes_ahead

ENCODE_FRAMES, ENCODE_PIXELS = 32, 32 * 256 * 256  # at most, at once


@dataclass(frozen=True)
class LatentOptions:
    """How latents are made of clips.

    rates: the frame rates that some stage wants, the highest of each range; clips are thinned to them (None: every frame), see
    `windows.Thinned`. max_frames: most frames of
    a clip, from its middle. dtype: that latents and states are kept in. workers, timeout (s), memory_gb: of the processes that
    decode, for one clip. shard_bytes: of latents in one file, about.
    """

    rates: Sequence[float] | None = None
    max_frames: int | None = 128
    dtype: str = "float16"
    workers: int | None = None
    timeout: float = 60.0
    memory_gb: float = 4.0
    shard_bytes: int = 64_000_000


def build_cache(
    index: Index,
    codec: Codec,
    encoder: TextEncoder,
    folder: str | Path,
    *,
    sizes: Sequence[Size],
    progress: Progress | None = None,
    **options: Any,
) -> Cache:
    """Encode what is missing of one index at some sizes, and open the cache; options: fields of LatentOptions."""
    return cache_for([(index, sizes)], codec, encoder, folder, LatentOptions(**options), progress)


def cache_for(
    needs: Sequence[tuple[Index, Sequence[Size]]],
    codec: Codec,
    encoder: TextEncoder,
    folder: str | Path,
    options: LatentOptions,
    progress: Progress | None = None,
    worker: TrainingWorker | None = None,
) -> Cache:
    """Encode what is missing of all that some stages need, and open the cache that they share.

    needs: for each stage its clips, and its sizes (height, width) in px, of which each clip takes the one with the
    nearest proportions. A clip that cannot be decoded is skipped and counted. worker: one of several that all call this,
    of whom each encodes a part. Raises DataError: a full disk, or not one clip that can be decoded; WorkerError where
    that befell another worker.
    """
    folder, worker = Path(folder), worker or TrainingWorker()
    for _, sizes in needs:
        check_sizes(sizes, codec)
    if options.dtype not in DTYPES:
        raise DataError(f"cache dtype {options.dtype}: is not one of {', '.join(DTYPES)}")
    index = join(*(part for part, _ in needs)) if len(needs) > 1 else needs[0][0]
    wanted = _wanted(index, needs)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, worker):
        with first_goes_ahead(worker):
            if worker.first:
                for pattern in (".*.tmp", "latents-*/**/.*.tmp", "texts-*/.*.tmp"):
                    for leftover in folder.glob(pattern):
                        leftover.unlink(missing_ok=True)
            texts = texts_folder(folder, encoder, options.dtype)
            homes = {
                size: latents_folder(folder, codec, size, options.rates, options.max_frames, options.dtype)
                for size in wanted
            }
        build_texts(index, encoder, texts, options.dtype, progress, worker)
        clips = Thinned(index.num_frames, index.fps, options.rates, options.max_frames)
        build = seen_alike(worker, lambda: _Build.planned(index, clips, codec, wanted, homes, options, worker), folder)
        if build.missing:
            with Decoders(options.workers, timeout=options.timeout, memory_gb=options.memory_gb) as decoders:
                work_together(worker, build.run(decoders), reporting("clips", progress))
        cache = Cache(folder, index, codec, encoder, list(wanted), options.rates, options.max_frames, options.dtype)
        ours = set(index.keys)
        skipped = {place: reason for place, reason in cache.skipped.items() if place[0] in ours}
        if worker.first:
            write_skipped(folder, skipped)
    if len({key for key, _ in skipped}) == len(index):
        (key, _), reason = next(iter(skipped.items()))
        raise DataError(f"not one of {len(index)} clips can be decoded; {key}: {reason}; make the shards again")
    return cache


def _wanted(index: Index, needs: Sequence[tuple[Index, Sequence[Size]]]) -> dict[Size, np.ndarray]:
    """Size -> the rows of the joined index that are wanted at it, in the order of the files."""
    row_of = {key: row for row, key in enumerate(index.keys)}
    found: dict[Size, set[int]] = {}
    for part, sizes in needs:
        which = nearest_size(part.shape, sizes)
        for i, size in enumerate(sizes):
            rows = found.setdefault(tuple(size), set())
            rows.update(row_of[part.keys[row]] for row in np.flatnonzero(which == i))
    ordered = {size: np.array(sorted(rows), np.int64) for size, rows in found.items()}
    return {size: rows[np.lexsort((index.position[rows], index.file[rows]))] for size, rows in ordered.items()}


def check_sizes(sizes: Sequence[Size], codec: Codec) -> None:
    """Raises DataError for sizes that the codec cannot encode."""
    if not sizes:
        raise DataError("sizes: none given; give [height, width] in px")
    for height, width in sizes:
        if height < 1 or width < 1 or height % codec.factor or width % codec.factor:
            raise DataError(f"size {height}x{width}: height and width must be multiples of {codec.factor}, the codec's")


def encode(codec: Codec, frames: np.ndarray) -> torch.Tensor:
    """Latents [B, T, C, h, w] float32 on the CPU, of [B, T, H, W, 3] uint8; a few frames at a time."""
    device, parts = getattr(codec, "device", "cpu"), []
    at_once = max(1, at_most(frames.shape[2:4]) // len(frames))
    clips, _, height, width, _ = frames.shape
    what = f"encoding latents, {clips} x {at_once} frames of {height}x{width} px, on {device}"
    with torch.no_grad(), memory_for(what, *ENCODING_HELP):
        for first in range(0, frames.shape[1], at_once):
            part = torch.from_numpy(frames[:, first : first + at_once]).to(device)
            parts.append(codec.encode(part.movedim(-1, -3).float() / 127.5 - 1).float().cpu())
    return torch.cat(parts, 1)


def at_most(size: Size) -> int:
    """How many frames of a size are encoded at once."""
    return max(1, min(ENCODE_FRAMES, ENCODE_PIXELS // (size[0] * size[1])))


@dataclass
class _Chunk:
    """A shard in the making. number: of the file that its rows are in. weight: bytes. left: clips that are to come."""

    path: Path
    size: Size
    number: int
    rows: list[int]
    weight: int
    left: int = field(init=False)
    latents: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    waiting: list[tuple[str, Frames]] = field(default_factory=list)  # decoded, to be encoded together
    frames: int = 0

    def __post_init__(self) -> None:
        self.left = len(self.rows)


class _Build:
    """What a worker encodes of what is missing. missing: clips that all workers encode."""

    def __init__(
        self, index: Index, clips: Thinned, codec: Codec, dtype: Any, missing: int, chunks: Sequence[_Chunk]
    ) -> None:
        self.index, self.clips, self.codec, self.dtype, self.missing = index, clips, codec, dtype, missing
        # For each file: position -> (row, the shards that it goes into).
        self.places: list[dict[int, tuple[int, list[_Chunk]]]] = [{} for _ in index.files]
        self.done = self.skipped = 0
        self.mine = sum(chunk.left for chunk in chunks)
        for chunk in chunks:
            for row in chunk.rows:
                places = self.places[chunk.number]
                places.setdefault(int(index.position[row]), (row, []))[1].append(chunk)

    @classmethod
    def planned(
        cls,
        index: Index,
        clips: Thinned,
        codec: Codec,
        wanted: Mapping[Size, np.ndarray],
        homes: Mapping[Size, Path],
        options: LatentOptions,
        worker: TrainingWorker,
    ) -> tuple[str, _Build]:
        """A worker's part, and a line that stands for the parts of all. Raises DataError where the disk is too small."""
        dtype = DTYPES[options.dtype]
        missing: list[tuple[int, Size, Path, list[int], list[int]]] = []  # of each file and size; weights in bytes
        for size, rows in wanted.items():
            frame_bytes = codec.channels * (size[0] // codec.factor) * (size[1] // codec.factor)
            frame_bytes *= np.dtype(dtype).itemsize
            starts = np.searchsorted(index.file[rows], np.arange(len(index.files) + 1))
            for number, file in enumerate(index.files):
                home = homes[size] / file.identity
                have = {key for path in shards_in(home) for key in _tried(read_about(path))}
                new = [int(row) for row in rows[starts[number] : starts[number + 1]] if index.keys[row] not in have]
                missing.append((number, size, home, new, [clips.count(row) * frame_bytes for row in new]))
        needed = sum(sum(weights) for *_, weights in missing)
        place = next(iter(homes.values())).parent
        if needed > shutil.disk_usage(place).free:
            raise DataError(full_disk(place, needed))
        most = options.shard_bytes
        if worker.world > 1:  # small enough that they divide well
            most = min(most, max(1, needed // (PARTS * worker.world)))
        chunks: list[_Chunk] = []
        for number, size, home, new, weights in sorted(missing, key=lambda one: one[0]):
            for part, held in _cut(new, weights, most):
                names = "\n".join(index.keys[row] for row in part)
                name = hashlib.sha256(names.encode()).hexdigest()[:16]
                chunks.append(_Chunk(home / f"{name}.safetensors", size, number, part, held))
        line = hashlib.sha256("\n".join(chunk.path.name for chunk in chunks).encode()).hexdigest()
        count = sum(chunk.left for chunk in chunks)
        return line, cls(index, clips, codec, dtype, count, _part_of(chunks, worker))

    def run(self, decoders: Decoders) -> Iterator[Counts]:
        """Encode and write; yields how far it is after each clip."""
        ahead: deque[tuple[int, _Chunk]] = deque()

        def jobs() -> Iterator[Job]:
            for file, places in zip(self.index.files, self.places, strict=True):
                for position, data in stream(file, places) if places else ():
                    row, chunks = places[position]
                    for chunk in chunks:
                        ahead.append((row, chunk))
                        yield Job(file.kind, self.clips.stretch(row), chunk.size, data)

        yield 0, self.mine, 0
        for result in decoders(jobs()):
            self._take(*ahead.popleft(), result)
            yield self.done, self.mine, self.skipped

    def _take(self, row: int, chunk: _Chunk, result: Frames | str) -> None:
        key, waits = self.index.keys[row], chunk.waiting
        chunk.left -= 1
        self.done += 1
        if isinstance(result, str):
            chunk.skipped[key] = result
            self.skipped += 1
        else:
            count = len(result.times)
            if waits and (len(waits[0][1].times) != count or (len(waits) + 1) * count > at_most(chunk.size)):
                self._encode(chunk)
            waits.append((key, result))
        if not chunk.left:
            self._encode(chunk)
            self._write(chunk)

    def _encode(self, chunk: _Chunk) -> None:
        if not chunk.waiting:
            return
        found = encode(self.codec, np.stack([frames.pixels for _, frames in chunk.waiting])).numpy()
        with np.errstate(over="ignore"):
            kept = found.astype(self.dtype)
        if not np.isfinite(kept).all():
            what = "are not finite" if not np.isfinite(found).all() else f"are too large for {np.dtype(self.dtype)}"
            raise DataError(f"latents of {chunk.waiting[0][0]} {what}; check the codec, or cache as float32")
        for (key, frames), latents in zip(chunk.waiting, kept, strict=True):
            chunk.places[key] = [chunk.frames, len(latents)]
            chunk.latents.append(latents)
            chunk.times.append(frames.times)
            chunk.frames += len(latents)
        chunk.waiting.clear()

    def _write(self, chunk: _Chunk) -> None:
        shape = (0, self.codec.channels, chunk.size[0] // self.codec.factor, chunk.size[1] // self.codec.factor)
        latents = np.concatenate(chunk.latents) if chunk.latents else np.empty(shape, self.dtype)
        times = np.concatenate(chunk.times) if chunk.times else np.empty(0)
        write_shard(chunk.path, {"latents": latents, "times": times}, {"clips": chunk.places, "skipped": chunk.skipped})
        chunk.latents.clear()
        chunk.times.clear()


def _tried(about: dict) -> list[str]:
    return [*about["clips"], *about["skipped"]]


def _part_of(chunks: Sequence[_Chunk], worker: TrainingWorker) -> list[_Chunk]:
    """Those in a worker's stretch of all their bytes, by their middle."""
    ends = np.cumsum([chunk.weight for chunk in chunks])
    owner = [int(worker.world * (end - chunk.weight / 2) / ends[-1]) for end, chunk in zip(ends, chunks, strict=True)]
    return [chunk for chunk, rank in zip(chunks, owner, strict=True) if rank == worker.rank]


def _cut(rows: list[int], weights: list[int], most: int) -> Iterator[tuple[list[int], int]]:
    """Parts of about `most` bytes, each with its bytes. Greedy from the front, so that what is left after some parts is cut
    the same way."""
    part: list[int] = []
    held = 0
    for row, weight in zip(rows, weights, strict=True):
        if part and held + weight > most:
            yield part, held
            part, held = [], 0
        part.append(row)
        held += weight
    if part:
        yield part, held
