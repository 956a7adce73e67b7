"""Base class of stages: callables from units to units, which score their clips after the decode.

A stage implements `process(clips)`; timing and error handling live here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.clip import Clip, Column, Unit
from curate.pipeline_part import PipelinePart, check_values

CLIPS_AT_ONCE = 16  # bounds the memory of a worker without a GPU


class Stage(PipelinePart):
    """A callable from units to units that fills some columns of their clips.

    Subclasses declare `name`, `needs` and `columns`, and write `process`. If it raises, it is retried clip by clip; a clip
    that fails has null scores and the reason in `errors[name]`. at_once: clips whose pictures it holds decoded at a time.
    """

    at_once: int = CLIPS_AT_ONCE

    @classmethod
    def create(cls, section: Any, models: Mapping[str, Any]) -> Stage:
        """The stage of one worker. section: its own, of the config. models: loaded, by the parameter of their role."""
        return cls(**cls.arguments(section), **models)

    def process(self, clips: Sequence[Clip]) -> None:
        """Write this stage's columns into `clip.values`. clips: of one unit, or of several; batch them here."""
        raise NotImplementedError

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        """Score the clips of these units, all in one call of `process`, or where that raises unit by unit."""
        wanted = [unit for unit in units if unit.wants(self.name)]
        clips = [clip for unit in wanted for clip in unit.clips]
        began = time.perf_counter()
        if clips:
            before = [dict(clip.errors) for clip in clips]
            if sum(bool(unit.clips) for unit in wanted) < 2 or not self._all_at_once(clips):
                for unit in wanted:
                    if unit.clips:
                        attempt(self.process, unit.clips, self.name, self.columns)
            check_values(self, clips)
            if not all(unit.lost for unit in wanted):  # in the second attempt the reason is recorded instead
                self._raise_if_out_of_memory(clips, before)
        spent = time.perf_counter() - began
        for unit in wanted:
            unit.seconds[self.name] = spent * (len(unit.clips) / len(clips) if clips else 1 / len(wanted))
        return list(units)

    def _all_at_once(self, clips: list[Clip]) -> bool:
        """Score clips of several units; False, and their errors are as before, where that raises."""
        before = [dict(clip.errors) for clip in clips]
        try:
            self.process(clips)
        except Exception:
            for clip, errors in zip(clips, before, strict=True):
                clip.errors = errors
            return False
        return True

    def _raise_if_out_of_memory(self, clips: Sequence[Clip], before: Sequence[dict[str, str]]) -> None:
        """Raise MemoryError if a clip failed for lack of memory: its unit is retried with nothing beside it."""
        for clip, old in zip(clips, before, strict=True):
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
