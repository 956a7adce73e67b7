"""The inspector over a million clips: first page, following a drag, memory.

    python -m tests.benchmarks.inspector [--clips 1000000] [--folder FOLDER]

The dataset is made by script, as `winnow annotate` would write it: a thousand clips a shard, every column, captions, labels
of errors; stills are shared within a row group and embeddings are null, so that it fits a laptop. FOLDER keeps it for the
next run. Times are what a Chromium on the same machine sees: from the navigation to the last still in sight and the last bar
drawn, and from a move of the mouse to the next frame with the new counts. Memory is that of the server.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from curate.base.files import write_json
from pipelines.annotation.stages import TABLES
from pipelines.config import load
from pipelines.dataset.dataset import FORMAT
from pipelines.dataset.files import FOOTER, GROUP_ROWS
from tests.pipelines.inspector.browser import launched

SHARD, PER_VIDEO = 1000, 20
SELECTION = [
    {"where": "end_time - start_time >= 1"},
    {"drop_bottom": {"motion_score": "25%"}},
    {"max": {"text_area": 0.07, "nsfw_score": 0.9}},
    {"drop_top": {"technical_quality": "10%"}},
]
WORDS = [
    "a",
    "man",
    "walks",
    "dog",
    "beach",
    "car",
    "street",
    "night",
    "red",
    "blue",
    "slow",
    "pan",
    "over",
    "mountains",
    "people",
    "dancing",
    "near",
    "water",
]
SHOWN = """() => document.querySelectorAll('.tile').length > 0 && [...document.images].every((image) => {
  const box = image.getBoundingClientRect();
  const inSight = box.bottom > 0 && box.top < innerHeight && box.width > 0;
  return !inSight || (image.src && image.complete && image.naturalWidth > 0);
}) && [...document.querySelectorAll('.histogram')].filter((card) => card.getBoundingClientRect().top < innerHeight)
  .every((card) => card.querySelector('path.kept').hasAttribute('d') && card.querySelector('.strip').childElementCount)"""
WATCH = """() => {
  window.times = [];
  let moved = 0;
  addEventListener('pointermove', () => { moved = performance.now(); }, true);
  new MutationObserver(() => {
    const from = moved;
    requestAnimationFrame(() => requestAnimationFrame(() => window.times.push(performance.now() - from)));
  }).observe(document.querySelector('#headline'), { childList: true });
}"""


def make(root: Path, clips: int, seed: int = 0) -> None:
    """A dataset of `clips` clips, as annotate would have written it."""
    config = load("quickstart", [])
    config = config.model_copy(update={"selection": SELECTION})
    for table in ("clips", "videos"):
        (root / table).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    stills = [jpeg(rng) for _ in range(64)]
    for shard in range(-(-clips // SHARD)):
        count = min(SHARD, clips - shard * SHARD)
        name, units = f"{shard:016x}", [f"{shard:08x}{i:08x}" for i in range(-(-count // PER_VIDEO))]
        rows, videos = clip_rows(rng, units, count, stills), video_rows(rng, units, count)
        about = {"units": [f"{unit}-0000" for unit in units], "stages": list("bench"), "generation": 0, "replaces": []}
        for table, schema, columns in (("clips", TABLES.clips, rows), ("videos", TABLES.videos, videos)):
            length = len(next(iter(columns.values())))
            arrays = [
                pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(length, f.type) for f in schema
            ]
            made = pa.Table.from_arrays(arrays, schema=schema.with_metadata({FOOTER: json.dumps(about).encode()}))
            pq.write_table(made, root / table / f"part-{name}.parquet", compression="zstd", row_group_size=GROUP_ROWS)
    write_json(root / "dataset.json", {"format": FORMAT, "config": config.model_dump(mode="json"), "models": {}})


def clip_rows(rng: np.random.Generator, videos: list[str], count: int, stills: list[bytes]) -> dict[str, object]:
    video = np.repeat(np.arange(len(videos)), PER_VIDEO)[:count]
    seconds = np.round(rng.gamma(2.0, 2.0, count) + 0.4, 2)
    start = np.concatenate([np.cumsum(seconds[video == v]) - seconds[video == v] for v in range(len(videos))])
    frame = np.round(start * 25).astype(np.int64)
    words = rng.integers(0, len(WORDS), (count, 8))
    texts = [" ".join(WORDS[w] for w in row) for row in words]
    scores = {
        "motion_score": rng.gamma(1.5, 3.0, count),
        "motion_residual": rng.gamma(1.5, 2.0, count),
        "camera_pan_x": rng.normal(0, 4, count),
        "camera_pan_y": rng.normal(0, 2, count),
        "camera_zoom": rng.normal(0, 1, count),
        "text_area": np.maximum(0, rng.normal(-0.1, 0.12, count)),
        "technical_quality": rng.normal(40, 15, count),
        "nsfw_score": rng.beta(0.4, 6, count),
        "similarity_frame": rng.normal(0.25, 0.05, count),
        "similarity_video": rng.normal(0.2, 0.08, count),
        "similarity_merged": rng.normal(0.26, 0.05, count),
    }
    rows: dict[str, object] = {
        name: np.where(rng.random(count) < 0.02, np.nan, value) for name, value in scores.items()
    }
    rows = {name: pa.array(value, from_pandas=True) for name, value in rows.items()}
    picture = [stills[(i // GROUP_ROWS) % len(stills)] for i in range(count)]
    return rows | {
        "clip_id": [f"{videos[v]}-{f:08d}" for v, f in zip(video, frame, strict=True)],
        "video_id": [videos[v] for v in video],
        "video_path": [f"/footage/{videos[v]}.mp4" for v in video],
        "unit": np.zeros(count, np.int32),
        "start_time": start,
        "end_time": start + seconds,
        "start_frame": frame,
        "end_frame": frame + np.round(seconds * 25).astype(np.int64),
        "num_frames": np.round(seconds * 25).astype(np.int64),
        "fps": np.full(count, 25.0),
        "width": rng.choice([640, 1280, 1920], count).astype(np.int32),
        "height": rng.choice([360, 720, 1080], count).astype(np.int32),
        "shot_start_time": start,
        "shot_end_time": start + seconds,
        "motion_pairs": np.round(seconds * 2).astype(np.int32),
        "text_boxes": rng.poisson(0.5, count).astype(np.int32),
        "caption_frame": texts,
        "caption_video": [text[::-1] for text in texts],
        "caption_merged": texts,
        "errors": [[("motion", "too short")] if i % 50 == 0 else [] for i in range(count)],
        "still_first": picture,
        "still_middle": picture,
        "still_last": picture,
    }


def video_rows(rng: np.random.Generator, videos: list[str], count: int) -> dict[str, object]:
    n = len(videos)
    return {
        "video_id": videos,
        "video_path": [f"/footage/{video}.mp4" for video in videos],
        "unit": [0] * n,
        "units": [1] * n,
        "status": ["ok"] * n,
        "clips": [PER_VIDEO] * n,
        "seconds": [[("decode", 1.0), ("text", 5.0)]] * n,
        "duration": rng.gamma(2, 60, n),
        "width": rng.choice([640, 1280, 1920], n).tolist(),
        "height": rng.choice([360, 720, 1080], n).tolist(),
        "fps": rng.choice([24.0, 25.0, 30.0], n),
    }


def jpeg(rng: np.random.Generator) -> bytes:
    """A picture of 640 x 360 that takes about as many bytes as a still of a film."""
    coarse = rng.integers(0, 256, (18, 32, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((640, 360), Image.Resampling.BICUBIC)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture + rng.integers(-9, 10, picture.shape), 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=80
    )
    return buffer.getvalue()


def measure(root: Path, console: Console) -> Table:
    began = time.perf_counter()
    arguments = ["inspect", str(root), "--port", "0", "--no-open"]
    server = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()
        address = server.stdout.readline().strip()
        while (about := json.load(urllib.request.urlopen(f"{address}api/start")))["state"] == "loading":
            time.sleep(0.1)
        reading = time.perf_counter() - began
        console.print(f"{about['clips']:,} clips read")
        process = psutil.Process(server.pid)
        idle = process.memory_info().rss
        with sync_playwright() as playwright, launched(playwright) as browser:
            firsts, work = [], []
            for _ in range(5):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                start, spent = time.perf_counter(), cpu(process)
                page.goto(address, wait_until="commit")
                page.wait_for_function(SHOWN, polling="raf")
                firsts.append(time.perf_counter() - start)
                work.append([after - before for before, after in zip(spent, cpu(process), strict=True)])
                if len(firsts) < 5:
                    page.close()
            rows = {f"drag {name}": drag(page, name) for name in ("motion_score", "text_area", "technical_quality")}
            peak = process.memory_info().rss
    finally:
        server.terminate()
        server.wait()
    table = Table("what", "median", "95%", title=f"{about['clips']:,} clips", title_justify="left")
    table.add_row("server reads the dataset, once", f"{reading:.1f} s", "")
    table.add_row("first page, the first time", f"{firsts[0]:.2f} s", "")
    table.add_row("first page, again (4 times)", f"{np.median(firsts[1:]):.2f} s", f"{max(firsts[1:]):.2f} s")
    server_work, browser_work = np.median(work, 0)
    table.add_row("CPU time of server and browser for it", f"{server_work:.2f} + {browser_work:.2f} s", "")
    for name, times in rows.items():
        table.add_row(name, f"{np.median(times):.0f} ms", f"{np.quantile(times, 0.95):.0f} ms")
    every = np.concatenate(list(rows.values()))
    table.add_row("drag, all", f"{np.median(every):.0f} ms", f"{np.quantile(every, 0.95):.0f} ms")
    table.add_row("memory of the server, after reading", f"{idle / 1e9:.2f} GB", "")
    table.add_row("memory of the server, after dragging", f"{peak / 1e9:.2f} GB", "")
    return table


def cpu(server: psutil.Process) -> tuple[float, float]:
    """CPU seconds so far: of the server, and of this process's other children, the browser."""
    spent = {"server": 0.0, "browser": 0.0}
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        spent["server" if process.pid == server.pid else "browser"] += times.user + times.system
    return spent["server"], spent["browser"]


def drag(page, name: str, steps: int = 30) -> list[float]:
    """Milliseconds from each move of the mouse to the frame that shows its counts."""
    grip = page.locator(f'.histogram[data-score="{name}"] .handle:not(.resting) .grip').first
    grip.scroll_into_view_if_needed()
    page.evaluate(WATCH)
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, steps + 1):
        before = page.evaluate("times.length")
        page.mouse.move(x + 3 * step, y)
        page.wait_for_function("before => times.length > before", arg=before, polling=5, timeout=20_000)
    page.mouse.up()
    return page.evaluate("times").copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the dataset is made, and kept")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.folder or Path(scratch) / "annotated"
        if not (root / "dataset.json").exists():
            began = time.perf_counter()
            make(root, arguments.clips)
            console.print(f"made in {time.perf_counter() - began:.0f} s")
        console.print(measure(root, console))


if __name__ == "__main__":
    main()
