"""Writing checkpoints while the training goes on: a copy in memory, files that a thread writes aside, one rename.

Each worker writes what it holds to `.step-<step>-<attempt>/`; the first, when the files of all are there, renames the folder.
Of a run in a store each puts its files there as well, and the first state.json, last (see mirror.py).
The threads tell each other nothing but by files, as the training's own exchange goes on meanwhile. Never two at once; one that
is killed leaves what was there before. (torch.distributed.checkpoint's asynchronous writer pickles its plans and its metadata.)
"""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from curate.base.files import DiskError, commit, flush
from curate.base.store import StoreError
from video_model.tensor_files import Piece, pieces_of, place_of, write_pieces
from video_model.training.storage.checkpoints import STATE, Checkpoint, CheckpointError, found_in
from video_model.training.storage.mirror import Mirror
from video_model.workers import PATIENCE, TrainingWorker

LOOK = 0.1  # seconds between looks for the files of the others
LAST = 30.0  # seconds for these where the training has ended with an error
FAILED = "failed-{rank:05d}"  # in place of the files of a worker that cannot write
DONE = "done-{rank:05d}"  # in a store: the files of a worker, and their bytes


class Saver:
    """The checkpoints of a stage. All workers make one, and call `save` and `finish` together.

    keep: how many others are kept beside the newest. background: False to write them while the training waits, without a copy.
    mirror: of a run in a store.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        worker: TrainingWorker | None = None,
        *,
        background: bool = True,
        mirror: Mirror | None = None,
    ) -> None:
        self.folder, self.keep, self.worker, self.background = folder, keep, worker or TrainingWorker(), background
        self.mirror = mirror
        self.blocked = 0.0  # seconds that the last save held the training up
        self._attempt = self.worker.told(secrets.token_hex(4))[0]  # so that what a killed one still writes is apart
        self._copies: dict[tuple[str, str], Tensor] = {}
        self._writing: _Writing | None = None

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> Checkpoint:
        """Begin to write FOLDER/step-<step>; then all but the newest `keep` others go. A full disk leaves what was there.

        Tensors that are spread over the workers are written by each as far as it holds them; those that each holds whole, by
        the first alone. Waits for the one before. Raises what `finish` raises.
        """
        began = time.perf_counter()
        self.finish()
        spread = any(isinstance(value, DTensor) for tensors in parts.values() for value in tensors.values())
        pieces = self._held(parts) if spread or self.worker.first else {}
        if self.background:
            pieces = self._copied(pieces)
        checkpoint = Checkpoint(self.folder / f"step-{step:08d}", step, dict(facts))
        self._writing = _Writing(checkpoint, pieces, spread, self._attempt, self)
        self._writing.start()
        if not self.background:
            self.finish()
        self.blocked = time.perf_counter() - began
        return checkpoint

    @property
    def failed(self) -> bool:
        """Whether it is known that what is being written will not be there."""
        return self._writing is not None and self._writing.error is not None

    def heard(self, flag: bool) -> bool:
        """Whether a flag is true for one of the workers. Raises what `finish` raises, where one cannot write."""
        flagged, unwritten = self.worker.total([flag, self.failed])
        if unwritten:
            self.finish(LAST)
        return flagged > 0

    def finish(self, patience: float = PATIENCE) -> None:
        """Wait until what is being written is there. Raises CheckpointError, and WorkerError where another one cannot write.

        patience: seconds for the files of other workers."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.until = time.monotonic() + patience
            writing.join()
            self.worker.agree(writing.error)
        elif self.worker.world > 1:
            self.worker.agree(None)

    def leave(self) -> None:
        """The same after an error, with no exchange: the others may be gone."""
        if self._writing is not None:
            self._writing.until = time.monotonic() + LAST
            self._writing.join()

    def _held(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Piece]]:
        first = self.worker.first
        return {
            part: pieces_of({k: v for k, v in tensors.items() if first or place_of(v)[1] != tuple(v.shape)})
            for part, tensors in parts.items()
        }

    def _copied(self, parts: Mapping[str, Mapping[str, Piece]]) -> dict[str, dict[str, Piece]]:
        """Copies on the CPU, in memory that is used again by the next."""
        copies: dict[tuple[str, str], Tensor] = {}
        found: dict[str, dict[str, Piece]] = {part: {} for part in parts}
        for part, pieces in parts.items():
            for name, (value, whole) in pieces.items():
                held = self._copies.get((part, name))
                if held is None or held.shape != value.shape or held.dtype != value.dtype:
                    held = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                held.copy_(value.detach(), non_blocking=value.is_cuda)
                copies[part, name] = held
                found[part][name] = Piece(held, whole)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._copies = copies
        return found


