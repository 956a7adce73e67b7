"""Planned memory against measured: `python -m tests.benchmarks.memory`. Training steps of three networks on the CPU.

Measured is the growth of a child process's resident memory, from before the network is made to its peak in two steps
(VmHWM): weights, gradients, moments, average, activations, with what oneDNN keeps for itself and the allocator for later.
Modules that are imported, the codec and the text encoder are in neither figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from video_model.config import TrainConfig
from video_model.diffusion.slots import Models
from video_model.training.build import build_conditioner
from video_model.training.planning.cards import Machine
from video_model.training.planning.outlines import Outlines
from video_model.training.planning.plan import plan
from video_model.training.planning.simulate import largest_shape
from video_model.training.steps.state import TrainingState
from video_model.workers import TrainingWorker

STAGE = {"frames": [8], "sizes": [[64, 64]], "steps": 1, "batch": 4}
SMALL = {"kind": "unet", "channels": [64, 128], "layers": 1, "head_dim": 32}
SIZES: dict[str, dict[str, Any]] = {
    "4 M, float32": {"network": SMALL, "stages": {"video": STAGE | {"batch": 6}}},
    "60 M, float32, checkpointing": {
        "network": SMALL | {"channels": [128, 256, 384], "attention": [True, True, False]},
        "stages": {"video": STAGE | {"sizes": [[128, 128]], "batch": 4, "accumulate": 2}},
        "loop": {"checkpointing": True},
    },
    "60 M, bfloat16": {
        "network": SMALL | {"channels": [128, 256, 384], "attention": [True, True, False]},
        "stages": {"video": STAGE | {"sizes": [[96, 96]]}},
        "loop": {"precision": "bfloat16"},
    },
}


def planned(tree: dict[str, Any]) -> float:
    """Bytes of a step at its peak."""
    found = plan(TrainConfig.model_validate(tree), Machine(1, "cpu", 64, 0.1, "a CPU", "")).stages[0]
    parts = dict(found.memory)
    parts.pop("codec and encoders")
    return sum(parts.values()) - min(parts["activations"], parts["optimizer's step"])


def measured(tree: dict[str, Any]) -> int:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", json.dumps(tree)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def _here(tree: dict[str, Any]) -> int:
    """Growth of this process's resident memory at its peak in two steps."""
    torch.set_num_threads(1)
    config = TrainConfig.model_validate(tree)
    outlines, stage = Outlines.of(config), config.stages["video"]
    frames, height, width = largest_shape(config, "video")
    rows, h, w = stage.batch, height // outlines.factor, width // outlines.factor
    batch = {
        "latents": torch.randn(rows, frames, outlines.channels, h, w),
        "text": torch.randn(rows, outlines.tokens, outlines.dim),
        "text_mask": torch.ones(rows, outlines.tokens, dtype=torch.bool),
        "fps": torch.full((rows,), 8.0),
        "motion": torch.ones(rows),
        "images": torch.zeros(rows, dtype=torch.bool),
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    network = outlines.network("video").train()
    state = TrainingState(network, config.denoiser, stage, config.loop, TrainingWorker())
    conditioner = build_conditioner(config, "video", Models(None, None))
    for step in range(2):
        state.gradients("memory", conditioner, step, batch)
        state.clip()
        state.update(step)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    if len(sys.argv) > 1:
        print(_here(json.loads(sys.argv[1])))
        return
    print(f"{'':32} {'planned':>9} {'measured':>9} {'ratio':>6}")
    for name, tree in SIZES.items():
        plan, real = planned(tree), measured(tree)
        print(f"{name:32} {plan / 1e6:6.0f} MB {real / 1e6:6.0f} MB {plan / real:6.2f}", flush=True)


if __name__ == "__main__":
    main()
