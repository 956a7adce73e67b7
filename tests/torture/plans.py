"""What happens to a run of one seed: where, on what, and which process is killed when."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

PLACES = ("disk", "bucket")
WEIGHTS = {  # kinds of process, and how often each is hit
    "inline": {"driver": 5, "decoder": 4},
    "ray": {"driver": 4, "supervised": 4, "worker": 4, "decoder": 2, "raylet": 2, "gcs": 1},
    "cluster": {"node": 4, "worker": 3, "driver": 2, "supervised": 2, "decoder": 1},
}
SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)  # of the driver; all others are killed


@dataclass(frozen=True)
class Kill:
    """moment: share of the time of a calm run. pick: which of several, 0..1."""

    kind: str
    moment: float
    pick: float
    signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True)
class Plan:
    """attempts: what is killed in the first, second ... start of the command; later ones are left in peace. selecting: the
    same of `winnow select`."""

    seed: int
    place: str
    executor: str
    workers: int
    attempts: tuple[tuple[Kill, ...], ...]
    selecting: tuple[Kill, ...]


def plan_of(seed: int) -> Plan:
    """The same for a seed each time: every second one in a bucket, every fifth on Ray, two of fifty on a cluster of nodes."""
    draw = random.Random(f"torture {seed}")
    executor = "cluster" if seed % 25 == 12 else "ray" if seed % 5 == 4 else "inline"
    attempts = tuple(
        tuple(sorted((_kill(draw, executor) for _ in range(draw.randint(1, 3))), key=lambda kill: kill.moment))
        for _ in range(draw.randint(1, 3))
    )
    if executor == "cluster":  # at least one node goes, and another joins
        attempts = ((Kill("node", draw.uniform(0.4, 0.8), 0.0), *attempts[0][:1]), *attempts[1:])
    selecting = (_kill(draw, "inline"),) if draw.random() < 0.5 else ()
    return Plan(seed, PLACES[seed % 2], executor, draw.randint(1, 2), attempts, selecting)


def _kill(draw: random.Random, executor: str) -> Kill:
    kinds = WEIGHTS[executor]
    (kind,) = draw.choices(list(kinds), list(kinds.values()))
    how = draw.choice(SIGNALS) if kind == "driver" else signal.SIGKILL
    return Kill(kind, draw.uniform(0.1, 1.0), draw.random(), how)
