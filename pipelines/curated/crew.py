"""Workers of Ray that cut clips and write shards: a task is a shard, a pass over a source, or a clip of the sample.

A worker that dies costs the task in its hands, which goes to another. Workers take their place as machines have room for
them, so machines may come and go. The driver holds what is under way, and counts.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from curate.base.files import DiskError
from curate.base.store.places import StoreError, join, store_of
from curate.parts import PluginError
from pipelines.cluster import ExecutorError, worker_environment
from pipelines.config import ConfigError, resolve
from pipelines.curated.cutting import CutJob, CutterError, Cutters
from pipelines.curated.plan.planned import PlannedClips, SourceRoots
from pipelines.curated.rechecking import Recheck
from pipelines.curated.request import PARTIAL
from pipelines.curated.scratch import scratch_folder
from pipelines.curated.shards import ShardPlan, ShardSet
from pipelines.curated.spool import Spool
from pipelines.curated.worker import ShardWorker

__all__ = ["Crew", "CuttingActor"]

TRIES = 3  # of a task that workers could not do, and said why
IN_VAIN = 8  # workers lost, or twice their number, without one task finished between
WAIT_SECONDS = 2.0  # between looks at whether machines have joined
CLOSE_SECONDS = 5.0  # for workers to remove what they hold
STUCK_SECONDS = 120.0  # without a worker that has its place, before that is told


class CuttingActor:
    """One worker. spec: as `Crew` makes it. Its methods answer with plain values; what kept it from a task is the text
    under `stopped`."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.refused: str | None = None
        self.closing = ExitStack()
        try:
            self.worker = self._worker(spec)
        except (ConfigError, PluginError, StoreError, DiskError) as error:  # a plugin: its file is not on this machine
            self.refused = str(error)

    def _worker(self, spec: Mapping[str, Any]) -> ShardWorker:
        store = store_of(spec["out"])
        partial = store_of(join(spec["out"], PARTIAL))
        scratch = self.closing.enter_context(scratch_folder(partial))
        shards = ShardSet(
            store=store,
            folder=spec["folder"],
            footers=f"{PARTIAL}/footers",
            format=resolve(json.loads(spec["config"]), "the job's config").export.chosen,
            schema=pa.ipc.read_schema(pa.py_buffer(spec["schema"])),
            scratch=scratch,
        )
        plan = store_of(join(spec["out"], PARTIAL, "plan"))
        place = join(spec["out"], PARTIAL, "spool")
        clips = PlannedClips(plan, spec["count"], spec["options"], SourceRoots(spec["roots"]), place)
        cutters = self.closing.enter_context(Cutters(1, **spec["child"]))
        return ShardWorker(clips, shards, Recheck(spec["conditions"]), cutters, Spool(place, scratch))

    def ready(self) -> str | None:
        """Why it cannot work; None where it can."""
        return self.refused

    def sample(self, position: int) -> dict[str, Any]:
        return self._answer(lambda: self.worker.sample(position, position + 1)[position])

    def together(self, jobs: Sequence[CutJob]) -> dict[str, Any]:
        return self._answer(lambda: sum(map(len, self.worker.together([jobs]))))

    def write(self, plan: ShardPlan) -> dict[str, Any]:
        return self._answer(lambda: next(self.worker.write([plan])))

    def close(self) -> None:
        self.closing.close()

    def _answer(self, work: Any) -> dict[str, Any]:
        try:
            return {"done": work()}
        except (CutterError, StoreError, DiskError) as error:
            return {"stopped": str(error)}
        except FileNotFoundError as error:
            return {
                "stopped": f"{error.filename or error}: is not there: put --out where all machines can read and write"
            }


@dataclass
class _Task:
    method: str
    argument: Any
    stopped: int = field(default=0, compare=False)


class Crew:
    """As many workers as are asked for, or as the cluster has processors. Ray is connected to before.

    spec: out, folder, config, schema (bytes), count, options, roots, conditions, child. Raises ExecutorError and
    CutterError where the work cannot go on.
    """

    def __init__(self, spec: Mapping[str, Any], workers: int | None) -> None:
        import ray

        self.ray, self.spec, self.wanted = ray, dict(spec), workers
        environment = {"env_vars": worker_environment(1)}
        self.make = ray.remote(CuttingActor).options(num_cpus=1, max_restarts=0, runtime_env=environment)
        self.idle: deque[Any] = deque()
        self.busy: dict[
            Any, tuple[Any, _Task | None]
        ] = {}  # reference of an answer -> worker, and its task, None: its start
        self.lost = 0  # workers, since the last task that was finished
        self.reason = ""

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # of a cluster that is gone
            closing = [actor.close.remote() for actor in self.idle]
            if closing:
                self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
            for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
                self.ray.kill(actor)

    def sample(self, count: int) -> dict[int, int | None]:
        """Bytes of the clips at the first positions, None where one cannot be cut; they lie in the spool."""
        return dict(self._run("sample", range(count)))

    def together(self, groups: Iterable[Sequence[CutJob]]) -> Iterator[int]:
        """Cut each group in one pass, into the spool: how many clips of it lie there."""
        for _, count in self._run("together", groups):
            yield count

    def write(self, plans: Iterable[ShardPlan]) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
        """Write shards: each with its footer, as they are finished."""
        yield from self._run("write", plans)

    def _run(self, method: str, arguments: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(argument, answer) of each task, as they are finished; one at a time is in the hands of a worker."""
        waiting, again = (_Task(method, argument) for argument in arguments), deque[_Task]()
        task = next(waiting, None)
        since = time.monotonic()
        while task is not None or self._under_way():
            self._hire()
            while self.idle and task is not None:
                actor = self.idle.popleft()
                self.busy[getattr(actor, task.method).remote(task.argument)] = actor, task
                task = again.popleft() if again else next(waiting, None)
            done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=WAIT_SECONDS)
            for reference in done:
                actor, held = self.busy.pop(reference)
                answer = self._answer(reference, actor, held)
                if held is None:
                    continue
                if "done" in answer:
                    self.lost = 0
                    yield held.argument, answer["done"]
                else:
                    again.append(held)
            if task is None and again:
                task = again.popleft()
            if self.idle or self._under_way():
                since = time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                raise ExecutorError(
                    f"no worker found a place on the cluster within {STUCK_SECONDS:.0f} s: end other jobs there, or add machines"
                )

    def _under_way(self) -> bool:
        return any(task is not None for _, task in self.busy.values())

    def _hire(self) -> None:
        """Workers for all processors of the cluster, of now, or as many as were asked for."""
        wanted = self.wanted or max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        for _ in range(wanted - len(self.idle) - len(self.busy)):
            actor = self.make.remote(self.spec)
            self.busy[actor.ready.remote()] = actor, None

    def _answer(self, reference: Any, actor: Any, task: _Task | None) -> dict[str, Any]:
        """Of a call that has ended; {} where its task is to be done again. Raises where that is in vain."""
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError:
            raise
        except errors.RayError as error:
            self.lost += 1
            reason = " ".join(str(error).split())[:200]
            if self.lost > max(IN_VAIN, 2 * (len(self.busy) + len(self.idle))):
                raise CutterError(f"{self.lost} workers were lost, and none finished its task ({reason})") from None
            with suppress(errors.RayError, ValueError):
                self.ray.kill(actor)
            return {}
        self.idle.append(actor)
        if task is None:
            if answer is not None:
                raise ExecutorError(answer)
            return {}
        if "stopped" in answer:
            task.stopped += 1
            if task.stopped == TRIES:
                raise CutterError(answer["stopped"])
        return answer
