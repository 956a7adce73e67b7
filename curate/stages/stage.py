"""Base class of stages: callables from units to units, which score their clips after the decode.

A stage implements `process(clips)`; timing and error handling live here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.clip import Clip, Column, Unit
from curate.pipeline_part import PipelinePart, check_values


class Stage(PipelinePart):
    """A callable from units to units that fills some columns of their clips.

    Subclasses declare `name`, `needs` and `columns`, and write `process`. If it raises, it is retried clip by clip; a clip
    that fails has null scores and the reason in `errors[name]`.
    """

    @classmethod
    def create(cls, section: Any, models: Mapping[str, Any]) -> Stage:
        """The stage of one worker. section: its own, of the config. models: loaded, by the parameter of their role."""
        return cls(**cls.arguments(section), **models)

    def process(self, clips: Sequence[Clip]) -> None:
        """Write this stage's columns into `clip.values`. clips: all of one unit; batch them here."""
        raise NotImplementedError

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            if not unit.wants(self.name):
                continue
            began = time.perf_counter()
            if unit.clips:
                before = [dict(clip.errors) for clip in unit.clips]
                attempt(self.process, unit.clips, self.name, self.columns)
                check_values(self, unit.clips)
                if not unit.lost:  # in the second attempt the reason is recorded instead
                    self._raise_if_out_of_memory(unit, before)
            unit.seconds[self.name] = time.perf_counter() - began
        return list(units)

    def _raise_if_out_of_memory(self, unit: Unit, before: Sequence[dict[str, str]]) -> None:
        """Raise MemoryError if a clip failed for lack of memory: the unit is retried with nothing beside it."""
        for clip, old in zip(unit.clips, before, strict=True):
            for key, reason in clip.errors.items():
                if old.get(key) != reason and is_out_of_memory(reason):
                    raise MemoryError(reason)


def is_out_of_memory(reason: str) -> bool:
    """Whether a reason in `Clip.errors` is an out-of-memory error: Python's, OpenCV's or torch's."""
    text = reason.lower()
    return any(
        part in text for part in ("memoryerror", "out of memory", "can't allocate memory", "insufficient memory")
    )


def attempt(process: Callable[[list[Clip]], None], clips: list[Clip], name: str, columns: Sequence[Column]) -> None:
    """Run `process` over clips; if it raises, clip by clip, recording the reason on those that fail."""
    try:
        process(clips)
    except Exception as error:
        if len(clips) > 1:
            for clip in clips:
                attempt(process, [clip], name, columns)
            return
        for column in columns:
            clips[0].values[column.name] = None
        clips[0].errors[name] = f"{type(error).__name__}: {error}"
