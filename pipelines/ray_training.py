"""A training run on Ray Train: several workers and nodes that share a file system, or a store.

The driver waits with a limit for each phase, and names the one that does not come: Ray itself, a place for each worker, their
torch.distributed group, the first step. What the first worker is at is told through RUN/ray/progress.json.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from curate.base.files import write_json
from curate.base.store import StoreError, is_remote
from pipelines.cluster import PLACE_SECONDS, RaySession, place, worker_environment
from pipelines.training import TrainingError, TrainingJob, owned, schema_of
from video_model.data.sources import whole_path

ATTEMPTS = 3  # how often a run is resumed after a worker was lost
PLACES = 5  # how often its workers are waited for, for PLACE_SECONDS each: a lost machine may come back
GROUP_SECONDS = 600.0  # until all workers are up and know each other
STEP_SECONDS = 2400.0  # without a sign before the first step; workers themselves lose patience with each other sooner
OURS = ("video_model.", "curate.")  # modules of errors that would come again
FAILURE = "failure.txt"  # in RUN: what a worker raised that would come again
PROGRESS = "ray/progress.json"  # in RUN: what the first worker is at
FAR = 10.0  # seconds between looks at a run in a store


def train_on_ray(job: TrainingJob, workers: int, address: str | None, watcher: Any = None) -> None:
    """`workers` processes with Ray Train, each with a share of every batch; on GPUs where the cluster has them.

    RUN and the data must be under the same paths on every node, or URLs; `--cache` too, where latents are kept. A worker that
    is lost costs the steps since the last checkpoint. Raises TrainingError, ExecutorError, and what is wrong with the config, the run or the data at once.
    """
    from video_model.training.watching import Silent

    with owned(job):
        _on_ray(job, workers, address, watcher or Silent())


def _on_ray(job: TrainingJob, workers: int, address: str | None, watcher: Any) -> None:
    from video_model.training.run import Run
    from video_model.training.storage.mirror import default_cache
    from video_model.training.stores import Stores
    from video_model.workers import PATIENCE

    if job.stage is not None and job.stage not in job.config.stages:
        raise TrainingError(f"--stage {job.stage}: the config's stages are {', '.join(job.config.stages)}")
    run = LookedOn(job.out)
    run.fetch()
    stores = Stores(job.config, job.sources, Path(job.cache) if job.cache else default_cache(job.out))
    stores.compare(Run.begin(run.folder, stores.config, job.resume, watcher, run.mirror))
    run.forget(FAILURE, PROGRESS)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(PLACE_SECONDS)
    with RaySession(address, "leave --workers and --address out", watcher.note):
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        have = ray.cluster_resources()
        gpus = have.get("GPU", 0) >= workers
        cpus = have.get("CPU", 1.0)
        threads = job.config.loop.threads or max(1, int(cpus // workers))
        bundle = {"CPU": min(float(threads), 0.9 * cpus / workers)} | ({"GPU": 1.0} if gpus else {})
        place(bundle, workers, watcher.note)
        retries: dict[str, Any] = {"max_failures": ATTEMPTS}
        if "controller_failure_limit" in {field.name for field in dataclasses.fields(FailureConfig)}:
            retries["controller_failure_limit"] = PLACES  # without it, a place is waited for without end
        trainer = TorchTrainer(
            _work,
            torch_config=TorchConfig(timeout_s=PATIENCE),
            train_loop_config=_told(job, threads),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=bundle),
            run_config=RunConfig(
                name="train",
                storage_path=run.storage,
                failure_config=FailureConfig(**retries),
                worker_runtime_env={"env_vars": worker_environment(threads)},
            ),
        )
        error = _followed(job, run, trainer, watcher)
        run.look()
        failure = run.folder / FAILURE
        if failure.exists():
            raise TrainingError(failure.read_text())
        if error is not None:  # Ray wraps what a worker raised in several errors of its own
            raise TrainingError(_reason(error)) from None


def _told(job: TrainingJob, threads: int) -> dict[str, Any]:
    return {
        "config": job.config.model_dump_json(),
        "sources": [whole_path(source) for source in job.sources],
        "out": whole_path(job.out),
        "stage": job.stage,
        "plugins": [str(Path(plugin).absolute()) for plugin in job.plugins],
        "cache": str(Path(job.cache).absolute()) if job.cache else None,
        "threads": threads,
    }


def _work(options: dict[str, Any]) -> None:
    """One worker. The run was begun by the driver, so it is always resumed; so it is by a worker that is started again."""
    import ray.train
    import torch

    from video_model.training.stages import train
    from video_model.workers import TrainingWorker

    out = options["out"]
    mirror = _mirror(out)
    folder = mirror.folder if mirror else Path(out)
    failure = folder / FAILURE
    if (
        mirror.store.exists(FAILURE) if mirror else failure.exists()
    ):  # started again, for what would come again: end, and let the driver report it
        return
    torch.set_num_threads(options["threads"])
    context = ray.train.get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    worker = TrainingWorker.here()
    told = Told(folder / PROGRESS, mirror) if worker.first else None
    if told:
        told.note(f"{worker.world} workers up, on {worker.device.type}")
    try:
        train(
            schema_of(options["plugins"]).model_validate_json(options["config"]),
            options["sources"],
            out,
            only=options["stage"],
            resume=True,
            cache=options["cache"],
            worker=worker,
            watcher=told,
            stop=told.stepped if told else lambda: False,
        )
    except Exception as error:
        if line := would_come_again(error):
            try:
                if mirror:
                    mirror.store.put(FAILURE, line.encode())
                else:
                    with open(failure, "x", encoding="utf-8") as file:  # the first one's: the others fail because of it
                        file.write(line)
            except (FileExistsError, StoreError):
                pass
        raise


def would_come_again(error: BaseException) -> str | None:
    """The line of an error that another attempt would end in too; None: it may have been the machine's."""
    from video_model.memory import is_out_of_memory
    from video_model.workers import WorkerError

    if isinstance(error, WorkerError):
        return None
    if type(error).__module__.startswith(OURS):
        return str(error)
    if is_out_of_memory(error):  # where no part of a step caught it
        text = " ".join(str(error).split())[:200] or type(error).__name__
        return (
            f"a worker ran out of memory ({text}): use --resume with a lower stages.*.micro_batch, "
            "loop.checkpointing=true or loop.strategy=fsdp"
        )
    return None


