"""What runs in an actor on Ray: one worker, whose problems are replies, since an exception would be Ray's."""

from __future__ import annotations

import faulthandler
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from curate.base.files import DiskError
from curate.base.store import StoreError
from curate.clip import Unit
from curate.parts import PluginError
from pipelines.annotation.tasks import Task
from pipelines.annotation.workers.worker import Reply, Target, Worker
from pipelines.cluster import ExecutorError
from pipelines.config import resolve
from pipelines.dataset.dataset import DatasetError

STOPS = (ExecutorError, PluginError, DatasetError, DiskError, StoreError)  # end the job, with their message


class StageWorker:
    """One actor. name: of it, and of the file that tells how it crashed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: Worker | None = None

    def start(
        self, config: str, stages: Sequence[str], target: Target | None, without: Sequence[str], at_once: int
    ) -> Any:
        """Load the models. Returns where the actor is, or what stops the job."""
        import ray

        crash = os.path.join(tempfile.gettempdir(), f"winnow-{os.getpid()}-{self.name}.crash")
        self.crash = open(crash, "w", encoding="utf-8")  # noqa: SIM115
        faulthandler.enable(self.crash)
        try:
            self.worker = Worker(resolve(json.loads(config), "the job's config"), stages, target, without, at_once)
        except STOPS as error:  # of a plugin: its file is not on this machine
            return error
        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid(), "crash": crash}

    def work(self, tasks: Sequence[bytes], *made: bytes) -> tuple[Any, ...]:
        """Work on packed tasks. made: their units, as the pool before made them. Returns a `Reply`, or what stops the job,
        and the packed unit of each task, for the next pool."""
        given = [Task.unpack(task) for task in tasks]
        for task, unit in zip(given, made, strict=False):
            lost = task.unit.lost
            task.unit = Unit.unpack(unit)
            task.unit.lost = lost
        try:
            reply = self.worker.work(given)
        except STOPS as error:
            return (error, *(b"" for _ in tasks))
        units, reply.units = [unit.pack() for unit in reply.units], []
        return (reply, *(units or [b"" for _ in tasks]))

    def flush(self) -> Reply | Exception:
        try:
            return self.worker.flush()
        except STOPS as error:
            return error

    def stop(self) -> None:
        """Leave nothing behind; the actor is ended afterwards."""
        faulthandler.disable()
        self.crash.close()
        os.unlink(self.crash.name)


def actor_class() -> Any:
    """`StageWorker` as Ray wants it."""
    import ray

    return ray.remote(StageWorker)
