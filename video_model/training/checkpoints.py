"""Checkpoints that are there whole or not at all, and the last good one found by itself.

    FOLDER/step-00000500/network.safetensors, ema.safetensors, optimizer.safetensors   named tensors
    FOLDER/step-00000500/network-00000-of-00008.safetensors ...                        or the shards of each worker
    FOLDER/step-00000500/state.json                                                    step, facts, size of each file

Written aside as `.step-...`, flushed to the disk, renamed by the first worker when all are done. No pickle. Shards are put
together by whoever reads them: a run may be resumed by another number of workers.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from curate.base.files import commit, flush
from video_model.tensor_files import TensorFiles, write_tensors
from video_model.workers import TrainingWorker

STATE = "state.json"


class CheckpointError(Exception):
    """One line: the folder, the reason, the fix."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    facts: dict[str, Any]

    def part(self, name: str) -> TensorFiles:
        """The tensors saved as `name`, to be read one by one. CheckpointError where a file is damaged."""
        shards = sorted(self.path.glob(f"{name}-*-of-*.safetensors"))
        try:
            return TensorFiles(shards or [self.path / f"{name}.safetensors"])
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.path}/{name}: cannot be read ({error}): delete the folder, the one before is used"
            ) from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All of them, whole."""
        part = self.part(name)
        return {key: part.read(key) for key in part.shapes}


def save(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    keep: int,
    worker: TrainingWorker | None = None,
) -> Checkpoint:
    """Write FOLDER/step-<step>, then delete all but the newest `keep` others. A full disk leaves what was there.

    All workers must call it. Tensors that are spread over them are written by each as far as it holds them, all others by the
    first alone. Raises CheckpointError, and WorkerError where another one cannot write.
    """
    worker = worker or TrainingWorker()
    path = folder / f"step-{step:08d}"
    aside = path.with_name(f".{path.name}")
    spread = any(isinstance(value, DTensor) for tensors in parts.values() for value in tensors.values())

    def empty() -> None:
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
        aside.mkdir(parents=True)

    def write() -> None:
        for part, tensors in parts.items():
            name = f"{part}-{worker.rank:05d}-of-{worker.world:05d}" if spread else part
            file = aside / f"{name}.safetensors"
            write_tensors(file, {k: v for k, v in tensors.items() if worker.first or isinstance(v, DTensor)})
            flush(file)

    def name() -> None:
        state = {"step": step, "files": {p.name: p.stat().st_size for p in aside.iterdir()}, "facts": dict(facts)}
        (aside / STATE).write_text(json.dumps(state, indent=1))
        if path.exists():  # it is damaged, or it would have been resumed
            shutil.rmtree(path)
        commit(aside, path)
        for old in _found(folder)[keep + 1 :]:
            shutil.rmtree(old)

    try:
        for action, who in ((empty, worker.first), (write, worker.first or spread), (name, worker.first)):
            worker.agree(_tried(action, path, step) if who else None)
    finally:
        if worker.first:
            shutil.rmtree(aside, ignore_errors=True)
    return Checkpoint(path, step, dict(facts))


def _tried(action: Callable[[], None], path: Path, step: int) -> CheckpointError | None:
    """Do it; why it cannot be done."""
    try:
        action()
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        fix = "free some space" if full else "check the disk"
        reason = "the disk is full" if full else str(error)
        return CheckpointError(
            f"{path}: the checkpoint of step {step} cannot be written: {reason}; {fix}, then use --resume"
        )
    return None


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; older ones are looked at where it is damaged. None: there is none."""
    for path in _found(folder):
        if (found := _read(path)) is not None:
            return found
    return None


def _read(path: Path) -> Checkpoint | None:
    try:
        state = json.loads((path / STATE).read_text())
        for name, size in state["files"].items():
            if (path / name).stat().st_size != size:
                return None
            with safe_open(path / name, framework="pt") as file:  # its header is whole
                file.keys()
        return Checkpoint(path, int(state["step"]), dict(state["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _found(folder: Path) -> list[Path]:
    """Newest first; what was being written is not among them."""
    return sorted(folder.glob("step-*"), reverse=True)
