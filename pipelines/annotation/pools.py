"""Pools of workers: which stages share one, and how the CPUs, GPUs and memory of machines are allocated to them.

Everything follows from what the parts declare (`gpu`, `memory`, their models and the sizes of these), the machines, and, once
there are some, measured times. `allocate` is a pure function: the driver calls it again when machines come or go and when
it has measured more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.annotation.models import memory_of, uses
from pipelines.cluster import ExecutorError
from pipelines.config import Config

__all__ = [
    "GPU_PROCESS_BYTES",
    "PROCESS_BYTES",
    "Node",
    "Place",
    "Pool",
    "Share",
    "allocate",
    "nodes_of_ray",
    "pools_of",
]

# Of one worker without models: Python with its libraries, and the decoding process. With the offline pack's models, which
# the sum below puts at 2.4e9, films of the demo took 1.55e9 once loaded and 2.27e9 at most.
PROCESS_BYTES = 1.8e9
GPU_PROCESS_BYTES = 4.0e9  # assumed: CUDA's libraries are larger, and there is no decoder
CUDA_BYTES = 0.6e9  # assumed: of the GPU's memory, before anything is loaded
OF_CPUS = 0.9  # share of the CPUs that workers reserve, so that the driver and the planning have some ...
OF_CPUS_BESIDE_GPUS, OF_CPUS_ON_GPUS = 0.6, 0.3  # ... and where there are GPU pools: of CPU pools, and of these
HEADROOM = 1.25  # CPU workers beside what GPU workers need by measured times, as units differ


@dataclass(frozen=True)
class Place:
    """Where to run. executor: "ray" or "inline". workers: processes, None: as many as fit. address: Ray cluster or None."""

    executor: str = "inline"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Node:
    """Machines of one kind. cpus, gpus, memory (bytes): of each; gpu_gb: memory of a GPU, None if not known."""

    cpus: float
    gpus: float = 0.0
    memory: float = math.inf
    count: int = 1
    gpu_gb: float | None = None


@dataclass(frozen=True)
class Pool:
    """Consecutive stages that share one kind of worker. gpu: its workers need one. memory: bytes of one worker.

    gpu_memory: bytes of a GPU that one worker takes. without: keys of roles whose models are not in this pool, because a
    stage of it runs in another pool too (`build` takes them). unknown: models whose size nothing tells.
    """

    stages: tuple[str, ...]
    gpu: bool = False
    memory: float = PROCESS_BYTES
    gpu_memory: float = 0.0
    without: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.stages[0] if len(self.stages) == 1 else f"{self.stages[0]} to {self.stages[-1]}"


@dataclass(frozen=True)
class Share:
    """Allocation of one pool: bounds of its number of workers, and the CPUs, GPUs and bytes of memory of each.

    All pools fit at workers_max. batch: clips that one call of a worker gets, of several units; 0: one unit a call.
    """

    workers_min: int
    workers_max: int
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    batch: int = 0


def actor_options(pool: Pool, share: Share) -> dict[str, Any]:
    """Options of Ray for one worker of a pool; its `env_vars` are to be joined with others.

    A worker without a GPU of its own sees none: all of them would load their models onto one. Workers are spread, so that
    each machine keeps memory for those that feed the others.
    """
    return {
        "num_cpus": share.cpus,
        "num_gpus": share.gpus,
        "memory": int(share.memory),
        "scheduling_strategy": "SPREAD",
        "runtime_env": {"env_vars": {} if pool.gpu else {"CUDA_VISIBLE_DEVICES": ""}},
    }


def pools_of(config: Config, stages: Sequence[str]) -> list[Pool]:
    """Consecutive stages with the same needs: without GPUs one pool, so that a unit stays in one process.

    With GPUs, a stage is on a GPU if it, or at least one of its models, can use one; otherwise on CPUs. Those of its
    models that are `separable` and cannot use one run in the CPU pool before.
    """
    runs: list[tuple[bool, list[str], set[str]]] = []
    for name in stages:
        part = config.parts.stages[name]
        own = list(uses(config, [name]))
        gpu = config.execution.gpus > 0 and (part.gpu or any(use.gpu for use in own))
        apart = _apart(config, name) if gpu and runs and not runs[-1][0] else set()
        if apart:
            runs[-1][1].append(name)
            runs[-1][2].update({role.key for role in part.models} - apart)
        if not runs or runs[-1][0] != gpu:
            runs.append((gpu, [], set()))
        runs[-1][1].append(name)
        runs[-1][2].update(apart)
    return [_pool(config, gpu, tuple(names), tuple(sorted(without))) for gpu, names, without in runs]


def _apart(config: Config, stage: str) -> set[str]:
    """Roles of a stage on GPUs whose models run on CPUs, apart from the others."""
    part, adapter_of = config.parts.stages[stage], config.parts.adapter_of
    chosen = {role.key: role.chosen(config) for role in part.models if role.key in part.separable}
    return {key for key, section in chosen.items() if section is not None and not adapter_of(section).gpu}


def _pool(config: Config, gpu: bool, stages: tuple[str, ...], without: tuple[str, ...]) -> Pool:
    own = sum(config.parts.stages[name].memory for name in stages)
    used = list(uses(config, stages, without))
    unknown = tuple(dict.fromkeys(use.column for use in used if use.unknown))
    if not gpu:
        return Pool(stages, False, PROCESS_BYTES + own + memory_of(used), 0.0, without, unknown)
    on_gpu = [use for use in used if use.gpu]
    loading = max((sum(use.weight_bytes.values()) for use in on_gpu), default=0.0)  # passes through the host's memory
    host = GPU_PROCESS_BYTES + own + memory_of(use for use in used if not use.gpu) + loading
    return Pool(stages, True, host, CUDA_BYTES + memory_of(on_gpu), without, unknown)


def allocate(
    pools: Sequence[Pool],
    config: Config,
    place: Place,
    units: int | None,
    nodes: Sequence[Node],
    seconds: Sequence[float | None] = (),
) -> list[Share]:
    """Allocate machines to pools, such that all of them fit at once. Raises ExecutorError if a GPU is missing.

    units: how many there are; None: not known. seconds: of a worker for a second of footage, by pool, as measured so far.
    GPU pools share all GPUs in proportion to their seconds; CPU pools the CPUs, as memory allows, and no more than the
    GPU pools can take from them.
    """
    known = [*seconds, *[None] * (len(pools) - len(seconds))]
    gpu_pools = [pool for pool in pools if pool.gpu]
    each = _gpu_share(gpu_pools, config, nodes) if gpu_pools else 0.0
    slots = [_slots(node, each, pools) for node in nodes]
    workers = _workers(pools, known, config, place, nodes, slots)
    if (
        gpu_pools and None not in known
    ):  # where memory is short, fewer GPU workers may leave room for those that feed them
        fewer = ([min(most, slot) for slot in slots] for most in range(max(slots, default=1), 0, -1))
        tried = [(some, _workers(pools, known, config, place, nodes, some)) for some in fewer]
        slots, workers = max(tried, key=lambda found: _rate(found[1], known))
    busiest = min((node.cpus / slot for slot, node in zip(slots, nodes, strict=True) if slot), default=1.0)
    threads = max(config.execution.threads, config.decode.threads)
    part = OF_CPUS_BESIDE_GPUS if gpu_pools else OF_CPUS
    cpus = part * sum(node.cpus * node.count for node in nodes) / max(1, len(pools) - len(gpu_pools))
    most = max(1, units) if units is not None else 10**9
    shares = []
    for at, pool in enumerate(pools):
        count = min(workers[at], most)
        memory = _memory(pool, pools, nodes, count)
        if pool.gpu:
            batch = config.execution.batch_clips
            shares.append(Share(count, count, min(1.0, OF_CPUS_ON_GPUS * busiest), each, memory, batch))
        else:
            least = count if place.workers else 1
            shares.append(Share(least, count, min(threads * part, cpus / count), 0.0, memory))
    return shares


def _workers(
    pools: Sequence[Pool],
    seconds: Sequence[float | None],
    config: Config,
    place: Place,
    nodes: Sequence[Node],
    slots: Sequence[int],
) -> dict[int, int]:
    """Workers by pool, where each machine has so many slots for GPU workers."""
    on_gpu = [at for at, pool in enumerate(pools) if pool.gpu]
    total = sum(slot * node.count for slot, node in zip(slots, nodes, strict=True))
    workers = dict(zip(on_gpu, _split(max(total, len(on_gpu)), [seconds[at] for at in on_gpu]), strict=True))
    rate = _rate(workers, seconds) if on_gpu else math.inf
    return workers | _cpu_workers(pools, seconds, config, place, nodes, slots, rate)


def _gpu_share(pools: Sequence[Pool], config: Config, nodes: Sequence[Node]) -> float:
    """GPUs of one worker, such that every pool has a worker and Ray can place all of them.

    Ray places whole GPUs, or shares of one GPU that do not cross to the next: a share is whole, or 1/n.
    """
    wanted, gpus = config.execution.gpus, sum(node.gpus * node.count for node in nodes)
    if not gpus:
        raise ExecutorError(
            f"execution.gpus is {wanted:g}, and Ray sees no GPU: set execution.gpus to 0, or start Ray on a "
            "machine that has one"
        )
    if wanted >= 1 and len(pools) * int(wanted) <= sum(
        node.gpus // int(wanted) * node.count * int(wanted) for node in nodes
    ):
        return float(int(wanted))
    together = int(1 / min(wanted, 1.0) + 1e-6)  # workers that share one
    room = min((size for node in nodes if node.gpus and (size := config.execution.gpu_gb or node.gpu_gb)), default=None)
    if room is not None:
        together = max(1, min(together, int(room * 1e9 / max(pool.gpu_memory for pool in pools))))
    return 1 / max(together, math.ceil(len(pools) / max(int(gpus), 1)))


def _slots(node: Node, each: float, pools: Sequence[Pool]) -> int:
    """GPU workers that one machine holds, by its GPUs, and by its memory beside a worker of each CPU pool."""
    if not each or not node.gpus:
        return 0
    by_gpus = int(node.gpus // each) if each >= 1 else int(node.gpus) * round(1 / each)
    beside = sum(pool.memory for pool in pools if not pool.gpu)
    by_memory = (node.memory - beside) / max(pool.memory for pool in pools if pool.gpu)
    return int(min(by_gpus, max(1, by_memory)))


def _split(total: int, seconds: Sequence[float | None]) -> list[int]:
    """Workers by pool, at least one each: in proportion to measured times; equal where they are not known."""
    if not seconds:
        return []
    weights = [1.0] * len(seconds) if None in seconds or not sum(filter(None, seconds)) else list(seconds)
    spare = max(0, total - len(seconds))
    parts = [spare * weight / sum(weights) for weight in weights]
    counts = [1 + int(part) for part in parts]
    by_rest = sorted(range(len(parts)), key=lambda at: int(parts[at]) - parts[at])
    for at in by_rest[: max(0, total - sum(counts))]:
        counts[at] += 1
    return counts


def _rate(workers: dict[int, int], seconds: Sequence[float | None]) -> float:
    """Seconds of footage a second that these pools can take, by measured times; infinite where these are not known."""
    return min((count / seconds[at] for at, count in workers.items() if seconds[at]), default=math.inf)


def _cpu_workers(
    pools: Sequence[Pool],
    seconds: Sequence[float | None],
    config: Config,
    place: Place,
    nodes: Sequence[Node],
    slots: Sequence[int],
    rate: float,
) -> dict[int, int]:
    """Workers of each CPU pool: one a core, as memory allows beside the GPU workers, and as `rate` needs."""
    on_cpu = [at for at, pool in enumerate(pools) if not pool.gpu]
    if place.workers:
        return dict.fromkeys(on_cpu, place.workers)
    if not on_cpu:
        return {}
    threads = max(config.execution.threads, config.decode.threads)
    large = max(pools[at].memory for at in on_cpu)
    gpu_memory = max((pool.memory for pool in pools if pool.gpu), default=0.0)
    total = 0
    for node, taken in zip(nodes, slots, strict=True):
        by_memory = max(0.0, node.memory - taken * gpu_memory) / large
        total += node.count * int(min(node.cpus // threads, by_memory))
    split = dict(zip(on_cpu, _split(max(total, len(on_cpu)), [seconds[at] for at in on_cpu]), strict=True))
    for at, count in split.items():
        if seconds[at] and math.isfinite(rate):
            split[at] = min(count, max(1, math.ceil(HEADROOM * rate * seconds[at])))
    return split


def _memory(pool: Pool, pools: Sequence[Pool], nodes: Sequence[Node], count: int) -> float:
    """Bytes that a worker reserves: what it takes; less on machines with less than one worker of each pool takes, and
    where more workers were asked for than memory holds."""
    largest = max(node.memory for node in nodes)
    fits = min(1.0, largest / sum(each.memory for each in pools))
    return min(pool.memory * fits, sum(node.memory * node.count for node in nodes) / max(count, 1))


def nodes_of_ray() -> list[Node]:
    """The living machines of the cluster that this process is connected to."""
    import ray

    found: dict[tuple[float, float, float], int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            key = has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0)
            found[key] = found.get(key, 0) + 1
    return [Node(*key, count=count) for key, count in found.items() if key[0] or key[1]]