class Told:
    """What the first worker is at, for the driver to read: a TrainingWatcher that writes a file, at most once a second; of a
    run in a store an object, every few seconds."""

    def __init__(self, path: Path, mirror: Any = None) -> None:
        self.path, self.state, self.written = path, {"notes": [], "phase": None, "stepped": False}, 0.0
        self.mirror, self.every = mirror, FAR if mirror else 1.0

    def note(self, line: str) -> None:
        self._change(notes=[*self.state["notes"], line])

    def phase(self, what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.written > self.every:
            self._change(phase=[what, done, total])

    def stage(self, name: str, first: int, steps: int, facts: dict[str, Any]) -> None:
        self._change(phase=[f"stage {name}: first step", 0, steps])

    def step(self, name: str, step: int, numbers: dict[str, float]) -> None:
        """The driver reads it in the log of the stage."""

    def stepped(self) -> bool:
        """A step was taken; false, which is the answer to whether to stop."""
        if not self.state["stepped"]:
            self._change(stepped=True)
        return False

    def _change(self, **changes: Any) -> None:
        self.state |= changes
        self.written = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.state, durable=False)
        if self.mirror:
            with suppress(StoreError):  # it is told again
                self.mirror.store.replace(PROGRESS, self.path.read_bytes())


def _mirror(out: str, apart: str = "") -> Any:
    """Of a run in a store; None for a folder."""
    from video_model.training.storage.mirror import Mirror

    return Mirror(out, apart) if is_remote(out) else None


class LookedOn:
    """A run as the driver sees it: a folder, or of one in a store a copy that is brought up to date now and then."""

    def __init__(self, out: str) -> None:
        self.mirror = _mirror(out, "-looked-on")
        self.folder = self.mirror.folder if self.mirror else Path(out)
        self._looked = 0.0

    @property
    def storage(self) -> str:
        """For Ray's own files, which no other machine needs."""
        return str(self.folder.absolute() / "ray")

    def fetch(self) -> None:
        if self.mirror:
            self.mirror.fetch()

    def forget(self, *names: str) -> None:
        """Delete files of an earlier attempt."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            if self.mirror:
                self.mirror.store.delete(name)
        if self.mirror:
            self.mirror.sync()

    def look(self) -> None:
        if self.mirror and time.monotonic() - self._looked > FAR:
            self._looked = time.monotonic()
            with suppress(StoreError):  # the next time
                self.mirror.fetch_small((PROGRESS, FAILURE))


def _followed(job: TrainingJob, run: LookedOn, trainer: Any, watcher: Any) -> BaseException | None:
    """Run the trainer, and show what its first worker tells; what the trainer raised. Raises TrainingError for a phase that
    takes too long."""
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            raised.append(error)

    watcher.note("starting the workers")
    thread = threading.Thread(
        target=fit, daemon=True, name="ray train"
    )  # so that this one can end it, or be interrupted
    followed = Followed(job, watcher, run)
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
        followed.look()
    return raised[0] if raised else None


class Followed:
    """Shows what the first worker tells, and the lines that it adds to the logs of the stages."""

    def __init__(self, job: TrainingJob, watcher: Any, run: LookedOn | None = None) -> None:
        self.job, self.watcher, self.run = job, watcher, run or LookedOn(job.out)
        self.state: dict[str, Any] = {}
        self.changed = time.monotonic()
        self.seen: dict[str, int] = {}

    def look(self) -> None:
        """Raises TrainingError where nothing has come for too long."""
        self.run.look()
        try:
            state = json.loads((self.run.folder / PROGRESS).read_text())
        except (OSError, ValueError):
            state = self.state
        if state != self.state:
            for line in state["notes"][len(self.state.get("notes", ())) :]:
                self.watcher.note(line)
            if state["phase"] and state["phase"] != self.state.get("phase") and not state["stepped"]:
                self.watcher.phase(*state["phase"])
            self.state, self.changed = state, time.monotonic()
        self._logs()
        silent = time.monotonic() - self.changed
        if not self.state and silent > GROUP_SECONDS:
            raise TrainingError(
                f"the workers' torch.distributed group was not up within {GROUP_SECONDS:.0f} s: see that the machines reach "
                "each other on all ports (NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME name the network), and that none is "
                "overloaded; then use --resume"
            )
        if self.state and not self.state["stepped"] and silent > STEP_SECONDS:
            at = self.state["phase"][0] if self.state["phase"] else "reading the data"
            raise TrainingError(
                f"no sign of the workers for {STEP_SECONDS:.0f} s, before the first step ({at}): see the logs of Ray's "
                "workers; then use --resume"
            )

    def _logs(self) -> None:
        from video_model.training.journal import read_log

        for name, stage in self.job.config.stages.items():
            lines = [line for line in read_log(self.run.folder / "stages" / name / "log.jsonl") if "loss" in line]
            for line in lines:
                step = int(line["step"])
                if name not in self.seen:
                    self.watcher.stage(name, 0, stage.steps, {})
                if step > self.seen.get(name, 0):
                    self.watcher.step(name, step, line)
                    self.seen[name] = step


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
