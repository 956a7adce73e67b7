"""Footage per CPU hour of the whole pipeline, by stage.

    python -m tests.benchmarks.pipeline [FOLDER] [--config quickstart]

Every stage runs in this one process on one thread, so that its CPU time can be told apart; loading models is listed on its
own. Peak memory is that of the process, models and decode together.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from curate.video.identity import fingerprint
from curate.video.units import plan
from pipelines.annotation.stages import build
from pipelines.annotation.workers.worker import limit_threads
from pipelines.config import load
from pipelines.demo import make_footage
from pipelines.sources.sources import find_videos


def measure(folder: Path, config_name: str) -> Table:
    config = load(config_name, ["decode.isolate=false"])
    began = time.process_time()
    steps = build(config, list(config.parts.stages))
    limit_threads(1)
    loading = time.process_time() - began
    spent: dict[str, float] = {}
    units, footage, clips = [], 0.0, 0
    for video in find_videos([str(folder)]).videos:
        units += plan(replace(video, video_id=fingerprint(video.path)))
    began = time.process_time()
    for unit in units:
        if unit.status != "ok":
            continue
        footage += unit.footage
        for step in steps:
            start = time.process_time()
            step([unit])
            name = getattr(step, "name", type(step).__name__.lower())
            spent[name] = spent.get(name, 0.0) + time.process_time() - start
        clips += len(unit.clips)
    total = time.process_time() - began
    table = Table(
        title=f"whole {config.pack} pipeline: {footage:.1f} s of footage, {clips} clips, CPU seconds on one thread"
    )
    for heading in ("stage", "CPU s", "share", "CPU s per clip", "footage hours per CPU hour"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, seconds in spent.items():
        if name != "function":
            row = (
                f"{seconds:.1f}",
                f"{seconds / total:.1%}",
                f"{seconds / max(clips, 1):.2f}",
                f"{footage / max(seconds, 1e-9):.1f}",
            )
            table.add_row("decode, shots, motion, stills" if name == "pass" else name, *row)
    table.add_section()
    table.add_row("all stages", f"{total:.1f}", "", f"{total / max(clips, 1):.2f}", f"{footage / total:.2f}")
    table.add_row("loading models, once a worker", f"{loading:.1f}", "", "", "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    table.caption = f"peak memory {peak:.2f} GB"
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--config", default="quickstart")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch) / "footage"
            make_footage(folder)
        Console(width=110).print(measure(folder, options.config))


if __name__ == "__main__":
    main()
