"""The log of a run: a line of JSON a step, TensorBoard, and wandb if it is installed and asked for."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.base.extras import install_command
from curate.base.files import write_atomic, write_json
from video_model.training.curves import HELD_OUT, sigma_levels, sigma_picture

# Of TensorBoard's page "Custom Scalars": several curves in one chart
CHARTS = {
    "loss": {
        "in training and on held-out clips": ["Multiline", ["train/loss", "held_out/loss"]],
        "on held-out clips, by noise level": ["Multiline", ["held_out/sigma.*"]],
    }
}


class WandbError(ImportError):
    """wandb that cannot be begun. One line: the reason, the fix."""


class Journal:
    """FOLDER/log.jsonl and TensorBoard files under `board`; only the first worker has one. Values are plain numbers.

    wandb: {"project", "name", "config"}; FOLDER/wandb.json keeps the id, so that a resumed run goes on in the same one.
    """

    def __init__(self, folder: Path, board: Path, step: int, wandb: dict[str, Any] | None = None) -> None:
        """step: the one after which the run is resumed; lines after it, of a run that was killed, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        kept = [line for line in read_log(self._path) if line["step"] <= step]
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._wandb = _wandb(wandb, folder) if wandb else None
        self._lines = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(board / folder.name), purge_step=step + 1)
        self._board.add_custom_scalars(CHARTS)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        values = {key: float(f"{value:.6g}") for key, value in values.items()}
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for key, value in values.items():
            self._board.add_scalar(tag(key), value, step)
        if self._wandb:
            self._wandb.log({"step": step} | {tag(key): value for key, value in values.items()})
        if sigma_levels(values):
            self.picture(step, "held_out/loss by sigma", sigma_picture(read_log(self._path)))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """picture: [height, width, 3] uint8."""
        self._board.add_image(name, picture, step, dataformats="HWC")
        self._board.flush()
        if self._wandb:
            import wandb

            self._wandb.log({"step": step, name: wandb.Image(picture)})

    def videos(self, step: int, name: str, files: Sequence[Path], captions: Sequence[str]) -> None:
        """files: mp4. TensorBoard has strips of them instead, as pictures."""
        if self._wandb and files:
            import wandb

            made = [
                wandb.Video(str(file), caption=text, format="mp4") for file, text in zip(files, captions, strict=True)
            ]
            self._wandb.log({"step": step, name: made})

    def close(self) -> None:
        """Whatever ended the stage: what was logged is kept, and wandb is told whether it failed."""
        self._lines.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish(exit_code=0 if sys.exc_info()[0] is None else 1)


def tag(key: str) -> str:
    """The name of a number in TensorBoard and wandb, where what stands before the stroke is a group of charts."""
    if key == HELD_OUT:
        return "held_out/loss"
    return key.replace(HELD_OUT, "held_out") if key.startswith(f"{HELD_OUT}/") else f"train/{key}"


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl that are whole; [] if there is none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return lines


def _wandb(options: dict[str, Any], folder: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise WandbError(
            f"loop.wandb: wandb is not installed: {install_command('wandb')}, or leave the key out"
        ) from None
    kept = folder / "wandb.json"
    if not kept.exists():
        write_json(kept, {"id": secrets.token_hex(4)})
    try:
        run = wandb.init(
            project=options["project"],
            name=f"{options['name']}/{folder.name}",
            group=options["name"],
            id=json.loads(kept.read_text())["id"],
            resume="allow",
            dir=str(folder),
            config={"stage": folder.name} | options.get("config", {}),
        )
    except (wandb.Error, OSError, ValueError) as error:
        raise WandbError(
            f"loop.wandb: cannot be begun ({str(error).splitlines()[0]}): `wandb login`, or set WANDB_MODE=offline, or leave the "
            "key out"
        ) from None
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # its own count would drop what a resumed run does again
    return run
