"""The index of many clips: `python -m tests.benchmarks.index [CLIPS ...]`. Rows of curated shards without their videos.

Each line is a worker's start in a process of its own, before its first batch: clips, their division into those trained on and
held out, buckets, and where the latents of each lie. `own` is memory that no other process shares (RssAnon), beyond what
Python and the imported modules take; the first start makes what later ones map.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.video_model.clips import CAPTIONS, VIDEO, LetterEncoder
from video_model.config import TrainConfig
from video_model.data.index import open_index
from video_model.latents.cache import latents_folder
from video_model.latents.packed import write_shard
from video_model.training.stores import Stores

PER_FILE, PER_SHARD, SIZE, SHARE = 20_000, 4_000, (64, 64), 40
CLIPS = (100_000, 1_000_000)


class OneValue:
    """A codec of one latent a frame."""

    factor, channels, fingerprint = 64, 1, "one"


def config() -> TrainConfig:
    stage = {"frames": [8, 16], "sizes": [SIZE], "steps": 10, "batch": 16, "images": 0.25}
    return TrainConfig.model_validate(
        {"text": {"kind": "none"}, "conditioning": {"text": None}, "stages": {"video": stage}}
    )


def write(folder: Path, count: int) -> None:
    """Curated shards of `count` clips of a few lengths and rates, captions of some 60 letters; a video has 10."""
    (folder / "data").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for first in range(0, count, PER_FILE):
        rows = np.arange(first, min(count, first + PER_FILE))
        videos = [f"{int(row) // 10 * 0x9E3779B97F4A7C15 % 2**64:016x}" for row in rows]
        columns: dict[str, Any] = {
            "clip_id": [f"{video}-{row % 10 * 3000:08d}" for video, row in zip(videos, rows, strict=True)],
            "video_id": videos,
            "num_frames": pa.array(draw.integers(48, 300, len(rows)), pa.int32()),
            "fps": draw.choice([24.0, 25.0, 30.0], len(rows)),
            "width": pa.array([64] * len(rows), pa.int32()),
            "height": pa.array([64] * len(rows), pa.int32()),
            "motion_score": pa.array(draw.random(len(rows)), pa.float32()),
            **{name: [f"{name}: a scene {row} of some length in a city at night" for row in rows] for name in CAPTIONS},
            "video": pa.nulls(len(rows), VIDEO),
        }
        pq.write_table(pa.table(columns), folder / "data" / f"train-{first // PER_FILE:05d}.parquet")


def write_latents(data: Path, cache: Path, count: int) -> None:
    """Shards of one-value latents of all clips, a frame each."""
    stores = Stores(config(), [str(data)], cache)
    rates, most = stores.thinning
    home = latents_folder(cache, OneValue(), SIZE, rates, most, "float16")
    for file in open_index(data).files:
        ids = pq.read_table(file.path, columns=["clip_id"])["clip_id"].to_pylist()
        for first in range(0, len(ids), PER_SHARD):
            part = ids[first : first + PER_SHARD]
            arrays = {"latents": np.zeros((len(part), 1, 1, 1), np.float16), "times": np.zeros(len(part))}
            about = {"clips": {key: [i, 1] for i, key in enumerate(part)}, "skipped": {}}
            write_shard(home / file.identity / f"{first:016x}.safetensors", arrays, about)


def own() -> float:
    """MB that this process shares with none."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


def start(data: Path, cache: Path) -> dict[str, float]:
    """A worker's start, measured."""
    from video_model.latents.cache import Cache

    made = config()
    before, began, cpu = own(), time.perf_counter(), time.process_time()
    stores = Stores(made, [str(data)], cache)
    opened = time.perf_counter()
    rates, most = stores.thinning
    store = Cache(cache, stores.parts["video"][0].files, OneValue(), LetterEncoder(), [SIZE], rates, most, "float16")
    cached = time.perf_counter()
    batches = stores.batches("video", store)
    batches._planned(0)
    now = time.perf_counter()
    return {
        "clips": stores.clips, "index": opened - began, "latents": cached - opened, "batches": now - cached,
        "all": now - began, "cpu": time.process_time() - cpu, "own": own() - before,
    }  # fmt: skip


def in_a_process(data: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.index", "--start", str(data), str(cache)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    if sys.argv[1:2] == ["--start"]:
        print(json.dumps(start(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    print("| clips | start | index, s | latents, s | buckets, s | all, s | CPU s | own memory, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for count in [int(text) for text in sys.argv[1:]] or CLIPS:
        with tempfile.TemporaryDirectory() as folder:
            data, cache = Path(folder, "curated"), Path(folder, "latents")
            write(data, count)
            write_latents(data, cache, count)
            for which in ("first", "second"):
                found = in_a_process(data, cache)
                seconds = " | ".join(f"{found[key]:.2f}" for key in ("index", "latents", "batches", "all", "cpu"))
                print(f"| {count:,} | {which} | {seconds} | {found['own']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
