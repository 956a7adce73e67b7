"""The plan of a config on machines: pools, workers, the rate to expect, what bounds it, and what would help most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.annotation.pools import Node, Place, Pool, Share, allocate, pools_of
from pipelines.capacity.rates import Footage, Rates, declared, of_dataset
from pipelines.cluster import ExecutorError
from pipelines.config import Config, override, resolve
from pipelines.typed_yaml import ConfigError

HELPS = 1.1  # times as fast, at least, for a change to be worth a line
SHOWN = 4


@dataclass(frozen=True)
class Plan:
    """rate: hours of footage an hour. bounds: what allows how much, the lowest first. helps: (change, times as fast)."""

    nodes: Sequence[Node]
    pools: Sequence[Pool]
    shares: Sequence[Share]
    rates: Rates
    footage: Footage
    rate: float
    bounds: Sequence[tuple[str, float]]
    helps: Sequence[tuple[str, float]] = ()
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        found = []
        for at, (pool, share) in enumerate(zip(self.pools, self.shares, strict=True)):
            costs = [cost.__dict__ for cost in self.rates.pools[at]]
            found.append({"name": pool.name, **pool.__dict__, "share": share.__dict__, "costs": costs})
        nodes = [
            {**node.__dict__, "memory": node.memory if math.isfinite(node.memory) else None} for node in self.nodes
        ]
        return {
            "nodes": nodes, "pools": found, "rate": self.rate, "bounds": [list(bound) for bound in self.bounds],
            "helps": [list(change) for change in self.helps], "notes": list(self.notes), "assumed": self.rates.assumed,
            "footage": self.footage.__dict__,
        }  # fmt: skip


def plan(config: Config, nodes: Sequence[Node], footage: Footage, dataset: str | None = None) -> Plan:
    """The plan of a config on these machines. dataset: whose times to go by, instead of the declared ones.

    Raises ExecutorError where a GPU is asked for and there is none; ValueError for a dataset without footage.
    """
    found = _plan(config, nodes, footage, dataset)
    helps = [(text, other.rate / found.rate) for text, other in _changed(config, nodes, footage, dataset)]
    best = sorted((change for change in helps if change[1] >= HELPS), key=lambda change: -change[1])
    return replace(found, helps=best[:SHOWN], notes=_notes(config, found))


def _plan(config: Config, nodes: Sequence[Node], footage: Footage, dataset: str | None) -> Plan:
    pools = pools_of(config, list(config.parts.stages))
    rates = declared(config, pools, footage)
    if dataset:
        rates, footage = of_dataset(dataset, config, pools, rates)
        # what the dataset lacks is declared by the clip, and it has another number of clips
        rates, footage = of_dataset(dataset, config, pools, declared(config, pools, footage))
    seconds = rates.seconds()
    shares = allocate(pools, config, Place("ray", address="auto"), None, nodes, seconds)
    bounds = sorted(_bounds(config, nodes, pools, shares, rates), key=lambda bound: bound[1])
    return Plan(nodes, pools, shares, rates, footage, bounds[0][1] if bounds else math.inf, bounds)


def _bounds(
    config: Config, nodes: Sequence[Node], pools: Sequence[Pool], shares: Sequence[Share], rates: Rates
) -> Iterator[tuple[str, float]]:
    """What allows how many hours of footage an hour."""
    gpu_pools = sum(pool.gpu for pool in pools)
    for at, (pool, share) in enumerate(zip(pools, shares, strict=True)):
        if rates.seconds()[at] > 0:
            limit = share.workers_max / rates.seconds()[at]
            yield f"the {share.workers_max:,} workers of {pool.name} ({_why(pool, share, nodes, gpu_pools)})", limit
    cpu = sum(rates.cpu(at) for at in range(len(pools)))
    if cpu > 0:
        cores = sum(node.cpus * node.count for node in nodes)
        yield f"the {cores:,.0f} CPUs, that all pools share", cores / cpu
    gpu = sum(rates.gpu(at) for at in range(len(pools)))
    if gpu > 0:
        cards = sum(node.gpus * node.count for node in nodes)
        yield f"the {cards:,.0f} GPUs, that their workers share", cards / gpu


def _why(pool: Pool, share: Share, nodes: Sequence[Node], gpu_pools: int) -> str:
    """What keeps a pool from having more workers."""
    if pool.gpu:
        by_gpus = sum(int(node.gpus / share.gpus + 1e-6) * node.count for node in nodes)
        if share.workers_max * gpu_pools < by_gpus:
            return "by memory, beside those that feed them"
        return f"by the GPUs, {share.gpus:g} each"
    cores = sum(int(node.cpus) * node.count for node in nodes)
    return "by the CPUs" if share.workers_max >= cores else "by memory, or as many as the GPU workers need"


def _changed(
    config: Config, nodes: Sequence[Node], footage: Footage, dataset: str | None
) -> Iterator[tuple[str, Plan]]:
    """Plans with one thing changed."""
    tried: list[tuple[str, Callable[[], Plan]]] = []

    def machines(text: str, **changes: Callable[[Node], float]) -> None:
        other = [replace(node, **{key: change(node) for key, change in changes.items()}) for node in nodes]
        tried.append((text, lambda: _plan(config, other, footage, dataset)))

    machines("twice the CPUs", cpus=lambda node: 2 * node.cpus)
    machines("twice the memory", memory=lambda node: 2 * node.memory)
    if any(node.gpus for node in nodes):
        machines("twice the GPUs", gpus=lambda node: 2 * node.gpus)
    machines("twice the machines", count=lambda node: 2 * node.count)
    for key, value in _settings(config, nodes):
        tried.append((f"--set {key}={value}", lambda key=key, value=value: _plan(_with(config, key, value), nodes, footage, dataset)))  # fmt: skip
    for text, attempt in tried:
        try:
            yield text, attempt()
        except (ConfigError, ExecutorError, ValueError):
            continue


def _settings(config: Config, nodes: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """Changes of the config that may help."""
    for role in config.parts.roles.values():
        section = role.chosen(config)
        if section is None:
            continue
        for adapter in config.parts.adapters_for(role):
            if adapter.kind() != section.kind and adapter.cpu_seconds is not None:
                yield role.key, f"{{kind: {adapter.kind()}}}"
        if getattr(section, "dtype", "") == "float32":
            yield f"{role.key}.dtype", "bfloat16"
        if (batch := getattr(section, "batch", None)) and config.execution.gpus:
            yield f"{role.key}.batch", str(4 * batch)
    if any(node.gpus for node in nodes):
        for gpus in (1, 0.5, 0.25):
            if gpus != config.execution.gpus:
                yield "execution.gpus", f"{gpus:g}"


def _with(config: Config, key: str, value: str) -> Config:
    tree = config.model_dump(mode="json")
    override(tree, f"{key}={value}")
    return resolve(tree, "the plan")


def _notes(config: Config, found: Plan) -> list[str]:
    notes = []
    cards = sum(node.gpus * node.count for node in found.nodes)
    if cards and not config.execution.gpus:
        notes.append("no GPU is used: execution.gpus is 0")
    for pool, share in zip(found.pools, found.shares, strict=True):
        if pool.unknown:
            notes.append(
                f"{', '.join(pool.unknown)}: the size of the model is not known: name its folder, or download it"
            )
        if share.memory < pool.memory * 0.999:
            notes.append(
                f"a worker of {pool.name} takes {pool.memory / 1e9:.1f} GB, and no machine has so much beside the others"
            )
        size = config.execution.gpu_gb or min((node.gpu_gb for node in found.nodes if node.gpu_gb), default=None)
        if pool.gpu and size and pool.gpu_memory / share.gpus > size * 1e9 * max(1.0, share.gpus) / share.gpus:
            notes.append(f"{pool.name}: {pool.gpu_memory / 1e9:.1f} GB of models do not fit a GPU of {size:g} GB")
    return notes
