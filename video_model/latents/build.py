"""Building the latent cache: a stream of clips, decoded in child processes, encoded, written shard by shard.

Several workers divide the shards that are missing among them, in the order of the files and alike in bytes, so that each
reads a stretch of the files. What a worker has written stays, whoever is there the next time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from video_model.codecs import Codec
from video_model.data.buckets import Size, nearest_size
from video_model.data.decoders import Decoders
from video_model.data.decoding import Frames, Job
from video_model.data.reading import stream
from video_model.data.rows import Index, digests_of, join
from video_model.data.sources import DataFile
from video_model.data.windows import Thinned
from video_model.encoders import TextEncoder
from video_model.errors import DataError
from video_model.latents.cache import DTYPES, Cache, account_of, latents_folder, texts_folder
from video_model.latents.encoding import at_most, check_sizes, encode
from video_model.latents.packed import full_disk, write_shard, write_whole
from video_model.latents.places import Sorted, latent_places, latent_shards, names_in, state_in
from video_model.latents.texts import build_texts
from video_model.latents.together import PARTS, Counts, Progress, locked, reporting, seen_alike, work_together
from video_model.workers import TrainingWorker, first_goes_ahead


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
    if options.dtype not in DTYPES:
        raise DataError(f"cache dtype {options.dtype}: is not one of {', '.join(DTYPES)}")
    for _, sizes in needs:
        check_sizes(sizes, codec)
    files = list({file.path: file for part, _ in needs for file in part.files}.values())
    every = list(dict.fromkeys(tuple(size) for _, sizes in needs for size in sizes))
    thinned = options.rates, options.max_frames, options.dtype
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, worker):
        with first_goes_ahead(worker):
            texts = texts_folder(folder, encoder, options.dtype)
            homes = {size: latents_folder(folder, codec, size, *thinned) for size in every}

        def opened() -> Cache:
            with first_goes_ahead(worker):  # which writes where all lies
                return Cache(folder, files, codec, encoder, every, *thinned)

        complete, found_whole = seen_alike(worker, lambda: _complete(folder, needs, files, texts, homes), folder)
        if found_whole:
            if worker.first:
                write_whole(folder / "skipped.json", complete.read_bytes())
            return opened()
        _cleared(folder, worker)
        index = join(*(part for part, _ in needs)) if len(needs) > 1 else needs[0][0]
        wanted = _wanted(index, needs)
        build_texts(index, encoder, texts, options.dtype, progress, worker)
        clips = Thinned(index.view("num_frames"), index.view("fps"), options.rates, options.max_frames)
        build = seen_alike(worker, lambda: _Build.planned(index, clips, codec, wanted, homes, options, worker), folder)
        if build.missing:
            with Decoders(options.workers, timeout=options.timeout, memory_gb=options.memory_gb) as decoders:
                work_together(worker, build.run(decoders), reporting("clips", progress))
        cache = opened()
        ours = Sorted.of(*index.digests()).find(*digests_of([key for key, _ in cache.skipped])) >= 0
        skipped = {place: why for (place, why), own in zip(cache.skipped.items(), ours, strict=True) if own}
        account = account_of(skipped)
        if worker.first:
            write_whole(folder / "skipped.json", account)
        if len({key for key, _ in skipped}) < len(index):
            if worker.first:
                write_whole(_complete(folder, needs, files, texts, homes)[1][0], account)
            return cache
    (key, _), reason = next(iter(skipped.items()))
    raise DataError(f"not one of {len(index)} clips can be decoded; {key}: {reason}; make the shards again")


def _cleared(folder: Path, worker: TrainingWorker) -> None:
    """Without what killed builds have left."""
    with first_goes_ahead(worker):
        for pattern in (".*.tmp", "latents-*/**/.*.tmp", "texts-*/.*.tmp") if worker.first else ():
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)


def _complete(
    folder: Path,
    needs: Sequence[tuple[Index, Sequence[Size]]],
    files: Sequence[DataFile],
    texts: Path,
    homes: Mapping[Size, Path],
) -> tuple[str, tuple[Path, bool]]:
    """The file that says that all is there: of these clips, at these sizes, with the shards as they are; and if it is there."""
    asked = [[part.fingerprint, list(part.captions.items()), [list(size) for size in sizes]] for part, sizes in needs]
    shards = {
        home.name: state_in(home, latent_shards(home, [file.identity for file in files])) for home in homes.values()
    }
    shards[texts.name] = state_in(texts, names_in(texts))
    name = hashlib.sha256(json.dumps([asked, shards]).encode()).hexdigest()[:16]
    path = folder / "complete" / f"{name}.json"
    there = path.exists()
    return f"{name} {there}", (path, there)


def _wanted(index: Index, needs: Sequence[tuple[Index, Sequence[Size]]]) -> dict[Size, np.ndarray]:
    """Size -> the rows of the joined index that are wanted at it, in the order of the files."""
    row_of = Sorted.of(*index.digests()) if len(needs) > 1 else None
    found: dict[Size, np.ndarray] = {}
    for part, sizes in needs:
        for rows in part.parts():
            which = nearest_size(part.shape_of(rows), sizes)
            joined = rows if row_of is None else row_of.find(*part.digests(rows))
            for i, size in enumerate(sizes):
                found.setdefault(tuple(size), np.zeros(len(index), bool))[joined[which == i]] = True
    ordered = {size: np.flatnonzero(chosen) for size, chosen in found.items()}
    file, position = index.view("file"), index.view("position")
    return {size: rows[np.lexsort((position[rows], file[rows]))] for size, rows in ordered.items()}


@dataclass
class _Chunk:
    """A shard in the making. number: of the file that its rows are in. weight: bytes. left: clips that are to come."""

    path: Path
    size: Size
    number: int
    rows: np.ndarray
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
        self.done = self.skipped = 0
        self.mine = sum(chunk.left for chunk in chunks)
        self.chunks: dict[int, list[_Chunk]] = {}  # by file
        for chunk in chunks:
            self.chunks.setdefault(chunk.number, []).append(chunk)

    def places(self, number: int) -> dict[int, tuple[int, list[_Chunk]]]:
        """Of a file: position -> (row, the shards that it goes into)."""
        found: dict[int, tuple[int, list[_Chunk]]] = {}
        for chunk in self.chunks[number]:
            positions = self.index.view("position")[chunk.rows].tolist()
            for row, position in zip(chunk.rows.tolist(), positions, strict=True):
                found.setdefault(position, (row, []))[1].append(chunk)
        return found

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
        missing: list[tuple[int, Size, Path, np.ndarray, np.ndarray]] = []  # of each file and size; weights in bytes
        for size, rows in wanted.items():
            frame_bytes = codec.channels * (size[0] // codec.factor) * (size[1] // codec.factor)
            frame_bytes *= np.dtype(dtype).itemsize
            with first_goes_ahead(worker):
                have = latent_places(homes[size], [file.identity for file in index.files])
            rows = rows[have.find(*index.digests(rows)) < 0]
            weights = clips.counts(rows) * frame_bytes
            starts = np.searchsorted(index.view("file")[rows], np.arange(len(index.files) + 1))
            for number, file in enumerate(index.files):
                own = slice(starts[number], starts[number + 1])
                missing.append((number, size, homes[size] / file.identity, rows[own], weights[own]))
        needed = sum(int(weights.sum()) for *_, weights in missing)
        place = next(iter(homes.values())).parent
        if needed > shutil.disk_usage(place).free:
            raise DataError(full_disk(place, needed))
        most = options.shard_bytes
        if worker.world > 1:  # small enough that they divide well
            most = min(most, max(1, needed // (PARTS * worker.world)))
        chunks: list[_Chunk] = []
        for number, size, home, new, weights in sorted(missing, key=lambda one: one[0]):
            for part, held in _cut(new, weights, most):
                names = "\n".join(index.texts_at("clip_id", part))
                name = hashlib.sha256(names.encode()).hexdigest()[:16]
                chunks.append(_Chunk(home / f"{name}.safetensors", size, number, part, held))
        line = hashlib.sha256("\n".join(chunk.path.name for chunk in chunks).encode()).hexdigest()
        count = sum(chunk.left for chunk in chunks)
        return line, cls(index, clips, codec, dtype, count, _part_of(chunks, worker))

    def run(self, decoders: Decoders) -> Iterator[Counts]:
        """Encode and write; yields how far it is after each clip."""
        ahead: deque[tuple[int, _Chunk]] = deque()

        def jobs() -> Iterator[Job]:
            for number in sorted(self.chunks):
                file, places = self.index.files[number], self.places(number)
                for position, data in stream(file, places):
                    row, chunks = places[position]
                    for chunk in chunks:
                        ahead.append((row, chunk))
                        yield Job(file.kind, self.clips.stretch(row), chunk.size, data)

        yield 0, self.mine, 0
        for result in decoders(jobs()):
            self._take(*ahead.popleft(), result)
            yield self.done, self.mine, self.skipped

    def _take(self, row: int, chunk: _Chunk, result: Frames | str) -> None:
        key, waits = self.index.key(row), chunk.waiting
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


def _part_of(chunks: Sequence[_Chunk], worker: TrainingWorker) -> list[_Chunk]:
    """Those in a worker's stretch of all their bytes, by their middle."""
    ends = np.cumsum([chunk.weight for chunk in chunks])
    owner = [int(worker.world * (end - chunk.weight / 2) / ends[-1]) for end, chunk in zip(ends, chunks, strict=True)]
    return [chunk for chunk, rank in zip(chunks, owner, strict=True) if rank == worker.rank]


def _cut(rows: np.ndarray, weights: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, int]]:
    """Parts of about `most` bytes, each with its bytes. Greedy from the front, so that what is left after some parts is cut
    the same way."""
    ends, first, before = np.cumsum(weights), 0, 0
    while first < len(rows):
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield rows[first:last], int(ends[last - 1]) - before
        first, before = last, int(ends[last - 1])
