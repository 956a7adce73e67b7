"""Runs the list of stages over units: in this process, or as Ray Data actor pools. Same list, same rows.

A unit travels between processes as MessagePack bytes in one Arrow column. A worker that dies takes only the unit in its
hands with it: that unit is tried once more by a fresh worker, and then recorded as failed.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import pyarrow as pa

from curate.clip import Unit
from curate.models import MissingWeights
from pipelines.cluster import ExecutorError, RaySession, worker_environment
from pipelines.config import Config, resolve
from pipelines.curation import Step, build, pools_of, roles
from pipelines.models import Shelf

WORKER_MEMORY = 2.5e9  # bytes of one worker with the embedded pack and a decode, to choose how many fit
BLOCKS = 4096  # Ray blocks at most: a unit each, until there are more units than that


@dataclass(frozen=True)
class Place:
    """Where to run. executor: "ray" or "inline". workers: processes, None: as many as fit. address: Ray cluster or None."""

    executor: str = "inline"
    workers: int | None = None
    address: str | None = None


def run(units: Sequence[Unit], config: Config, stages: Sequence[str], place: Place) -> Iterator[Unit]:
    """Yield every unit once, in the order they finish."""
    if place.executor == "inline":
        yield from _inline(units, config, stages)
        return
    with RaySession(place.address, "use --executor inline"):
        left = {unit.id: unit for unit in units}
        for attempt in range(2):
            for unit in _over_ray(list(left.values()), config, stages, place):
                if left.pop(unit.id, None) is not None:
                    yield unit
            if not left:
                return
            logging.getLogger("winnow").warning(
                "%d units were lost with their worker%s", len(left), "" if attempt else ": trying again"
            )
    for unit in left.values():
        yield unit.fail(
            "the worker process died twice while working on it (out of memory, or a crash in a model): see Ray's logs"
        )


def _inline(units: Sequence[Unit], config: Config, stages: Sequence[str]) -> Iterator[Unit]:
    if not units:
        return
    steps = load_steps(config, stages)
    limit_threads(config.execution.threads)
    for unit in units:
        yield from work([unit], steps)


def load_steps(config: Config, stages: Sequence[str]) -> list[Step]:
    """The callables of one worker, with their models loaded. ExecutorError names the model that cannot be."""
    try:
        return build(config, stages)
    except MissingWeights as error:
        raise ExecutorError(str(error)) from error
    except Exception as error:
        raise ExecutorError(
            f"{_culprit(config, stages)} cannot be loaded: {_reason(error)}: its weights may be damaged: "
            "`winnow models` says where they are and how to get them"
        ) from error


def _culprit(config: Config, stages: Sequence[str]) -> str:
    """Which model it is, found by loading them one by one."""
    shelf = Shelf(config)
    for column, section in roles(config, stages):
        try:
            shelf.get(section)
        except Exception:
            return f"{column}: model {getattr(section, 'kind', None) or section.detector}"
    return f"a model of the stages {', '.join(stages)}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:297] + '...' if len(text) > 300 else text}"


def work(units: list[Unit], steps: Sequence[Step]) -> list[Unit]:
    """Take units through the steps. A step that raises for a unit has failed that unit, and its reason is recorded."""
    for step in steps:
        for unit in units:
            try:
                step([unit])
            except Exception as error:
                name = getattr(step, "name", type(step).__name__)
                unit.fail(f"{name}: {type(error).__name__}: {error}")
    return units


class Worker:
    """One actor of a pool: builds its stages once, then maps batches of packed units.

    Where a model cannot be loaded it says so in the column `refused`, for the driver to stop the job: Ray would take an
    exception here for a crash, and start the actor again.
    """

    def __init__(self, config: str, stages: Sequence[str]) -> None:
        resolved = resolve(json.loads(config), "the job's config")
        self.refused: str | None = None
        try:
            self.steps = load_steps(resolved, stages)
        except ExecutorError as error:
            self.refused = str(error)
        limit_threads(resolved.execution.threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        refused = [reason for reason in batch.column("refused").to_pylist() if reason]
        units = [Unit.unpack(data) for data in batch.column("unit").to_pylist()]
        if refused or self.refused:
            return _table(units, refused=refused[0] if refused else self.refused)
        return _table(work(units, self.steps))


def _over_ray(units: list[Unit], config: Config, stages: Sequence[str], place: Place) -> Iterator[Unit]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a lost block is noticed by `run`, which tries its units again
    cpus = ray.cluster_resources().get("CPU", 1.0)
    size = -(-len(units) // BLOCKS)
    blocks = [_table(units[i : i + size]) for i in range(0, len(units), size)]
    data = ray.data.from_arrow(blocks)
    for pool in pools_of(config, stages):
        workers = min(place.workers or _fitting(cpus, place), len(units))
        share = 0.9 * cpus / workers if pool.gpus == 0 else 0.1
        make = {
            "max_restarts": 4,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": worker_environment(config.execution.threads)},
        }
        data = _map(
            data,
            Worker,
            fn_constructor_args=(config.model_dump_json(), pool.stages),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),  # a crash costs the unit in hand
            num_cpus=min(1.0, share),
            num_gpus=pool.gpus or None,
            **make,
        )
    for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for packed, refused in zip(batch["unit"].to_pylist(), batch["refused"].to_pylist(), strict=True):
            if refused:
                raise ExecutorError(refused)
            yield Unit.unpack(packed)


def _map(data: Any, *arguments: Any, **options: Any) -> Any:
    """`data.map_batches`, without Ray's word that restarts are set in another way from 2.64 on: pyproject stays below it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.map_batches(*arguments, **options)


def _fitting(cpus: float, place: Place) -> int:
    """One worker a core; on this machine, no more than memory holds."""
    if place.address:
        return max(1, int(cpus))
    return max(1, min(int(cpus), int(psutil.virtual_memory().available / WORKER_MEMORY)))


def limit_threads(threads: int) -> None:
    """Give the libraries that are loaded so many threads: every worker has its own core, more would only take turns."""
    import cv2

    cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _table(units: Sequence[Unit], refused: str | None = None) -> pa.Table:
    packed = pa.array([unit.pack() for unit in units], pa.large_binary())
    return pa.table({"unit": packed, "refused": pa.array([refused] * len(units), pa.string())})
