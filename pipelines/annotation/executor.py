"""Runs the stages over units: in this process, or in Ray Data actor pools, with the same rows.

Units pass between processes as MessagePack bytes in an Arrow column. A worker or decoder that dies costs only its current
unit. That unit is lost, not failed: it is retried with nothing beside it, and recorded as failed only if that reproduces
the loss.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import psutil
import pyarrow as pa

from curate.base.child import CHANGED, KILLED, LATE, MEMORY, RESOURCE_ERRNOS, TIME, WORKER, Lost, NotStarted
from curate.base.extras import missing_package
from curate.clip import Unit
from curate.parts import PluginError
from curate.stages.stage import CLIPS_AT_ONCE
from curate.watching.isolation import record_loss
from curate.weights import MissingWeights
from pipelines.annotation.models import ModelCache, uses
from pipelines.annotation.pools import Place, actor_options, allocate, nodes_of_ray, pools_of
from pipelines.annotation.stages import Step, build
from pipelines.cluster import ExecutorError, RaySession, worker_environment
from pipelines.config import Config, resolve

POOLS = 3  # starts of the pool of workers, if all of it dies
RESTARTS = 4  # restarts of one worker
RETRIES_ALONE = 2  # retries of a lost unit, with nothing beside it
AT_ONCE, IN_A_ROW = 6, 32  # equal losses in a row that stop the job: before anything succeeded, and after
ADVICE = {  # fix by kind of loss; crashes are not the machine's fault
    KILLED: "free memory of the machine, or use fewer --workers",
    LATE: "use fewer --workers, and look at the disk or network that the files are on",
    MEMORY: "raise decode.memory_gb, or free memory of the machine",
    TIME: "look at the disk or network that the files are on, or raise decode.timeout_seconds",
}
LOG = logging.getLogger("winnow")
BLOCKS = 4096  # limit of Ray blocks: one unit each, up to this many units


def run(
    units: Sequence[Unit], config: Config, stages: Sequence[str], place: Place, *, before: int = 0
) -> Iterator[Unit]:
    """Yield every unit once, in the order they finish, with status "ok", "failed", or "lost" if every attempt was lost.

    Lost units are retried after all others, by one process with nothing beside it. before: how many units earlier runs
    completed: if none, fewer equal losses stop the job. Raises ExecutorError if the job cannot continue, after yielding the
    lost units.
    """
    if not units:
        return
    with RaySession(place.address, "use --executor inline") if place.executor == "ray" else nullcontext():
        yield from _Rounds(units, config, stages, place, before).run()


class _Rounds:
    """Runs all units in parallel, then retries the lost ones alone."""

    def __init__(self, units: Sequence[Unit], config: Config, stages: Sequence[str], place: Place, before: int) -> None:
        self.units = {unit.id: unit for unit in units}
        self.config, self.stages, self.place = config, stages, place
        self.lost: dict[str, Unit] = {}
        self.patience = IN_A_ROW if before else AT_ONCE
        self.hopeless = False
        self.memory = max((pool.memory for pool in pools_of(config, stages)), default=0.0)  # of one worker

    def run(self) -> Iterator[Unit]:
        alike: list[str] = []
        for unit in self._run_all():
            if not _to_retry(unit):
                if unit.status == "ok":
                    self.patience = IN_A_ROW
                alike.clear()
                yield unit
                continue
            self.lost[unit.id] = unit
            kind = unit.lost[-1]
            alike = [*alike, kind] if alike[-1:] == [kind] and kind in ADVICE else [kind]
            if kind in ADVICE and len(alike) >= self.patience:
                yield from self.lost.values()
                raise ExecutorError(_stop_reason(len(alike), unit))
        for _ in range(RETRIES_ALONE):
            if self.lost and not self.hopeless:
                yield from self._retry_alone()
        yield from self.lost.values()

    def _run_all(self) -> Iterator[Unit]:
        """Run all units. A pool of workers that died completely is restarted as long as units finish."""
        left = dict(self.units)
        for _ in range(POOLS):
            there = len(left)
            for unit in self._execute(list(left.values()), self.place):
                if left.pop(unit.id, None) is not None:
                    yield unit
            if len(left) <= RESTARTS or len(left) == there:
                break
            LOG.warning("lost: %d of %d units, with their workers: restarting them", len(left), len(self.units))
        for unit in left.values():
            yield self._lost_with_worker(unit, sure=len(left) <= RESTARTS)

    def _retry_alone(self) -> Iterator[Unit]:
        """Retry the lost units with nothing beside them. Those that are lost again stay in `lost`."""
        count, of = len(self.lost), len(self.units)
        LOG.warning("lost: %d of %d units (%s): retrying one by one", count, of, _reasons(self.lost.values()))
        left = dict(self.lost)
        in_vain = 0
        again = [replace(self.units[name], lost=unit.lost) for name, unit in self.lost.items()]
        for unit in self._execute(again, replace(self.place, workers=1)):
            if left.pop(unit.id, None) is None:
                continue
            if _to_retry(unit):
                self.lost[unit.id] = unit
                in_vain += 1
                if in_vain >= AT_ONCE:  # the machine has not recovered: leave the rest to the next run
                    self.hopeless = True
                    return
            else:
                del self.lost[unit.id]
                in_vain = 0
                yield unit
        for name in left:
            unit = self._lost_with_worker(self.lost[name], sure=len(left) <= RESTARTS)
            if _to_retry(unit):
                self.lost[name] = unit
            else:
                del self.lost[name]
                yield unit

    def _lost_with_worker(self, unit: Unit, sure: bool) -> Unit:
        """sure: the worker that died was working on it, it was not waiting."""
        short = not self.place.address and psutil.virtual_memory().available < self.memory
        times = sum(kind == WORKER for kind in unit.lost) + 1
        reason = (
            "the worker process died while working on it"
            if times == 1
            else f"the worker process died {times} times while working on it, also with nothing beside it"
        )
        reason += " (out of memory, or a crash in a model): see Ray's logs"
        return record_loss(replace(unit), Lost(reason, WORKER if sure and not short else KILLED))

    def _execute(self, units: list[Unit], place: Place) -> Iterator[Unit]:
        over = _over_ray if place.executor == "ray" else _inline
        return over(units, self.config, self.stages, place)


def _to_retry(unit: Unit) -> bool:
    return unit.status == "lost" and unit.lost[-1] != CHANGED  # a modified file has to be planned again


def _stop_reason(count: int, unit: Unit) -> str:
    return (
        f"stopped: {count} units in a row were lost alike ({unit.error}): {ADVICE[unit.lost[-1]]}; finished "
        "units are kept, and the same command resumes"
    )


def _reasons(units: Iterable[Unit]) -> str:
    return "; ".join(dict.fromkeys(str(unit.error) for unit in units))[:300]


def _inline(units: Sequence[Unit], config: Config, stages: Sequence[str], place: Place) -> Iterator[Unit]:
    if not units:
        return
    steps = load_steps(config, stages)
    limit_threads(config.execution.threads)
    for unit in units:
        try:
            yield from work([Unit.unpack(unit.pack())], steps)  # a copy: the unit may be retried
        except NotStarted as error:
            raise ExecutorError(str(error)) from None


def load_steps(config: Config, stages: Sequence[str], without: Sequence[str] = (), batch: int = 0) -> list[Step]:
    """The callables of one worker, with their models loaded. ExecutorError names the model that cannot be loaded."""
    try:
        return build(config, stages, without, batch or CLIPS_AT_ONCE)
    except MissingWeights as error:
        raise ExecutorError(str(error)) from error
    except ModuleNotFoundError as error:
        raise ExecutorError(missing_package(error) or str(error)) from error
    except TypeError as error:
        raise ExecutorError(
            f"{_failing_model(config, stages)} cannot be made: {_reason(error)}: its constructor must take its Options, and "
            "its models, as keyword arguments"
        ) from error
    except Exception as error:
        raise ExecutorError(
            f"{_failing_model(config, stages)} cannot be loaded: {_reason(error)}: its weights may be damaged: "
            "`winnow models` lists where they are and how to get them"
        ) from error


def _failing_model(config: Config, stages: Sequence[str]) -> str:
    """The model that cannot be loaded, found by loading them one by one."""
    cache = ModelCache(config)
    for use in uses(config, stages):
        try:
            cache.get(use.section)
        except Exception:
            return f"{use.column}: model {use.kind}"
    return f"a model of the stages {', '.join(stages)}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:297] + '...' if len(text) > 300 else text}"


def work(units: list[Unit], steps: Sequence[Step]) -> list[Unit]:
    """Run the steps on units. A step that raises fails its unit, with the reason.

    If the exception is the machine's lack of a resource, the unit is lost. Raises NotStarted.
    """
    for step in steps:
        try:
            if len(units) > 1:
                step(units)
                continue
        except NotStarted:
            raise
        except Exception:  # one by one: which of them it is
            pass
        for unit in units:
            _step_on(unit, step)
    return units


def _step_on(unit: Unit, step: Step) -> None:
    try:
        step([unit])
    except NotStarted:
        raise
    except Exception as error:
        name = getattr(step, "name", type(step).__name__)
        reason = f"{name}: {type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            record_loss(unit, Lost(reason, MEMORY))
        elif getattr(error, "errno", None) in RESOURCE_ERRNOS:
            record_loss(unit, Lost(reason, KILLED))
        else:
            unit.fail(reason)


class StageWorker:
    """One actor of a pool: builds its stages once, then maps batches of packed units.

    If a model cannot be loaded, the column `refused` has the reason, and the driver stops the job: after an exception Ray
    would restart the actor.
    """

    def __init__(self, config: str, stages: Sequence[str], without: Sequence[str] = (), batch: int = 0) -> None:
        self.refused: str | None = None
        try:
            resolved = resolve(json.loads(config), "the job's config")
            self.steps = load_steps(resolved, stages, without, batch)
            limit_threads(resolved.execution.threads)
        except (ExecutorError, PluginError) as error:  # a plugin: its file is not on this machine
            self.refused = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        refused = [reason for reason in batch.column("refused").to_pylist() if reason]
        units = [Unit.unpack(data) for data in batch.column("unit").to_pylist()]
        if refused or self.refused:
            return _table(units, refused=refused[0] if refused else self.refused)
        try:
            return _table(work(units, self.steps))
        except NotStarted as error:
            return _table(units, refused=str(error))


def _over_ray(units: list[Unit], config: Config, stages: Sequence[str], place: Place) -> Iterator[Unit]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # `run` detects lost blocks and retries their units
    pools = pools_of(config, stages)
    allotted = allocate(pools, config, place, len(units), nodes_of_ray())
    size = -(-len(units) // BLOCKS)
    blocks = [_table(units[i : i + size]) for i in range(0, len(units), size)]
    data = ray.data.from_arrow(blocks)
    for pool, share in zip(pools, allotted, strict=True):
        make = actor_options(pool, share) | {"max_restarts": RESTARTS, "max_task_retries": 0}
        make["runtime_env"]["env_vars"] |= worker_environment(config.execution.threads)
        data = _map(
            data,
            StageWorker,
            fn_constructor_args=(config.model_dump_json(), pool.stages, pool.without, share.batch),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                size=share.workers_max, max_tasks_in_flight_per_actor=1
            ),  # a crash costs the current unit only
            **make,
        )
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for packed, refused in zip(batch["unit"].to_pylist(), batch["refused"].to_pylist(), strict=True):
                if refused:
                    raise ExecutorError(refused)
                yield Unit.unpack(packed)
    except ray.exceptions.RayError as error:  # the whole pool; units that have not come back are retried
        LOG.warning("Ray lost its workers (%s)", " ".join(str(error).split())[:200])


def _map(data: Any, *arguments: Any, **options: Any) -> Any:
    """`data.map_batches`, without Ray's deprecation warning about restarts (Ray is pinned below 2.64)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.map_batches(*arguments, **options)


def limit_threads(threads: int) -> None:
    """Limit the threads of the loaded libraries, since every worker has its own core."""
    import cv2

    cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _table(units: Sequence[Unit], refused: str | None = None) -> pa.Table:
    packed = pa.array([unit.pack() for unit in units], pa.large_binary())
    return pa.table({"unit": packed, "refused": pa.array([refused] * len(units), pa.string())})
