"""Workers of Ray that cut clips and write shards: a task is a shard, a pass over a source, or a clip of the sample.

A worker that dies costs the task in its hands, which goes to another. Workers take their place as machines have room for
them, so machines may come and go. The driver holds what is under way, and counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipelines.cluster import ExecutorError, worker_environment
from pipelines.curated.crew.actor import CuttingActor
from pipelines.curated.cutting import CutterError

__all__ = ["Crew"]

TRIES = 3  # of a task that workers could not do, and said why
IN_VAIN = 8  # workers lost, or twice their number, without one task finished between
WAIT_SECONDS = 2.0  # between looks at whether machines have joined
CLOSE_SECONDS = 5.0  # for workers to remove what they hold
STUCK_SECONDS = 120.0  # without a worker that has its place, before that is told


@dataclass
class _Task:
    key: Any
    argument: Any
    stopped: int = 0


class Crew:
    """As many workers as are asked for, or as the cluster has processors. Ray is connected to before.

    spec: out, folder, config, schema (bytes), count, options, roots, conditions, child. `run` raises ExecutorError and
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

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # of a cluster that is gone
            closing = [actor.close.remote() for actor in self.idle]
            if closing:
                self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
            for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
                self.ray.kill(actor)

    def run(self, method: str, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Do each task, a key and the argument of a method of `CuttingActor`: its key and the answer, as they are
        finished. One at a time is in the hands of a worker."""
        waiting, again = (_Task(*task) for task in tasks), deque[_Task]()
        task = next(waiting, None)
        since = time.monotonic()
        while task is not None or self._under_way():
            self._hire()
            while self.idle and task is not None:
                actor = self.idle.popleft()
                self.busy[getattr(actor, method).remote(task.argument)] = actor, task
                task = again.popleft() if again else next(waiting, None)
            done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=WAIT_SECONDS)
            for reference in done:
                actor, held = self.busy.pop(reference)
                answer = self._answer(reference, actor, held)
                if held is None:
                    continue
                if "done" in answer:
                    self.lost = 0
                    yield held.key, answer["done"]
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
