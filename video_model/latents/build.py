"""Building the latent cache: a stream of clips, decoded in child processes, encoded, written shard by shard."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    digest,
    latents_folder,
    shards_in,
    texts_folder,
    write_skipped,
)
from video_model.latents.packed import full_disk, map_shard, read_about, write_shard

Progress = Callable[[str, int, int, int], None]  # "texts" or "clips", done, in all, skipped

TEXT_BATCH, TEXT_SHARD = 32, 4096  # captions
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
) -> Cache:
    """Encode what is missing of all that some stages need, and open the cache that they share.

    needs: for each stage its clips, and its sizes (height, width) in px, of which each clip takes the one with the
    nearest proportions. A clip that cannot be decoded is skipped and counted. Raises DataError: a full disk, or not one
    clip that can be decoded.
    """
    folder = Path(folder)
    for _, sizes in needs:
        check_sizes(sizes, codec)
    if options.dtype not in DTYPES:
        raise DataError(f"cache dtype {options.dtype}: is not one of {', '.join(DTYPES)}")
    index = join(*(part for part, _ in needs)) if len(needs) > 1 else needs[0][0]
    wanted = _wanted(index, needs)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for pattern in (".*.tmp", "latents-*/**/.*.tmp", "texts-*/.*.tmp"):
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        _build_texts(index, encoder, texts_folder(folder, encoder, options.dtype), options.dtype, progress)
        clips = Thinned(index.num_frames, index.fps, options.rates, options.max_frames)
        homes = {
            size: latents_folder(folder, codec, size, options.rates, options.max_frames, options.dtype)
            for size in wanted
        }
        build = _Build(index, clips, codec, wanted, homes, options, progress)
        if build.missing:
            with Decoders(options.workers, timeout=options.timeout, memory_gb=options.memory_gb) as decoders:
                build.run(decoders)
        cache = Cache(folder, index, codec, encoder, list(wanted), options.rates, options.max_frames, options.dtype)
        ours = set(index.keys)
        skipped = {place: reason for place, reason in cache.skipped.items() if place[0] in ours}
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
    with torch.no_grad():
        for first in range(0, frames.shape[1], at_once):
            part = torch.from_numpy(frames[:, first : first + at_once]).to(device)
            parts.append(codec.encode(part.movedim(-1, -3).float() / 127.5 - 1).float().cpu())
    return torch.cat(parts, 1)


def at_most(size: Size) -> int:
    """How many frames of a size are encoded at once."""
    return max(1, min(ENCODE_FRAMES, ENCODE_PIXELS // (size[0] * size[1])))


@dataclass
class _Chunk:
    """A shard in the making. left: clips that are to come."""

    path: Path
    size: Size
    left: int
    latents: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    waiting: list[tuple[str, Frames]] = field(default_factory=list)  # decoded, to be encoded together
    frames: int = 0


class _Build:
    """What is missing, and how it is divided into shards."""

    def __init__(
        self,
        index: Index,
        clips: Thinned,
        codec: Codec,
        wanted: Mapping[Size, np.ndarray],
        homes: Mapping[Size, Path],
        options: LatentOptions,
        progress: Progress | None,
    ) -> None:
        self.index, self.clips, self.codec, self.progress = index, clips, codec, progress
        self.dtype = DTYPES[options.dtype]
        # For each file: position -> (row, the shards that it goes into).
        self.places: list[dict[int, tuple[int, list[_Chunk]]]] = [{} for _ in index.files]
        self.done = self.skipped = self.missing = needed = 0
        for size, rows in wanted.items():
            frame_bytes = codec.channels * (size[0] // codec.factor) * (size[1] // codec.factor)
            frame_bytes *= np.dtype(self.dtype).itemsize
            starts = np.searchsorted(index.file[rows], np.arange(len(index.files) + 1))
            for number, file in enumerate(index.files):
                home = homes[size] / file.identity
                have = {key for path in shards_in(home) for key in _tried(read_about(path))}
                new = [int(row) for row in rows[starts[number] : starts[number + 1]] if index.keys[row] not in have]
                weights = [clips.count(row) * frame_bytes for row in new]
                needed += sum(weights)
                self.missing += len(new)
                for part in _cut(new, weights, options.shard_bytes):
                    names = "\n".join(index.keys[row] for row in part)
                    name = hashlib.sha256(names.encode()).hexdigest()[:16]
                    chunk = _Chunk(home / f"{name}.safetensors", size, len(part))
                    for row in part:
                        self.places[number].setdefault(int(index.position[row]), (row, []))[1].append(chunk)
        free = shutil.disk_usage(next(iter(homes.values())).parent).free
        if needed > free:
            raise DataError(full_disk(next(iter(homes.values())).parent, needed))

    def run(self, decoders: Decoders) -> None:
        ahead: deque[tuple[int, _Chunk]] = deque()

        def jobs() -> Iterator[Job]:
            for file, places in zip(self.index.files, self.places, strict=True):
                for position, data in stream(file, places):
                    row, chunks = places[position]
                    for chunk in chunks:
                        ahead.append((row, chunk))
                        yield Job(file.kind, self.clips.stretch(row), chunk.size, data)

        for result in decoders(jobs()):
            self._take(*ahead.popleft(), result)

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
        if self.progress:
            self.progress("clips", self.done, self.missing, self.skipped)

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


def _build_texts(index: Index, encoder: TextEncoder, home: Path, dtype: str, progress: Progress | None) -> None:
    have = {name.tobytes() for path in shards_in(home) for name in map_shard(path)["digests"]}
    columns = [index.rows[name] for name, share in index.captions.items() if share > 0]
    wanted = {"": None} | {text: None for column in columns for text in column.unique().to_pylist() if text}
    missing = [text for text in wanted if digest(text) not in have]
    for first in range(0, len(missing), TEXT_SHARD):
        part = missing[first : first + TEXT_SHARD]
        states = []
        for start in range(0, len(part), TEXT_BATCH):
            states += [s.numpy().astype(DTYPES[dtype]) for s in encode_texts(encoder, part[start : start + TEXT_BATCH])]
            if progress:
                progress("texts", first + len(states), len(missing), 0)
        offsets = np.cumsum([0, *map(len, states)], dtype=np.int64)
        digests = np.frombuffer(b"".join(map(digest, part)), np.uint8).reshape(-1, 16)
        arrays = {"states": np.concatenate(states), "offsets": offsets, "digests": digests}
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]
        write_shard(home / f"{name}.safetensors", arrays, {})


def encode_texts(encoder: TextEncoder, texts: list[str]) -> list[torch.Tensor]:
    """[L, D] float32 states of the tokens that count, of each text."""
    with torch.no_grad():
        states, mask = encoder.encode(texts)
    states, mask = states.float().cpu(), mask.bool().cpu()
    return [line[counts] for line, counts in zip(states, mask, strict=True)]


def _tried(about: dict) -> list[str]:
    return [*about["clips"], *about["skipped"]]


def _cut(rows: list[int], weights: list[int], most: int) -> Iterator[list[int]]:
    """Parts of about `most` bytes. Greedy from the front, so that what is left after some parts is cut the same way."""
    part: list[int] = []
    held = 0
    for row, weight in zip(rows, weights, strict=True):
        if part and held + weight > most:
            yield part
            part, held = [], 0
        part.append(row)
        held += weight
    if part:
        yield part


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder; a second one waits, and finds the work done."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
