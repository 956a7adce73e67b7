"""The stages of one job, and the callables of one worker.

Stages declare what they need, fill and require of a machine; the list of stages is `curate.parts.STAGES`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa

from curate.base.store import Store, store_of
from curate.clip import Unit
from curate.observers.observer import Observer
from curate.parts import Parts
from curate.pipeline_part import PipelinePart
from curate.stages.portion import Portion
from curate.stages.prefilter import Prefilter
from curate.stages.stage import CLIPS_AT_ONCE, Stage
from curate.watching.facts import FILE_COLUMNS
from curate.watching.watch import views_of
from pipelines.annotation.decoding import Frames, Pass, frames_needed
from pipelines.annotation.models import ModelCache
from pipelines.config import Config
from pipelines.dataset.dataset import read_unit
from pipelines.dataset.tables import Tables
from pipelines.sources.listed import apply_list

VERSION = "version"  # key of a stage's version, beside its sections of the config

Step = Callable[[Sequence[Unit]], list[Unit]]


class StageError(Exception):
    """A name that is no stage. One line, with the names that are."""


def tables_of(parts: Parts) -> Tables:
    """The tables that a job with these parts writes."""
    return Tables(scores=tuple(parts.columns), facts=(*FILE_COLUMNS, *parts.facts))


TABLES = tables_of(Parts())


def prefilter_columns(parts: Parts) -> list[str]:
    """Columns that a prefilter may use: numeric ones of the stages before the first prefiltered one."""
    names = list(parts.stages)
    first = next((at for at, name in enumerate(names) if parts.stages[name].prefiltered), len(names))
    columns = [column for name in names[:first] for column in parts.stages[name].columns]
    return [c.name for c in columns if pa.types.is_floating(c.type) or pa.types.is_integer(c.type)]


def with_needs(names: Sequence[str], config: Config | None = None) -> tuple[str, ...]:
    """The named stages, and all that they and the config's prefilter need, in the order they run."""
    parts = config.parts if config else Parts()
    if not names:
        raise StageError(f"--stages: none named: choose from {', '.join(parts.stages)}")
    filtered = _prefilter_needs(config) if config else []
    for name in names:
        if name not in parts.stages:
            raise StageError(f"--stages {name}: no such stage: choose from {', '.join(parts.stages)}")
    wanted = parts.with_needs(names)
    return parts.with_needs([*wanted, *filtered]) if any(parts.stages[name].prefiltered for name in wanted) else wanted


def check_views(config: Config, names: Sequence[str]) -> None:
    """Raise StageError where two observers want one view of the frames in different sizes."""
    parts = config.parts.observers
    try:
        views_of([(part, getattr(config, name, None)) for name, part in parts.items() if name in names])
    except ValueError as error:
        raise StageError(str(error)) from None


def _prefilter_needs(config: Config) -> list[str]:
    """The stages whose columns the prefilter uses."""
    known = prefilter_columns(config.parts)
    needs = []
    for column in [*config.prefilter.min, *config.prefilter.max]:
        if column not in known:
            close = difflib.get_close_matches(column, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise StageError(f"prefilter: {column} is not a score that is known before captions: {hint}")
        needs.append(config.parts.stage_of(column))
    return needs


def build(
    config: Config, stages: Sequence[str], without: Collection[str] = (), at_once: int = CLIPS_AT_ONCE
) -> list[Step]:
    """The callables of one worker, which map units to units. Each model is loaded once, even if stages share it.

    without: keys of roles whose models run in another pool. at_once: clips whose pictures a stage holds at a time.
    """
    cache = ModelCache(config)
    steps: list[Step] = [Recall(config.parts)]
    chosen = [config.parts.stages[name] for name in stages]
    if any(issubclass(part, Observer) for part in chosen):
        steps.append(Pass(config))
    if frames_needed(config, stages):
        steps.append(Frames(config))
    for part in chosen:
        if issubclass(part, Stage):
            stage = _made(part, config, cache, without)
            stage.at_once = at_once
            step = _filtered(stage, config)
            steps.append(Portion(step, without) if {role.key for role in part.models} & set(without) else step)
    return steps


def _made(part: type[Stage], config: Config, cache: ModelCache, without: Collection[str]) -> Stage:
    models = {role.parameter: None if role.key in without else cache.get(role.chosen(config)) for role in part.models}
    return part.create(getattr(config, part.name, None), models)


def _filtered(stage: Stage, config: Config) -> Stage:
    rule = config.prefilter
    if not stage.prefiltered or not (rule.min or rule.max):
        return stage
    return Prefilter(stage, minimum=rule.min, maximum=rule.max)


class Recall:
    """Reads the stored rows of units that need more stages, in the worker, so that stills do not pass through the driver."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            if unit.stored is not None and not unit.recalled:  # once, in the first pool that works on it
                self._read(unit, store_of(unit.stored[0]), unit.stored[1])
                unit.recalled = True
        return list(units)

    def _read(self, unit: Unit, store: Store, shard: str) -> None:
        stamps = {name: unit.facts[name] for name in ("bytes", "modified", "version") if name in unit.facts}
        stored = read_unit(store, shard, unit, tables_of(self.parts).with_stored(store, [shard]))
        if unit.video.captions or unit.video.columns or unit.video.spans:  # from the current list
            apply_list(stored, unit.video)
        for name in ("video", "count", "start", "end", "status", "error", "warnings", "facts", "clips", "seconds"):
            setattr(unit, name, getattr(stored, name))
        unit.facts |= stamps
        for clip in unit.clips:  # stages that run again record their own errors
            again = {key for key in clip.errors if unit.wants(self.parts.stage_of(key))}
            clip.errors = {key: reason for key, reason in clip.errors.items() if key not in again}


def stage_identity(config: Config, stage: str) -> dict[str, Any]:
    """The sections of a config that a stage's columns depend on; rows of different ones must not be mixed."""
    part = config.parts.stages[stage]
    keys = [*part.sections(), *part.also, *(["prefilter"] if part.prefiltered else [])]
    found = {short_key(key, keys): _at(config, key) for key in keys}
    return found | ({VERSION: part.version} if part.version != PipelinePart.version else {})


def short_key(key: str, keys: Sequence[str]) -> str:
    """The last word of a dotted key; all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return key if [other.rpartition(".")[2] for other in keys].count(last) > 1 else last


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


__all__ = ["TABLES", "StageError", "Step", "build", "stage_identity", "tables_of", "with_needs"]
