"""A training run in this process, or on Ray Train: several workers and nodes that share a file system."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster import RaySession, worker_environment
from pipelines.typed_yaml import SHIPPED, find, read
from video_model.config import TrainConfig, train_config

ATTEMPTS = 3  # how often a run is resumed after a worker was lost
PATIENCE = (
    30 * 24 * 3600
)  # seconds that workers wait for each other: the first one makes the codec and the latents alone
OURS = ("video_model.", "curate.")  # modules of errors that would come again
FAILURE = "failure.txt"  # in RUN: what a worker raised that would come again


class TrainingError(Exception):
    """A run that ended on a worker: its reason."""


@dataclass(frozen=True)
class TrainingJob:
    """What `winnow train` was asked for."""

    config: TrainConfig
    sources: tuple[str, ...]
    out: Path
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

    with _asked_to_stop() as asked:
        train(
            job.config, job.sources, job.out, only=job.stage, resume=job.resume, cache=job.cache, watcher=watcher,
            stop=asked.is_set,
        )  # fmt: skip


def train_on_ray(job: TrainingJob, workers: int, address: str | None, watcher: Any = None) -> None:
    """`workers` processes with Ray Train, each with a share of every batch; on GPUs where the cluster has them.

    RUN and the data must be under the same paths on every node. A worker that is lost costs the steps since the last
    checkpoint. Raises TrainingError, ExecutorError, and what is wrong with the config, the run or the data at once.
    """
    from video_model.training.run import Run
    from video_model.training.stores import Stores

    if job.stage is not None and job.stage not in job.config.stages:
        raise TrainingError(f"--stage {job.stage}: the config's stages are {', '.join(job.config.stages)}")
    stores = Stores(job.config, job.sources)
    stores.compare(Run.begin(job.out, stores.config, job.resume))
    failure = job.out / FAILURE
    failure.unlink(missing_ok=True)
    with RaySession(address, "leave --workers and --address out"):
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        have = ray.cluster_resources()
        gpus = have.get("GPU", 0) >= workers
        cpus = have.get("CPU", 1.0)
        threads = job.config.loop.threads or max(1, int(cpus // workers))
        share = min(float(threads), 0.9 * cpus / workers)
        trainer = TorchTrainer(
            _work,
            torch_config=TorchConfig(timeout_s=PATIENCE),
            train_loop_config={
                "config": job.config.model_dump_json(),
                "sources": [str(Path(source).absolute()) for source in job.sources],
                "out": str(job.out.absolute()),
                "stage": job.stage,
                "plugins": [str(Path(plugin).absolute()) for plugin in job.plugins],
                "cache": str(Path(job.cache).absolute()) if job.cache else None,
                "threads": threads,
            },
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": share} | ({"GPU": 1} if gpus else {})),
            run_config=RunConfig(
                name="train", storage_path=str(job.out.absolute() / "ray"), failure_config=FailureConfig(max_failures=ATTEMPTS),
                worker_runtime_env={"env_vars": worker_environment(threads)},
            ),
        )  # fmt: skip
        with _followed(job, watcher):
            try:
                trainer.fit()
            except Exception as error:  # Ray wraps what a worker raised in several errors of its own
                raise TrainingError(failure.read_text() if failure.exists() else _reason(error)) from None
        if failure.exists():
            raise TrainingError(failure.read_text())


def _work(options: dict[str, Any]) -> None:
    """One worker. The run was begun by the driver, so it is always resumed; so it is by a worker that is started again."""
    import ray.train
    import torch

    from video_model.training.stages import train
    from video_model.workers import TrainingWorker

    failure = Path(options["out"]) / FAILURE
    if failure.exists():  # started again, for what would come again: end, and let the driver report it
        return
    torch.set_num_threads(options["threads"])
    context = ray.train.get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    try:
        train(
            schema_of(options["plugins"]).model_validate_json(options["config"]),
            options["sources"],
            options["out"],
            only=options["stage"],
            resume=True,
            cache=options["cache"],
            worker=TrainingWorker.here(),
        )
    except Exception as error:
        if type(error).__module__.startswith(OURS):
            failure.write_text(str(error))
        raise


def _reason(error: BaseException) -> str:
    """What a worker raised, out of the errors that Ray wraps it in: the last line that is not empty."""
    inner: BaseException | None = error
    while inner is not None:
        for cause in (getattr(inner, "cause", None), *getattr(inner, "worker_failures", {}).values()):
            if isinstance(cause, BaseException) and cause is not inner:
                inner = cause
                break
        else:
            break
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    name, colon, rest = text.partition(": ")
    return rest if colon and name.startswith(OURS) else text


@contextmanager
def _followed(job: TrainingJob, watcher: Any) -> Iterator[None]:
    """The watcher follows the lines that the first worker adds to the logs of the stages."""
    if watcher is None:
        yield
        return
    from video_model.training.journal import read_log

    ended = threading.Event()
    seen: dict[str, int] = {}

    def look() -> None:
        for name, stage in job.config.stages.items():
            lines = [line for line in read_log(job.out / "stages" / name / "log.jsonl") if "loss" in line]
            for line in lines:
                step = int(line["step"])
                if name not in seen:
                    watcher.stage(name, 0, stage.steps, {})
                if step > seen.get(name, 0):
                    watcher.step(name, step, line)
                    seen[name] = step

    def follow() -> None:
        while not ended.wait(1.0):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


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
