"""Pools of workers: which stages share one, and how CPUs, GPUs and memory are allocated to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import psutil

from pipelines.annotation.models import memory_of, uses
from pipelines.cluster import ExecutorError
from pipelines.config import Config

__all__ = ["PROCESS_BYTES", "Place", "Pool", "Share", "allocate", "pools_of"]

# Of one worker without models: Python with its libraries, and the decoding process. With the offline pack's models, which
# the sum below puts at 2.4e9, films of the demo took 1.55e9 once loaded and 2.27e9 at most.
PROCESS_BYTES = 1.8e9


@dataclass(frozen=True)
class Place:
    """Where to run. executor: "ray" or "inline". workers: processes, None: as many as fit. address: Ray cluster or None."""

    executor: str = "inline"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Pool:
    """Consecutive stages that share one kind of worker. gpu: its workers need one. memory: bytes of one worker."""

    stages: tuple[str, ...]
    gpu: bool = False
    memory: float = PROCESS_BYTES


def pools_of(config: Config, stages: Sequence[str]) -> list[Pool]:
    """Consecutive stages with the same needs: without GPUs one pool, so that a unit stays in one process.

    With GPUs, a stage is on a GPU if it, or at least one of its models, can use one; otherwise on CPUs.
    """

    def on_gpu(name: str) -> bool:
        part = config.parts.stages[name]
        return config.execution.gpus > 0 and (part.gpu or any(use.gpu for use in uses(config, [name])))

    pools = []
    for gpu, names in groupby(stages, key=on_gpu):
        together = tuple(names)
        own = sum(config.parts.stages[name].memory for name in together)
        pools.append(Pool(together, gpu, PROCESS_BYTES + own + memory_of(uses(config, together))))
    return pools


@dataclass(frozen=True)
class Share:
    """Allocation of one pool: number of workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: float
    gpus: float = 0.0


def allocate(pools: Sequence[Pool], config: Config, place: Place, units: int, cpus: float, gpus: float) -> list[Share]:
    """Allocate the CPUs and GPUs of a machine or cluster to pools. Raises ExecutorError if a GPU is missing.

    A GPU pool has as many workers as fit on its GPUs, with `execution.gpus` each; a CPU pool has one worker a core, on this
    machine limited by memory. All pools run at once, and together request less than there is.
    """
    on_gpu = sum(pool.gpu for pool in pools)
    if on_gpu and not gpus:
        raise ExecutorError(
            f"execution.gpus is {config.execution.gpus:g}, and Ray sees no GPU: set execution.gpus to 0, or start Ray on a "
            "machine that has one"
        )
    each, by_gpus = _gpu_share(config.execution.gpus, gpus, on_gpu) if on_gpu else (0.0, 0)
    shares = []
    for pool in pools:
        if pool.gpu:
            workers = min(by_gpus, units)
            shares.append(Share(workers, min(1.0, 0.3 * cpus / on_gpu / workers), each))
        else:
            workers = min(place.workers or _cpu_workers(cpus, place, pool), units)
            left = (0.6 if on_gpu else 0.9) * cpus / (len(pools) - on_gpu)
            shares.append(Share(workers, min(1.0, left / workers)))
    return shares


def _gpu_share(wanted: float, gpus: float, pools: int) -> tuple[float, int]:
    """(GPUs of one worker, workers of one pool), such that every pool has a worker and Ray can place all of them.

    Ray places whole GPUs, or shares of one GPU that do not cross to the next: a share is whole, or 1/n.
    """
    if wanted >= 1 and pools * int(wanted) <= gpus:
        each = int(wanted)
        return float(each), int(gpus // (pools * each))
    per_gpu = max(int(1 / min(wanted, 1.0) + 1e-6), -(-pools // int(max(gpus, 1))))  # workers that share one
    return 1 / per_gpu, max(1, int(gpus) * per_gpu // pools)


def _cpu_workers(cpus: float, place: Place, pool: Pool) -> int:
    """One worker a core; on this machine, no more than memory holds."""
    if place.address:
        return max(1, int(cpus))
    return max(1, min(int(cpus), int(psutil.virtual_memory().available / pool.memory)))
