"""What a training run is asked for, and a run in this process."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from curate.base.store import is_remote
from pipelines.dataset.lock import held
from pipelines.typed_yaml import SHIPPED, find, read
from video_model.config import TrainConfig, train_config


class TrainingError(Exception):
    """A run that ended on a worker: its reason."""


@dataclass(frozen=True)
class TrainingJob:
    """What `winnow train` was asked for. out: the run's folder, or the URL of one in a store."""

    config: TrainConfig
    sources: tuple[str, ...]
    out: str
    stage: str | None = None
    resume: bool = False
    cache: str | None = None
    plugins: tuple[str, ...] = ()


def schema_of(plugins: Sequence[str]) -> type[TrainConfig]:
    """The class of configs that can choose the parts of these plugin files too. Raises PluginError, TrainingError."""
    from curate.parts import Parts

    try:
        return train_config(Parts.load(plugins).training)
    except TypeError as error:
        raise TrainingError(f"--plugin: {error}") from None


def load_config(name: str, overrides: Sequence[str], plugins: Sequence[str] = ()) -> TrainConfig:
    """A training config by file name, or by the name of one that ships with Winnow."""
    return read(schema_of(plugins), find(name, SHIPPED / "train"), list(overrides))


def train_here(job: TrainingJob, watcher: Any = None) -> None:
    """All stages in this process. Interrupted, it finishes its step, saves, and raises video_model.training.loop.Interrupted."""
    from video_model.training.stages import train

    with _asked_to_stop() as asked, owned(job):
        train(
            job.config, job.sources, job.out, only=job.stage, resume=job.resume, cache=job.cache, watcher=watcher,
            stop=asked.is_set,
        )  # fmt: skip


@contextmanager
def owned(job: TrainingJob) -> Iterator[None]:
    """One command at a time trains a run in a store; a folder of this machine is left as it was."""
    if not is_remote(job.out):
        yield
        return
    with held(job.out, "this run", TrainingError):
        yield


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set at the first interruption or request to end; the second interruption ends at once."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
