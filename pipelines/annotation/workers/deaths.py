"""Why a worker on Ray died: by its own crash, which may be a unit's fault, or by something from outside, which is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from curate.base.child import KILLED, WORKER

LOOK_SECONDS = 20.0


def cause_of(error: Exception, about: Mapping[str, Any] | None, local: bool) -> tuple[str, str]:
    """(kind of loss, reason). about: what the worker said of itself when it started. local: it was on this machine."""
    text = " ".join(str(error).split())
    if (
        "node has died" in text
        or "node died" in text.lower()
        or "NODE_DIED" in text
        or getattr(error, "preempted", False)
    ):
        return KILLED, "its node is gone"
    crash = _crash(about, local) if about else None
    if crash:
        return WORKER, f"it crashed: {crash}"
    if "memory" in text.lower() and "oom" in text.lower() and "potential root causes" not in text:
        return KILLED, "Ray ended it, as the machine ran out of memory"
    return KILLED, "its process was killed from outside; the machine may have run out of memory"


def gone_with_node() -> tuple[type[Exception], ...]:
    """What is raised where an argument of a call was in the memory of a node that is gone: also as a RayTaskError."""
    from ray.exceptions import ObjectLostError, OwnerDiedError

    return ObjectLostError, OwnerDiedError


def _crash(about: Mapping[str, Any], local: bool) -> str | None:
    """What a worker's process wrote when it crashed; None or "" where it did not."""
    if local:
        return read_crash(about["crash"])
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with suppress(Exception):  # the node may go meanwhile
        there = NodeAffinitySchedulingStrategy(node_id=about["node"], soft=False)
        look = ray.remote(read_crash).options(num_cpus=0, scheduling_strategy=there)
        return ray.get(look.remote(about["crash"]), timeout=LOOK_SECONDS)
    return None


def read_crash(path: str) -> str:
    """The first line of a crash's account, which is deleted."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""
    finally:
        with suppress(OSError):
            os.unlink(path)