class _Writing(threading.Thread):
    """One checkpoint that is being written. error: why it cannot be. until: when the first no longer waits for the others."""

    def __init__(
        self,
        made: Checkpoint,
        pieces: Mapping[str, Mapping[str, Piece]],
        spread: bool,
        attempt: str,
        saver: Saver,
    ) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self.made, self.pieces, self.spread, self.attempt = made, pieces, spread, attempt
        self.worker, self.keep, self.mirror = saver.worker, saver.keep, saver.mirror
        self.home = f"{self.mirror.name(made.path)}/{attempt}" if self.mirror else ""
        self.aside = made.path.with_name(f".{made.path.name}-{attempt}")
        self.error: Exception | None = None
        self.until = time.monotonic() + PATIENCE

    def run(self) -> None:
        try:
            if self.worker.first or self.spread:
                self._write()
            if self.worker.first and self._all_there():
                self._commit()
        except Exception as error:  # `finish` raises it
            known = isinstance(error, (OSError, SafetensorError, DiskError, StoreError))
            self.error = _unwritten(error, self.made) if known else error
            if not self.worker.first:
                self._tell()
        finally:
            if self.worker.first:
                shutil.rmtree(self.aside, ignore_errors=True)

    def _write(self) -> None:
        self.aside.mkdir(parents=True, exist_ok=True)
        sizes = {}
        for part, pieces in self.pieces.items():
            file = self.aside / self._file(part, self.worker.rank)
            unfinished = file.with_suffix(".tmp")
            write_pieces(unfinished, pieces)
            flush(unfinished)
            unfinished.rename(file)
            sizes[file.name] = file.stat().st_size
            if self.mirror:
                self.mirror.put(file, f"{self.home}/{file.name}")
        if self.mirror:
            name = f"{self.home}/{DONE.format(rank=self.worker.rank)}"
            self.mirror.store.replace(name, json.dumps(sizes).encode())

    def _file(self, part: str, rank: int) -> str:
        return f"{part}-{rank:05d}-of-{self.worker.world:05d}.safetensors" if self.spread else f"{part}.safetensors"

    def _all_there(self) -> bool:
        """Wait for the files of all workers; False where one cannot write, which it says itself."""
        ranks = range(self.worker.world) if self.spread else [0]
        missing = {self._file(part, rank) for part in self.pieces for rank in ranks}
        if self.mirror:
            missing = {DONE.format(rank=rank) for rank in ranks}
        failures = {FAILED.format(rank=rank) for rank in ranks}
        while True:
            there = self._there()
            missing -= there
            if failures & there:
                return False
            if not missing:
                return True
            if time.monotonic() > self.until:
                raise OSError(errno.ETIMEDOUT, f"{min(missing)} of another worker is missing")
            time.sleep(LOOK)

    def _there(self) -> set[str]:
        if self.mirror:
            return {entry.name.rpartition("/")[2] for entry in self.mirror.store.list(f"{self.home}/")}
        return {path.name for path in self.aside.iterdir()}

    def _commit(self) -> None:
        """The checkpoint is there from now on; old ones go, and what killed ones have left."""
        path, folder = self.made.path, self.made.path.parent
        state = {"step": self.made.step, "files": self._sizes(), "facts": self.made.facts}
        if self.mirror:
            state |= {"attempt": self.attempt}
            self.mirror.sync()  # the log up to this step is there with it
            self.mirror.put_state(path, state, self.keep)
        if path.exists():  # it is damaged, or it would have been resumed
            shutil.rmtree(path)
        if all((self.aside / name).exists() for name in state["files"]):  # else some are on other machines alone
            (self.aside / STATE).write_text(json.dumps(state, indent=1))
            commit(self.aside, path)
        for old in (*found_in(folder)[self.keep + 1 :], *folder.glob(".step-*")):
            shutil.rmtree(old, ignore_errors=True)

    def _sizes(self) -> dict[str, int]:
        if not self.mirror:
            return {file.name: file.stat().st_size for file in self.aside.iterdir()}
        ranks = range(self.worker.world) if self.spread else [0]
        told = [json.loads(self.mirror.store.read(f"{self.home}/{DONE.format(rank=rank)}")) for rank in ranks]
        return {name: size for sizes in told for name, size in sizes.items()}

    def _tell(self) -> None:
        """Say that this worker cannot write. If that cannot be said, the first waits until the training ends with the error."""
        name = FAILED.format(rank=self.worker.rank)
        try:
            if self.mirror:
                self.mirror.store.replace(f"{self.home}/{name}", b"")
            else:
                self.aside.mkdir(parents=True, exist_ok=True)
                (self.aside / name).touch()
        except (OSError, StoreError):
            pass


def save(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], keep: int
) -> Checkpoint:
    """Write one checkpoint, by one worker, and wait for it. Raises CheckpointError."""
    return Saver(folder, keep, background=False).save(step, parts, facts)


def _unwritten(error: Exception, made: Checkpoint) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    fix = "free some space" if full else "check the disk"
    reason = "the disk is full" if full else str(error)
    return CheckpointError(
        f"{made.path}: the checkpoint of step {made.step} cannot be written: {reason}; {fix}, then use --resume"
    )
