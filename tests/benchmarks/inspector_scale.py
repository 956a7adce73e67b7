"""The inspector's data over many clips: opening, a moved threshold, histograms, the sorted list; time, memory and disk.

    python -m tests.benchmarks.inspector_scale [--clips 1000000 10000000] [--folder FOLDER]

A dataset is made by script: all columns of scores, one short caption, one tiny still for all; no embeddings. FOLDER keeps it.
Each size is measured in a process of its own. Memory is what the process has of its own (its resident pages that are not of
a file): pages of mapped files are the operating system's, which takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from curate.base.files import write_json
from curate.selection.filters import Filter
from pipelines.annotation.stages import TABLES
from pipelines.config import load as load_config
from pipelines.dataset.files import FOOTER
from pipelines.inspector.data.choice import Choice
from pipelines.inspector.data.listing import Find, Page
from pipelines.inspector.data.loaded import Loaded, load
from pipelines.inspector.data.media import ClipCache

SHARD, GROUP, PER_VIDEO = 100_000, 20_000, 20  # clips
SELECTION = [
    {"where": "end_time - start_time >= 1"},
    {"drop_bottom": {"motion_score": "25%"}},
    {"max": {"text_area": 0.07, "nsfw_score": 0.9}},
    {"drop_top": {"technical_quality": "10%"}},
]
SCORES = (
    "motion_score", "motion_residual", "camera_pan_x", "camera_pan_y", "camera_zoom", "text_area", "aesthetic_score",
    "technical_quality", "nsfw_score", "similarity_frame", "similarity_video", "similarity_merged",
)  # fmt: skip
SHOWN = 6  # histograms in sight


def make(root: Path, clips: int, seed: int = 0) -> None:
    """A dataset of `clips` clips whose values are those of one shard, shifted."""
    rng = np.random.default_rng(seed)
    for table in ("clips", "videos"):
        (root / table).mkdir(parents=True)
    scores = {name: rng.gamma(1.5, 3.0, SHARD) for name in SCORES}
    for values in scores.values():
        values[rng.random(SHARD) < 0.02] = np.nan
    scores["text_area"] /= 40
    scores["nsfw_score"] /= 20
    seconds = np.round(rng.gamma(2.0, 2.0, SHARD) + 0.4, 2)
    words = np.array(["man", "walks", "dog", "beach", "car", "street", "night", "red", "blue", "water"])
    texts = [" ".join(row) for row in words[rng.integers(0, len(words), (SHARD, 8))]]
    picture = io.BytesIO()
    Image.new("RGB", (16, 9), (90, 120, 60)).save(picture, "JPEG")
    for shard in range(-(-clips // SHARD)):
        count = min(SHARD, clips - shard * SHARD)
        turned = np.roll(np.arange(SHARD), 37 * shard)[:count]
        columns: dict[str, object] = {
            name: pa.array(values[turned] * (1 + 1e-3 * shard), from_pandas=True) for name, values in scores.items()
        }
        length = seconds[turned]
        start = 100.0 * (np.arange(count) % PER_VIDEO)
        columns |= {
            "start_time": start, "end_time": start + length, "shot_start_time": start, "shot_end_time": start + length,
            "unit": np.zeros(count, np.int32), "fps": np.full(count, 25.0), "width": np.full(count, 1280, np.int32),
            "height": np.full(count, 720, np.int32), "num_frames": np.round(length * 25).astype(np.int64),
            "start_frame": (start * 25).astype(np.int64), "end_frame": ((start + length) * 25).astype(np.int64),
        }  # fmt: skip
        videos = [f"{shard * 7919 % 65536:04x}{v:012x}{shard:016x}" for v in range(-(-count // PER_VIDEO))]
        columns["video_id"] = np.repeat(videos, PER_VIDEO)[:count]
        columns["video_path"] = [f"/footage/{video}.mp4" for video in columns["video_id"]]
        columns["clip_id"] = [
            f"{v}-{f:08d}" for v, f in zip(columns["video_id"], columns["start_frame"].tolist(), strict=True)
        ]
        columns["caption_merged"] = [texts[at] for at in turned]
        columns["still_middle"] = [picture.getvalue()] * count
        seen = {"video_id": videos, "video_path": [f"/footage/{video}.mp4" for video in videos]}
        seen |= {"unit": np.zeros(len(videos), np.int32), "units": np.ones(len(videos), np.int32)}
        seen |= {"status": ["ok"] * len(videos), "clips": np.full(len(videos), PER_VIDEO, np.int32)}
        seen |= {"duration": np.full(len(videos), 2000.0), "fps": np.full(len(videos), 25.0)}
        about = {"units": [f"{v}-0000" for v in videos], "stages": ["bench"], "generation": 0, "replaces": []}
        for table, schema, values in (("clips", TABLES.clips, columns), ("videos", TABLES.videos, seen)):
            rows = len(values["video_id"])
            arrays = [pa.array(values[f.name], f.type) if f.name in values else pa.nulls(rows, f.type) for f in schema]
            made = pa.Table.from_arrays(arrays, schema=schema.with_metadata({FOOTER: json.dumps(about).encode()}))
            pq.write_table(made, root / table / f"part-{shard:016x}.parquet", compression="zstd", row_group_size=GROUP)
    config = load_config("quickstart", []).model_copy(update={"selection": SELECTION})
    write_json(root / "dataset.json", {"format": 1, "config": config.model_dump(mode="json"), "models": {}})


class _Clips(ClipCache):
    """A folder alone: no child process is wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class _Figures(dict):
    """What was measured -> (wall, CPU) in seconds, or MB."""

    def time(self, what: str, call: Callable[[], Any], times: int = 1) -> Any:
        took = []
        for _ in range(times):
            began, spent = time.perf_counter(), time.process_time()
            made = call()
            took.append((time.perf_counter() - began, time.process_time() - spent))
        self[what] = [statistics.median(column) for column in zip(*took, strict=True)]
        return made


