"""How long a step waits for a checkpoint: `python -m tests.benchmarks.saving [GB ...]`, of one worker, with fsync.

`waiting` writes while the training waits; `behind` copies and writes in a thread, of which the second copy, into memory that
the first one left, is told.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from video_model.training.storage.saving import Saver


def main() -> None:
    print("| GB | how | a step is held up, s | until it is on the disk, s |")
    print("|---|---|---|---|")
    for size in [float(text) for text in sys.argv[1:]] or [0.2, 1.0]:
        count = int(size * 1e9 / 4 / 64)
        parts = {"network": {f"w{i}": torch.ones(count) for i in range(64)}}
        for how, background in (("waiting", False), ("behind", True)):
            with tempfile.TemporaryDirectory() as folder:
                saver = Saver(Path(folder), 0, background=background)
                for step in (1, 2):
                    began = time.perf_counter()
                    saver.save(step, parts, {})
                    held = time.perf_counter() - began
                    saver.finish()
                    whole = time.perf_counter() - began
                print(f"| {size:g} | {how} | {held:.2f} | {whole:.2f} |", flush=True)


if __name__ == "__main__":
    main()
