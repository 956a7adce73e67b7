"""Whole commands on the GPU: annotating with pools of workers on it, and a training run under Ray Train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.dataset.dataset import Dataset
from pipelines.demo import write
from tests.curate.test_full_video import save_blip
from tests.curate.tiny_models import TINY_CLIP, TINY_COCA, save_llama, save_open_clip, shake
from tests.footage import pan
from tests.gpu_check.rows import Row
from tests.gpu_check.setting import Setting, gb
from tests.video_model.clips import clips, write_clips
from video_model.config import TrainConfig
from video_model.training.journal import read_log

CONTEXT = 0.2e9  # that a process with CUDA takes of a GPU, at least
CLOSE = 0.02  # of scores and embeddings, relative to the largest of a column
STOP, SAVE = 60, 20  # the step that it is interrupted after, as soon as that is seen, and steps between checkpoints
STEPS = 400  # of the run that is interrupted


def annotating(setting: Setting) -> Iterator[Row]:
    """The full pack's models, tiny and random, on Ray's GPU pools: the rows of a CPU run in one process."""
    footage, models = setting.folder / "footage", _models(setting.folder / "models")
    footage.mkdir()
    for number in range(1 if setting.small else 3):
        write(footage / f"film {number}.mp4", [*pan(40, 2, seed=number), *pan(40, 4, seed=10 + number)])
    on_gpu = ["--executor", "ray", "--set", "execution.gpus=0.25"] if setting.gpu else ["--executor", "inline"]
    with used(setting) as most:
        took = setting.seconds(lambda: _annotate(setting, setting.folder / "on-device", [*models, *on_gpu]))
    there = _rows(setting.folder / "on-device")
    figure = f"{len(there['clip_id'])} clips in {took:.0f} s; its workers took {gb(most[0])} of the GPU"
    yield Row(
        "annotate, full pack on GPU pools",
        figure,
        "some of the GPU's memory",
        most[0] > CONTEXT if setting.gpu else None,
    )
    if setting.small:  # it was the CPU
        return
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    _annotate(setting, setting.folder / "on-cpu", [*models, "--executor", "inline"], hidden)
    yield _same_rows(there, _rows(setting.folder / "on-cpu"))


def _models(folder: Path) -> list[str]:
    """Tiny random weights, as the libraries save theirs, and the options that name them."""
    import open_clip

    folder.mkdir()
    shape = TINY_CLIP | {"embed_dim": 768}
    clip = save_open_clip(folder / "clip", shape, shake(open_clip.CLIP(**shape)))
    plain = {key: value for key, value in TINY_COCA.items() if key != "custom_text"}
    coca = save_open_clip(folder / "coca", TINY_COCA, shake(open_clip.CoCa(**plain), seed=1))
    torch.manual_seed(3)
    save_file(torch.nn.Linear(768, 1).state_dict(), folder / "head.safetensors")
    (folder / "blip").mkdir()
    (folder / "llama").mkdir()
    keys = {
        "embedder.folder": clip,
        "captions.frame.folder": coca,
        "captions.video.folder": save_blip(folder / "blip", "opt"),
        "captions.merge.folder": save_llama(folder / "llama"),
        "appearance.aesthetic.file": folder / "head.safetensors",
        "captions.video.dtype": "float32",
        "captions.merge.dtype": "float32",
        "shots.min_seconds": 0.5,
    }
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


def _annotate(setting: Setting, out: Path, options: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """`winnow annotate` of the footage; where all is small, in this process."""
    arguments = ["annotate", str(setting.folder / "footage"), "--out", str(out), "--config", "svd"]
    arguments += ["--stages", "similarity,appearance", *options]
    if setting.small:
        found = CliRunner().invoke(app, arguments)
        code, said = found.exit_code, found.output
    else:
        command, given = [sys.executable, "-m", "pipelines.cli", *arguments], os.environ | (environment or {})
        done = subprocess.run(
            command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        code, said = done.returncode, done.stdout
    if code:
        raise RuntimeError(f"winnow annotate ended with {code}: {' '.join(said.split())[-250:]}")


@contextmanager
def used(setting: Setting) -> Iterator[list[float]]:
    """[0]: the most bytes that other processes took of the GPU meanwhile."""
    most, ended = [0.0], threading.Event()
    if not setting.gpu:
        yield most
        return
    free, _ = torch.cuda.mem_get_info()

    def look() -> None:
        while not ended.wait(0.1):
            most[0] = max(most[0], float(free - torch.cuda.mem_get_info()[0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _rows(dataset: Path) -> dict[str, list[Any]]:
    table = duckdb.sql(f"SELECT * FROM {Dataset(dataset).clips_sql} ORDER BY clip_id").arrow()
    return (table.read_all() if hasattr(table, "read_all") else table).to_pydict()


def _same_rows(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> Row:
    """Captions word for word are told, not held: a rounding may turn one of a tiny random model."""
    worst, at, texts, equal = 0.0, "", 0, 0
    for column, values in expected.items():
        for one, other in zip(found[column], values, strict=True):
            if isinstance(other, str) and column.startswith("caption"):
                texts, equal = texts + 1, equal + (one == other)
            elif isinstance(other, (float, list)) and one is not None:
                a, b = (np.asarray(value, dtype=object if _mixed(value) else float).ravel() for value in (one, other))
                if a.dtype == object or not len(b):
                    continue
                off = float(np.abs(a - b).max() / max(1e-6, np.abs(b).max()))
                if off > worst:
                    worst, at = off, column
    ids = found["clip_id"] == expected["clip_id"]
    figure = f"{len(expected['clip_id'])} clips; scores {worst:.1e} off at most{f' ({at})' if at else ''}; {equal} of {texts} captions equal"
    return Row("its rows, of a CPU run's", figure, f"the same clips, scores within {CLOSE:.0%}", ids and worst < CLOSE)


def _mixed(value: Any) -> bool:
    return isinstance(value, list) and not all(isinstance(one, (int, float)) for one in value)


def training(setting: Setting) -> Iterator[Row]:
    """`winnow train --workers 1` under Ray Train, interrupted and resumed; where all is small, in this process."""
    curated = write_clips(setting.folder / "data", clips(12 if setting.small else 24))
    out, steps = setting.folder / "run", 4 if setting.small else STEPS
    given = {
        "config": _config(steps).model_dump(mode="json"),
        "data": str(curated),
        "out": str(out),
        "ray": setting.gpu,
    }
    began = time.perf_counter()
    _run(setting, given | {"stop": 3 if setting.small else STOP})
    stopped = max(
        (int(path.parent.name[5:]) for path in out.glob("stages/video/checkpoints/step-*/state.json")), default=0
    )
    code, said = _run(setting, given | {"stop": None})
    last = [line["step"] for line in read_log(out / "stages" / "video" / "log.jsonl") if "loss" in line][-1:]
    ok = code == 0 and 0 < stopped < steps and last == [steps] and (f"on {setting.device}" in said or not setting.gpu)
    figure = (
        f"stopped after step {stopped}, resumed, {last[0] if last else 0} steps; {time.perf_counter() - began:.0f} s"
    )
    ways = "Ray Train" if setting.gpu else "this process"
    why = "" if ok else " ".join(said.split())[-250:]
    yield Row(
        f"winnow train by {ways}, interrupted and resumed", figure, f"{steps} steps, on {setting.device}", ok, why
    )


def _config(steps: int) -> TrainConfig:
    from tests.video_model.test_stages import STAGE, config

    stages = {"video": STAGE | {"frames": [4], "rates": [4, 8], "steps": steps}}
    loop = {"log_every": 1, "save_every": 2 if steps < STEPS else SAVE, "keep": 2, "precision": "bfloat16"}
    return config(stages=stages, loop=loop, samples={"count": 1, "steps": 2, "frames": 4})


def _run(setting: Setting, given: dict[str, Any]) -> tuple[int, str]:
    """The exit code of a run, and what it said."""
    if setting.small:
        try:
            _train(given)
        except KeyboardInterrupt:  # Interrupted
            return 1, ""
        return 0, ""
    path = setting.folder / f"stop-{given['stop']}.json"
    path.write_text(json.dumps(given))
    command = [sys.executable, "-m", "tests.gpu_check.jobs", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


class Said:
    """A watcher that prints its notes, and interrupts this process once a run has come to a step."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop

    def note(self, line: str) -> None:
        print(line, flush=True)

    def phase(self, what: str, done: int, total: int) -> None: ...

    def stage(self, name: str, first: int, steps: int, facts: dict[str, Any]) -> None: ...

    def step(self, name: str, step: int, numbers: dict[str, float]) -> None:
        if self.stop is not None and step >= self.stop:
            self.stop = None
            signal.raise_signal(signal.SIGINT)


def _train(given: dict[str, Any]) -> None:
    """What `winnow train --workers 1` does."""
    from pipelines.ray_training import train_on_ray
    from pipelines.training import TrainingJob, train_here

    out = Path(given["out"])
    job = TrainingJob(TrainConfig.model_validate(given["config"]), (given["data"],), str(out), resume=out.exists())
    if given["ray"]:
        train_on_ray(job, 1, None, Said(given["stop"]))
    else:
        train_here(job, Said(given["stop"]))


if __name__ == "__main__":
    _train(json.loads(Path(sys.argv[1]).read_text()))
