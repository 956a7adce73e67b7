"""The log of a run: a line of JSON a step, TensorBoard, and wandb if it is installed and asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from curate.base.extras import install_command
from curate.base.files import write_atomic


class Journal:
    """FOLDER/log.jsonl and TensorBoard files under `board`; only the first worker has one. Values are plain numbers."""

    def __init__(self, folder: Path, board: Path, step: int, wandb: dict[str, Any] | None = None) -> None:
        """step: the one after which the run is resumed; lines after it, of a run that was killed, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(board / folder.name), purge_step=step + 1)
        self._wandb = _wandb(wandb, folder.name) if wandb else None

    def numbers(self, step: int, values: dict[str, float]) -> None:
        values = {key: float(f"{value:.6g}") for key, value in values.items()}
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        if self._wandb:
            self._wandb.log({f"{self._wandb.config['stage']}/{key}": value for key, value in values.items()})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """picture: [height, width, 3] uint8."""
        self._board.add_image(name, picture, step, dataformats="HWC")
        self._board.flush()

    def close(self) -> None:
        self._lines.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl that are whole; [] if there is none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return lines


def _wandb(options: dict[str, Any], stage: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise ImportError(
            f"loop.wandb: wandb is not installed: {install_command('wandb')}, or leave the key out"
        ) from None
    return wandb.init(project=options["project"], name=f"{options['name']}/{stage}", config={"stage": stage})
