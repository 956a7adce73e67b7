"""One worker of a pool: builds its stages once, works on units, and commits those that are finished."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.base.child import KILLED, MEMORY, RESOURCE_ERRNOS, Lost, NotStarted
from curate.base.extras import missing_package
from curate.base.store import shown, store_of
from curate.clip import Unit
from curate.stages.portion import Portion
from curate.stages.stage import CLIPS_AT_ONCE, Stage
from curate.watching.isolation import record_loss
from curate.weights import MissingWeights
from pipelines.annotation.models import ModelCache, uses
from pipelines.annotation.stages import Step, build
from pipelines.annotation.tasks import Report, Task
from pipelines.cluster import ExecutorError
from pipelines.config import Config
from pipelines.dataset.dataset import DatasetError, Tables, Writer
from pipelines.dataset.lock import Fence
from pipelines.dataset.shards import Footer

LOG = logging.getLogger("winnow")
MOST_UNITS = 1024  # of a shard, where units have few clips


@dataclass(frozen=True)
class Target:
    """Where finished units go: a dataset (path or URL), its tables and models, and the run that writes."""

    place: str
    tables: Tables
    models: dict[str, Any]
    run: str = ""
    probe: str | None = None  # an object there, which whoever writes must find: else it is another machine's disk


@dataclass
class Reply:
    """What a worker says after a call. units: those to hand on to the next pool. waiting: units that are not committed yet."""

    reports: list[Report] = field(default_factory=list)
    footers: list[Footer] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    waiting: int = 0


class Committer:
    """Collects finished units, and commits them as shards by size and time. Raises DatasetError where another run has taken
    the dataset over."""

    def __init__(self, target: Target, config: Config) -> None:
        self.writer = Writer(
            store_of(target.place),
            target.tables,
            models=target.models,
            shard_clips=config.execution.shard_clips,
            shard_seconds=config.execution.shard_seconds,
            run=target.run,
        )
        self.fence = Fence(self.writer.store, target.run, DatasetError)
        self.waiting = 0

    def add(self, unit: Unit, task: Task) -> list[Footer]:
        self.fence.check()
        made = self.writer.add(unit, stages=task.stages, generation=task.generation, replaces=task.replaces)
        self.waiting = 0 if made else self.waiting + 1
        return self.flush() if self.waiting >= MOST_UNITS else made

    def flush(self) -> list[Footer]:
        self.fence.check()
        self.waiting = 0
        return self.writer.flush()


class Worker:
    """target: of the last pool, whose workers commit; None for the others. without, at_once: see `build`. Raises
    ExecutorError where a model cannot be loaded."""

    def __init__(
        self,
        config: Config,
        stages: Sequence[str],
        target: Target | None,
        without: Sequence[str] = (),
        at_once: int = CLIPS_AT_ONCE,
    ) -> None:
        if target and target.probe and not store_of(target.place).exists(target.probe):
            raise ExecutorError(
                f"{shown(target.place)}: the machine {socket.gethostname()} does not see the dataset there, only a place of its "
                "own: give an --out that all machines see: a mounted folder, or a bucket such as s3://"
            )
        self.steps = load_steps(config, stages, without, at_once)
        limit_threads(config.execution.threads)
        self.committer = Committer(target, config) if target else None

    def work(self, tasks: Sequence[Task]) -> Reply:
        """Run the steps on the units of these tasks. Raises ExecutorError."""
        try:
            units = work([task.unit for task in tasks], self.steps)
        except NotStarted as error:
            raise ExecutorError(str(error)) from None
        if self.committer is None:
            return Reply([Report.of(unit) for unit in units], units=units)
        reply = Reply()
        for task, unit in zip(tasks, units, strict=True):
            written = unit.status != "lost" and task.writes(unit)
            reply.reports.append(Report.of(unit, written))
            reply.footers += self.committer.add(unit, task) if written else []
        reply.waiting = self.committer.waiting
        return reply

    def flush(self) -> Reply:
        """Commit what is collected."""
        return Reply(footers=self.committer.flush() if self.committer else [])


def work(units: list[Unit], steps: Sequence[Step]) -> list[Unit]:
    """Run the steps on units. A stage gets the clips of all of them in one call, or where that raises of one at a time; a
    step that raises then fails its unit, with the reason.

    If the exception is the machine's lack of a resource, the unit is lost. Raises NotStarted.
    """
    for step in steps:
        if len(units) > 1 and isinstance(step, (Stage, Portion)) and _together(step, units):
            continue
        for unit in units:
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
    return units


def _together(stage: Stage | Portion, units: Sequence[Unit]) -> bool:
    """Run a stage on several units at once; False, and the units are as before, where it raises."""
    before = [(clip, dict(clip.values), dict(clip.errors)) for unit in units for clip in unit.clips]
    try:
        stage(units)
    except NotStarted:
        raise
    except Exception as error:
        LOG.debug("%s: %d units at once: %s", stage.name, len(units), error)
        for clip, values, errors in before:
            clip.values, clip.errors = values, errors
        return False
    return True


def load_steps(
    config: Config, stages: Sequence[str], without: Sequence[str] = (), at_once: int = CLIPS_AT_ONCE
) -> list[Step]:
    """The callables of one worker, with their models loaded. ExecutorError names the model that cannot be loaded."""
    try:
        return build(config, stages, without, at_once)
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


def limit_threads(threads: int) -> None:
    """Limit the threads of the loaded libraries, since every worker has its own core."""
    import cv2

    cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
