"""What a stage is: a callable from units to units, which works on their clips when the decode is done.

A stage has one method to write, `process(clips)`; timing, and turning an exception into a recorded reason instead of a
score, live here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.clip import Clip, Column, Unit
from curate.part import PipelinePart


class Stage(PipelinePart):
    """A callable from units to units that fills some columns of their clips.

    Subclasses declare `name`, `needs` and `columns`, and write `process`. An exception in `process` is retried clip by clip, so that
    one bad clip costs only itself; a clip that fails keeps null scores and `errors[name]` says why.
    """

    @classmethod
    def create(cls, section: Any, models: Mapping[str, Any]) -> Stage:
        """The stage of one worker. section: its own, of the config. models: loaded, by the parameter of their role."""
        return cls(**cls.arguments(section), **models)

    def process(self, clips: Sequence[Clip]) -> None:
        """Write this stage's columns into `clip.values`; batches are formed here, over the clips of one unit."""
        raise NotImplementedError

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            if not unit.wants(self.name):
                continue
            began = time.perf_counter()
            if unit.clips:
                before = [dict(clip.errors) for clip in unit.clips]
                attempt(self.process, unit.clips, self.name, self.columns)
                if not unit.lost:  # a second time it is recorded
                    self._blame_the_machine(unit, before)
            unit.seconds[self.name] = time.perf_counter() - began
        return list(units)

    def _blame_the_machine(self, unit: Unit, before: Sequence[dict[str, str]]) -> None:
        """MemoryError where this stage lacked memory on a clip: the unit is to be tried again, with nothing beside it."""
        for clip, old in zip(unit.clips, before, strict=True):
            for key, reason in clip.errors.items():
                if old.get(key) != reason and lacks_memory(reason):
                    raise MemoryError(reason)


def lacks_memory(reason: str) -> bool:
    """Whether a reason in `Clip.errors` is that of a machine without memory: Python's, OpenCV's, torch's."""
    text = reason.lower()
    return any(
        part in text for part in ("memoryerror", "out of memory", "can't allocate memory", "insufficient memory")
    )


def attempt(process: Callable[[list[Clip]], None], clips: list[Clip], name: str, columns: Sequence[Column]) -> None:
    """Run `process` over clips; where it raises, again one by one, and record the reason on those that still fail."""
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
