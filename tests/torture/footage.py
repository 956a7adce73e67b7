"""The footage of the torture: small, made by code, with one of each case that a restart has to get right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.footage import pan
from video_model.pictures import write_frames

FPS, HEIGHT, WIDTH = 25, 120, 160
FILMS, LISTED = 8, 3
INPUTS = FILMS + LISTED + 4  # and the long one, a copy, a text, an empty file
SETTINGS = ("decode.unit_seconds=3", "execution.shard_clips=4", "execution.shard_seconds=0.5", "shots.min_seconds=0.2")


def make_footage(folder: Path) -> None:
    """FILMS of two shots each, a long one of several units, a copy, a text, an empty file, and a list with captions."""
    (folder / "films").mkdir(parents=True)
    (folder / "listed").mkdir()
    for number in range(FILMS):
        _write(folder / "films" / f"film {number}.mp4", [*_shot(number, 2), *_shot(50 + number, 4)])
    _write(folder / "films" / "long.mp4", [picture for seed in range(9) for picture in _shot(100 + seed, 3, 40)])
    (folder / "films" / "z copy.mp4").write_bytes((folder / "films" / "film 0.mp4").read_bytes())
    (folder / "films" / "text.mp4").write_text("no video")
    (folder / "films" / "empty.mp4").touch()
    with open(folder / "listed" / "list.jsonl", "w") as stream:
        for number in range(LISTED):
            _write(folder / "listed" / f"told {number}.mp4", _shot(200 + number, 2))
            print(json.dumps({"path": f"told {number}.mp4", "caption": f"a pan of seed {number}"}), file=stream)


def _shot(seed: int, step: int, frames: int = 20) -> list[np.ndarray]:
    return pan(frames, step, seed, HEIGHT, WIDTH)


def _write(path: Path, frames: list[np.ndarray]) -> None:
    write_frames(path, frames, FPS, crf="23", preset="ultrafast", g="25")
