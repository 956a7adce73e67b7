"""Workers on Ray: an actor pool for each pool of stages, with a bounded window.

Each unit goes through the pools one after the other; what a pool made of it stays in Ray's object store, and the driver has
its report only. The workers of the last pool commit. An actor is made when a unit waits for one, and never restarted by Ray:
when it dies, the driver knows which units it had.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from curate.base.child import KILLED
from curate.stages.stage import CLIPS_AT_ONCE
from pipelines.annotation.decoding import decode_time_limit
from pipelines.annotation.pools import Place, Pool, Share, actor_options, allocate, nodes_of_ray, pools_of
from pipelines.annotation.tasks import Task
from pipelines.annotation.workers.deaths import cause_of, gone_with_node
from pipelines.annotation.workers.force import Committed, Died, Done, Event
from pipelines.annotation.workers.ray_worker import actor_class
from pipelines.annotation.workers.worker import Target
from pipelines.cluster import ExecutorError, RaySession, worker_environment
from pipelines.config import Config
from pipelines.status.runlog import RunLog

WINDOW = 2  # units that an actor holds: one that it works on, and the next
TOGETHER = 32  # units at most in one call of a worker with a GPU, which is of about `Share.batch` clips
MEASURED_SECONDS = 600.0  # of footage, after which a pool's times are believed
WAIT_SECONDS = 1.0
LOOK_SECONDS = 15.0  # between looks at what the cluster has
PATIENCE_SECONDS = 60.0  # before it is told that no worker can be placed
LOG = logging.getLogger("winnow")


@dataclass
class _Item:
    """A task on its way. made: what the pool before made of its unit, in Ray's object store. clips: in it. spent: seconds
    that earlier pools worked on it."""

    task: Task
    made: Any = None
    clips: int = 0
    spent: float = 0.0


@dataclass
class _Actor:
    """calls: the references to replies that are awaited, in order, with their items. unsafe: tasks that are done and not
    committed, since a time."""

    handle: Any
    name: str
    born: float
    started: Any = None  # reference to the reply of `start`, until it is there
    about: dict[str, Any] | None = None  # that reply
    calls: deque[tuple[Any, list[_Item], list[Any]]] = field(default_factory=deque)
    unsafe: dict[str, Task] = field(default_factory=dict)
    since: float = 0.0
    flushing: bool = False

    @property
    def ready(self) -> bool:
        return self.started is None

    @property
    def items(self) -> int:
        return sum(len(items) for _, items, _ in self.calls)


class _Pool:
    def __init__(self, pool: Pool, share: Share) -> None:
        self.pool, self.share = pool, share
        self.together = TOGETHER if pool.gpu else 1
        self.name = pool.name
        self.most = share.workers_max
        self.queue: deque[_Item] = deque()
        self.actors: list[_Actor] = []
        self.spent = self.footage = 0.0

    @property
    def seconds(self) -> float | None:
        """Seconds of a worker for a second of footage; None while too little is measured."""
        return self.spent / self.footage if self.footage >= MEASURED_SECONDS else None

    @property
    def each(self) -> str:
        """What a worker takes."""
        share = self.share
        return f"{share.cpus:.2g} CPU, {share.gpus:.2g} GPU and {share.memory / 1e9:.3g} GB each"

    def next_call(self) -> list[_Item]:
        """Items of the queue for one call of a worker."""
        items = [self.queue.popleft()]
        while self.queue and len(items) < self.together and sum(item.clips for item in items) < self.share.batch:
            items.append(self.queue.popleft())
        return items

    @property
    def busy(self) -> int:
        return len(self.queue) + sum(actor.items for actor in self.actors)


class OnRay:
    """`Force` on Ray, which is started, or connected to, with the first task."""

    def __init__(self, config: Config, stages: Sequence[str], place: Place, target: Target, log: RunLog) -> None:
        self.config, self.place, self.target, self.log = config, place, target, log
        self.pools_wanted = pools_of(config, stages)
        self.session: RaySession | None = None
        self.pools: list[_Pool] = []
        self.told: list[Event] = []
        self.size = place.workers or 1
        self.made = 0
        self.looked = self.idle_since = time.monotonic()
        self.single = False

    # --- `Force`

    def room(self) -> bool:
        if not self.pools:
            return True
        first, *later = self.pools
        behind = any(len(pool.queue) > 2 * pool.most * pool.together for pool in later)
        return not behind and len(first.queue) < max(2, 2 * first.most)

    def give(self, task: Task) -> None:
        if self.session is None:
            self._begin()
        self.pools[0].queue.append(_Item(task))
        self._pump()

    def busy(self) -> int:
        return sum(pool.busy for pool in self.pools)

    def uncommitted(self) -> int:
        return sum(len(actor.unsafe) for pool in self.pools for actor in pool.actors)

    def flush(self) -> None:
        for pool in self.pools:
            for actor in pool.actors:
                if actor.unsafe and not actor.flushing:
                    self._flush(actor)

    def alone(self) -> None:
        self.single = True
        for pool in self.pools:
            pool.most = 1
            for actor in [actor for actor in pool.actors if not actor.items and not actor.unsafe][1:]:
                self._end(pool, actor)

    def close(self) -> None:
        for pool in self.pools:
            for actor in list(pool.actors):
                self._end(pool, actor)
        self.pools = []
        if self.session is not None:
            self.session.__exit__(None, None, None)
            self.session = None

    def events(self, work: bool = True) -> Iterator[Event]:
        if self.pools:
            self.session.check()
            if work:
                self._pump()
            self._collect()
            self._flush_old()
            self._look_around()
        told, self.told = self.told, []
        yield from told

    # --- its own

    def _begin(self) -> None:
        session = RaySession(self.place.address, "use --executor inline")
        session.__enter__()
        self.session = session
        shares = self._shares()
        self.pools = [_Pool(pool, share) for pool, share in zip(self.pools_wanted, shares, strict=True)]
        self.size = sum(pool.most for pool in self.pools)
        self.actor = actor_class()

    def _shares(self) -> list[Share]:
        seconds = [pool.seconds for pool in self.pools]
        return allocate(self.pools_wanted, self.config, self.place, None, nodes_of_ray(), seconds)

    def _look_around(self) -> None:
        """Follow a cluster that grows and what was measured, and tell when nothing can be placed on it."""
        now = time.monotonic()
        for pool in self.pools:
            self.log.workers(pool.name, sum(actor.ready for actor in pool.actors), len(pool.actors), pool.each)
        idle = [pool for pool in self.pools if pool.queue and not any(actor.ready for actor in pool.actors)]
        if not idle:
            self.idle_since = now
            self.log.waiting(None)
        elif now - self.idle_since > PATIENCE_SECONDS:
            self.idle_since = now
            why = f"no worker of {idle[0].name} is ready ({idle[0].each}): it loads its models, or other jobs hold what it needs"
            self.log.waiting(why)
            LOG.warning("waiting: %s", why)
        follows = self.place.address or len(self.pools) > 1
        if follows and not self.single and now - self.looked > LOOK_SECONDS:
            self.looked = now
            try:
                shares = self._shares()
            except ExecutorError as error:  # nodes come and go: what is there goes on
                LOG.warning("the cluster has changed: %s", error)
                return
            for pool, share in zip(self.pools, shares, strict=True):
                pool.share, pool.most = share, share.workers_max
                spare = [actor for actor in pool.actors if actor.ready and not actor.items and not actor.unsafe]
                for actor in spare[: max(0, len(pool.actors) - pool.most)]:
                    self._end(pool, actor)
            self.size = sum(pool.most for pool in self.pools)

    def _pump(self) -> None:
        """Give what waits to actors that have room, and make actors where there are too few."""
        for at, pool in enumerate(self.pools):
            wanted = min(pool.most, pool.busy)
            while len(pool.actors) < wanted:
                self._make(pool, last=at == len(self.pools) - 1)
            while pool.queue:
                able = [one for one in pool.actors if one.ready and len(one.calls) < WINDOW and not one.flushing]
                actor = min(able, key=lambda one: len(one.calls), default=None)
                if actor is None or (actor.calls and len(pool.queue) <= len(pool.actors)):  # the next idle one takes it
                    break
                self._call(pool, actor, pool.next_call())

    def _make(self, pool: _Pool, last: bool) -> None:
        self.made += 1
        name = f"{'gpu' if pool.pool.gpu else 'cpu'}-{self.made}"
        options = actor_options(pool.pool, pool.share) | {"max_restarts": 0, "max_task_retries": 0}
        options["runtime_env"]["env_vars"] |= worker_environment(self.config.execution.threads)
        handle = self.actor.options(**options).remote(name)
        made = _Actor(handle, name, time.monotonic())
        made.started = handle.start.remote(
            self.config.model_dump_json(),
            list(pool.pool.stages),
            self.target if last else None,
            pool.pool.without,
            pool.share.batch or CLIPS_AT_ONCE,
        )
        pool.actors.append(made)

    def _call(self, pool: _Pool, actor: _Actor, items: list[_Item]) -> None:
        tasks = [item.task.pack() for item in items]
        for item in items:
            unit = item.task.unit
            limit = decode_time_limit(self.config, unit) if pool is self.pools[0] else None
            self.log.started(unit.id, unit.video.path, actor.name, pool=pool.name, footage=unit.footage, limit=limit)
        made = [item.made for item in items if item.made is not None]
        reply, *units = _several(actor.handle.work.options(num_returns=1 + len(items)).remote(tasks, *made))
        actor.calls.append((reply, items, units))

    def _flush(self, actor: _Actor) -> None:
        actor.flushing = True
        actor.calls.append((actor.handle.flush.remote(), [], []))

    def _flush_old(self) -> None:
        """Have idle actors commit what is older than a shard may be."""
        now = time.monotonic()
        for actor in self.pools[-1].actors:
            old = now - actor.since > self.config.execution.shard_seconds
            if actor.unsafe and old and not actor.calls:
                self._flush(actor)

    def _collect(self) -> None:
        """Wait until a reply is there, and take all that are."""
        import ray

        awaited: dict[Any, tuple[int, _Actor]] = {}
        for at, pool in enumerate(self.pools):
            for actor in pool.actors:
                if actor.started is not None:
                    awaited[actor.started] = at, actor
                elif actor.calls:
                    awaited[actor.calls[0][0]] = at, actor
        if not awaited:
            return
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=WAIT_SECONDS)
        if ready:
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for reference in ready:
            at, actor = awaited[reference]
            try:
                reply = ray.get(reference)
            except ray.exceptions.RayError as error:  # what a lost argument raises is a RayTaskError as well
                if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error, gone_with_node()):
                    raise error.as_instanceof_cause() from None
                self._bury(self.pools[at], actor, error)
                continue
            if isinstance(reply, Exception):
                raise reply
            self._take(at, actor, reply)

    def _take(self, at: int, actor: _Actor, reply: Any) -> None:
        """Take a reply of an actor of pool `at`."""
        if actor.started is not None:
            actor.started, actor.about = None, reply
            return
        _, items, units = actor.calls.popleft()
        last = at == len(self.pools) - 1
        if not items:
            actor.flushing = False
        for item, report, made in zip(items, reply.reports, units, strict=True):
            spent = sum(report.seconds.values())
            if report.status == "ok" and item.task.unit.stored is None:
                self.pools[at].spent += spent - item.spent
                self.pools[at].footage += report.footage
            if not last and report.status != "lost":
                self.pools[at + 1].queue.append(_Item(item.task, made, report.clips, spent))
                continue
            if report.written:
                actor.since = actor.since if actor.unsafe else time.monotonic()
                actor.unsafe[item.task.id] = item.task
            self.told.append(Done(item.task, report))
        for footer in reply.footers:
            for unit in footer.units:
                actor.unsafe.pop(unit, None)
            self.told.append(Committed(footer))

    def _bury(self, pool: _Pool, actor: _Actor, error: Exception) -> None:
        """An actor died, or what it was given is gone with a node."""
        held = [[item.task for item in items] for _, items, _ in actor.calls if items]
        if isinstance(error, gone_with_node()) and held:
            actor.calls.popleft()
            self.told.append(Died("what an earlier worker made is gone with its node", KILLED, innocent=held[0]))
            return
        kind, reason = cause_of(error, actor.about, local=not self.place.address)
        others = [task for tasks in held[1:] for task in tasks]
        self.told.append(Died(reason, kind, held[0] if held else [], others, list(actor.unsafe.values())))
        self._end(pool, actor)

    def _end(self, pool: _Pool, actor: _Actor) -> None:
        import ray

        pool.actors.remove(actor)
        with suppress(Exception):
            self.session.check()
            if actor.ready and not actor.calls:
                ray.get(actor.handle.stop.remote(), timeout=5)
            ray.kill(actor.handle)


def _several(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (list, tuple)) else [found]


__all__ = ["OnRay"]