def measure(root: Path, cache: Path) -> dict[str, Any]:
    """Figures of one dataset, in this process."""
    found = _Figures()
    peak = _Peak()
    found.time("tables made, and opened", lambda: load(str(root), _Clips(cache), None))
    found["memory while they are made, MB"] = peak.stop()
    peak = _Peak()
    loaded = found.time("opened again", lambda: load(str(root), _Clips(cache), None))
    found["clips"] = loaded.columns.count
    _filters(found, loaded)
    _lists(found, loaded)
    found["memory in use at most, MB"] = peak.stop()
    found["disk, MB"] = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / 1e6
    return found


def _filters(found: _Figures, loaded: Loaded) -> None:
    chooser, base = loaded.chooser, list(loaded.inspected.filters)
    names, moved = list(chooser.axes)[:SHOWN], iter(np.linspace(1.0, 3.0, 200))

    def counts() -> Choice:
        return chooser.choose([*base, Filter("min", "camera_zoom", float(next(moved)))])

    def move() -> None:
        choice = counts()
        for name in names:
            chooser.histogram(name, choice)

    found.time("recorded selection, the first time", lambda: chooser.choose(base))
    found.time(f"first histograms ({SHOWN})", move)
    found.time(f"threshold moved: counts, and {SHOWN} histograms", move, 9)
    found.time("of them the counts", counts, 9)
    first = [*base[:1], Filter("drop_bottom", "motion_score", 30.0), *base[2:]]
    found.time("another first filter: counts", lambda: chooser.choose(first))
    found.time("another choice: one histogram", lambda: chooser.histogram(names[0], chooser.choose([])))
    comparing = Filter("where", sql="width >= 700 AND motion_score > text_area")
    found.time("SQL condition", lambda: chooser.verdict(comparing))


def _lists(found: _Figures, loaded: Loaded) -> None:
    listing, columns, choice = loaded.listing, loaded.columns, loaded.chooser.choose(loaded.inspected.filters)
    for what, page, times in (
        ("sorted list, a score's first time", Page(sort="camera_pan_x"), 1),
        ("sorted list", Page(sort="camera_pan_x", descending=True), 5),
        ("sorted list, in the middle", Page(sort="camera_pan_x", offset=choice.clips // 2), 5),
        ("random list", Page(sort="random", seed=3), 5),
    ):
        found.time(what, lambda page=page: listing.page(choice, page), times)
    found.time("words in captions", lambda: listing.found(Find(words="dog beach")))
    clip = columns.id(columns.count // 3)
    found.time("a clip by its id", lambda: columns.rows([columns.place(clip)], columns.held), 5)


class _Peak(threading.Thread):
    """The most that a process has of its own, in MB, looked at 20 times a second: resident, and not of a file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.process, self.most, self.ended = psutil.Process(), 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            memory = self.process.memory_info()
            self.most = max(self.most, (memory.rss - memory.shared) / 1e6)

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="where the datasets are made, and kept")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as cache:
            print(json.dumps(measure(arguments.measure, Path(cache))))
        return
    columns = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        for clips in arguments.clips:
            root = folder / f"clips-{clips}"
            if not (root / "dataset.json").exists():
                make(root, clips)
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.inspector_scale",
                "--measure",
                str(root),
                "--folder",
                str(folder),
            ]
            columns.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    table = Table("what: seconds, (of CPU)", *(f"{int(column.pop('clips')):,} clips" for column in columns))
    for what in columns[0]:
        shown = (
            f"{c[what]:,.0f} MB" if what.endswith("MB") else f"{c[what][0]:,.3f} ({c[what][1]:,.3f})" for c in columns
        )
        table.add_row(what.removesuffix(", MB"), *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
