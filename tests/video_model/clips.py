"""Small curated folders whose frames have known answers: frame i of a clip is grey, of level STEP * i.

folder = write_clips(tmp_path / "curated", [clip(0), clip(1, frames=16), clip(2, data=b"no video")])
frame_numbers(pixels)  # which frames they are, read off the pixels
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

STEP = 5  # levels between two frames: 51 frames can be told apart
VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAPTIONS = ("caption_frame", "caption_video", "caption_merged")


@lru_cache(maxsize=64)
def mp4(frames: int = 24, fps: int = 8, height: int = 48, width: int = 64) -> bytes:
    """A lossless clip; frame i has level STEP * i."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=fps, options={"qp": "0", "preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for i in range(frames):
            picture = np.full((height, width, 3), STEP * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    return sink.getvalue()


def frame_numbers(pixels: Any) -> np.ndarray:
    """[...] int: the numbers of frames [..., 3, H, W], uint8 or in [-1, 1]."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.float64) + 1) * 127.5
    return np.rint(pixels.mean((-3, -2, -1)) / STEP).astype(int)


def clip(number: int, *, frames: int = 24, fps: int = 8, height: int = 48, width: int = 64, **columns: Any) -> dict:
    """A row of a curated shard. Two clips in a row are of the same video. data: other bytes than the clip's own."""
    data = columns.pop("data", None)
    row = {
        "clip_id": f"{number // 2:016x}-{number % 2 * 100:08d}",
        "video_id": f"{number // 2:016x}",
        "num_frames": frames,
        "fps": float(fps),
        "width": width,
        "height": height,
        "motion_score": float(number),
        **{name: f"{name} of {number}" for name in CAPTIONS},
        "video": {"bytes": mp4(frames, fps, height, width) if data is None else data, "path": f"{number}.mp4"},
    }
    return row | columns


def clips(count: int, **columns: Any) -> list[dict]:
    return [clip(number, **columns) for number in range(count)]


def write_clips(
    folder: Path,
    rows: list[dict],
    *,
    shards: int = 2,
    group: int = 3,
    drop: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
) -> Path:
    """A curated folder of these rows, in `shards` files with row groups of `group` rows.

    drop: columns to leave out; numbers: more of them, float64.
    """
    data = Path(folder) / "data"
    data.mkdir(parents=True)
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("clip_id", "video_id")),
            ("num_frames", pa.int32()),
            ("fps", pa.float64()),
            *((name, pa.int32()) for name in ("width", "height")),
            ("motion_score", pa.float32()),
            *((name, pa.string()) for name in CAPTIONS),
            *((name, pa.float64()) for name in numbers),
            ("video", VIDEO),
        ]
    )
    size = -(-len(rows) // shards)
    for k in range(shards):
        table = pa.Table.from_pylist(rows[k * size : (k + 1) * size], schema=schema).drop_columns(list(drop))
        pq.write_table(table, data / f"train-{k:05d}-of-{shards:05d}.parquet", row_group_size=group)
    return Path(folder)


def png(level: int, height: int = 40, width: int = 40) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def write_images(path: Path, count: int, *, plain: bool = False, caption: str = "caption") -> Path:
    """An image-text Parquet file; image i has level STEP * i. plain: a binary column in place of the hub's struct."""
    pictures = [png(STEP * i) for i in range(count)]
    images = pictures if plain else [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), caption: [f"picture {i}" for i in range(count)]})
    pq.write_table(table, path, row_group_size=4)
    return Path(path)


class PoolCodec:
    """A codec whose latents are averages over 8x8 px: the level of a frame stays readable."""

    factor, channels, fingerprint = 8, 3, "pool-8"

    def __init__(self) -> None:
        self.frames = 0  # encoded so far

    def encode(self, pixels: Any) -> Any:
        import torch

        self.frames += pixels.shape[0] * pixels.shape[1]
        flat = torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), self.factor)
        return flat.unflatten(0, pixels.shape[:2])

    def decode(self, latents: Any) -> Any:
        return latents.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


class LetterEncoder:
    """Token states of a text: one for each of its words, its length and its first letter."""

    dim, fingerprint = 4, "letters"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def move(self, device: Any) -> None: ...

    def encode(self, texts: list[str]) -> Any:
        import torch

        self.seen += texts
        words = [text.split() for text in texts]
        longest = max(1, *map(len, words)) if words else 1
        states, mask = torch.zeros(len(texts), longest, 4), torch.zeros(len(texts), longest, dtype=torch.bool)
        for i, line in enumerate(words):
            for j, word in enumerate(line):
                states[i, j] = torch.tensor([len(word), ord(word[0]), j, 1.0])
                mask[i, j] = True
        return states, mask
