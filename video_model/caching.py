"""Building the latent cache: a stream of clips, decoded in child processes, encoded, written shard by shard."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from video_model.buckets import Grid, Size, grid, nearest_size
from video_model.cache import (
    DTYPES,
    Cache,
    Codec,
    Encoder,
    digest,
    latents_folder,
    shards_in,
    texts_folder,
    write_skipped,
)
from video_model.decoding import Job
from video_model.index import Index
from video_model.isolation import Decoders
from video_model.packed import full_disk, map_shard, read_about, write_shard
from video_model.reading import stream
from video_model.sources import DataError

Progress = Callable[[str, int, int, int], None]  # "texts" or "clips", done, in all, skipped

TEXT_BATCH, TEXT_SHARD = 32, 4096  # captions
ENCODE_FRAMES, ENCODE_PIXELS = 32, 32 * 256 * 256  # at most, at once


def build_cache(
    index: Index,
    codec: Codec,
    encoder: Encoder,
    folder: str | Path,
    *,
    sizes: Sequence[Size],
    rate: float | None = None,
    max_frames: int | None = 128,
    dtype: str = "float16",
    workers: int | None = None,
    timeout: float = 60.0,
    memory_gb: float = 4.0,
    shard_bytes: int = 64_000_000,
    progress: Progress | None = None,
) -> Cache:
    """Encode what is missing, and open the cache.

    sizes: (height, width) px; each clip is encoded at the one with the nearest proportions. rate: the highest frame
    rate that any stage wants; clips are thinned to it (None: every frame). max_frames: most frames of a clip, from its
    middle. timeout, memory_gb: of decoding one clip; a clip that cannot be decoded is skipped and counted. Raises
    DataError: a full disk, or not one clip that can be decoded.
    """
    folder = Path(folder)
    sizes = [tuple(size) for size in sizes]
    check_sizes(sizes, codec)
    if dtype not in DTYPES:
        raise DataError(f"cache dtype {dtype}: is not one of {', '.join(DTYPES)}")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for pattern in (".*.tmp", "latents-*/**/.*.tmp", "texts-*/.*.tmp"):
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        _build_texts(index, encoder, texts_folder(folder, encoder, dtype), dtype, progress)
        clips = grid(index.num_frames, index.fps, rate, max_frames)
        homes = [latents_folder(folder, codec, size, rate, max_frames, dtype) for size in sizes]
        build = _Build(index, clips, codec, homes, sizes, dtype, shard_bytes, progress)
        if build.missing:
            with Decoders(workers, timeout=timeout, memory_gb=memory_gb) as decoders:
                build.run(decoders)
        cache = Cache(folder, index, codec, encoder, sizes, rate, max_frames, dtype)
        ours = set(index.keys)
        skipped = {place: reason for place, reason in cache.skipped.items() if place[0] in ours}
        write_skipped(folder, skipped)
    if len({key for key, _ in skipped}) == len(index):
        (key, _), reason = next(iter(skipped.items()))
        raise DataError(f"not one of {len(index)} clips can be decoded; {key}: {reason}; make the shards again")
    return cache


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
    """A shard in the making: the rows that go into it, and what came of those that were decoded."""

    path: Path
    rows: list[int]
    left: int
    latents: list[np.ndarray] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    waiting: list[tuple[str, np.ndarray]] = field(default_factory=list)  # decoded, to be encoded together
    frames: int = 0


class _Build:
    def __init__(
        self,
        index: Index,
        clips: Grid,
        codec: Codec,
        homes: Sequence[Path],
        sizes: Sequence[Size],
        dtype: str,
        shard_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.index, self.clips, self.codec, self.sizes, self.progress = index, clips, codec, sizes, progress
        self.dtype, self.folder = DTYPES[dtype], homes[0].parent
        self.size_of = nearest_size(index.shape, sizes)
        self.chunks: dict[int, _Chunk] = {}  # row -> the shard it goes into
        self.places: list[dict[int, int]] = [{} for _ in index.files]  # position in the file -> row
        self.done = self.skipped = 0
        needed = 0
        for which, (home, size) in enumerate(zip(homes, sizes, strict=True)):
            frame_bytes = codec.channels * (size[0] // codec.factor) * (size[1] // codec.factor)
            frame_bytes *= np.dtype(self.dtype).itemsize
            for number, file in enumerate(index.files):
                rows = np.flatnonzero((self.size_of == which) & (index.file == number))
                have = {key for path in shards_in(home / file.identity) for key in _tried(read_about(path))}
                rows = [int(row) for row in rows if index.keys[row] not in have]
                rows.sort(key=lambda row: int(index.position[row]))
                weights = [int(clips.count[row]) * frame_bytes for row in rows]
                needed += sum(weights)
                for part in _cut(rows, weights, shard_bytes):
                    names = "\n".join(index.keys[row] for row in part)
                    name = hashlib.sha256(names.encode()).hexdigest()[:16]
                    chunk = _Chunk(home / file.identity / f"{name}.safetensors", part, len(part))
                    self.chunks.update(dict.fromkeys(part, chunk))
                    self.places[number].update((int(index.position[row]), row) for row in part)
        self.missing = len(self.chunks)
        if needed > shutil.disk_usage(self.folder).free:
            raise DataError(full_disk(self.folder, needed))

    def run(self, decoders: Decoders) -> None:
        ahead: list[int] = []

        def jobs() -> Iterator[Job]:
            for file, rows in zip(self.index.files, self.places, strict=True):
                for position, data in stream(file, rows):
                    row = rows[position]
                    ahead.append(row)
                    frames = tuple(self.clips.frames(row).tolist())
                    yield Job(file.kind, frames, self.sizes[self.size_of[row]], data)

        for result in decoders(jobs()):
            self._take(ahead.pop(0), result)

    def _take(self, row: int, result: np.ndarray | str) -> None:
        chunk, key = self.chunks[row], self.index.keys[row]
        chunk.left -= 1
        self.done += 1
        if isinstance(result, str):
            chunk.skipped[key] = result
            self.skipped += 1
        else:
            waits = chunk.waiting
            if waits and (
                len(waits[0][1]) != len(result) or (len(waits) + 1) * len(result) > at_most(result.shape[1:3])
            ):
                self._encode(chunk)
            chunk.waiting.append((key, result))
        if not chunk.left:
            self._encode(chunk)
            self._write(chunk, self.sizes[self.size_of[row]])
        if self.progress:
            self.progress("clips", self.done, self.missing, self.skipped)

    def _encode(self, chunk: _Chunk) -> None:
        if not chunk.waiting:
            return
        found = encode(self.codec, np.stack([frames for _, frames in chunk.waiting])).numpy()
        with np.errstate(over="ignore"):
            kept = found.astype(self.dtype)
        if not np.isfinite(kept).all():
            what = "are not finite" if not np.isfinite(found).all() else f"are too large for {np.dtype(self.dtype)}"
            raise DataError(f"latents of {chunk.waiting[0][0]} {what}; check the codec, or cache as float32")
        for (key, _), latents in zip(chunk.waiting, kept, strict=True):
            chunk.places[key] = [chunk.frames, len(latents)]
            chunk.latents.append(latents)
            chunk.frames += len(latents)
        chunk.waiting.clear()

    def _write(self, chunk: _Chunk, size: Size) -> None:
        shape = (0, self.codec.channels, size[0] // self.codec.factor, size[1] // self.codec.factor)
        latents = np.concatenate(chunk.latents) if chunk.latents else np.empty(shape, self.dtype)
        write_shard(chunk.path, {"latents": latents}, {"clips": chunk.places, "skipped": chunk.skipped})
        chunk.latents.clear()


def _build_texts(index: Index, encoder: Encoder, home: Path, dtype: str, progress: Progress | None) -> None:
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


def encode_texts(encoder: Encoder, texts: list[str]) -> list[torch.Tensor]:
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
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder; a second one waits, and finds the work done."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


__all__ = ["build_cache", "check_sizes", "encode", "encode_texts"]
