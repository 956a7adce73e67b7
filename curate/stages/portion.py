"""A stage with some of its models, where the others run in another pool of workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from curate.clip import Unit
from curate.stages.stage import Stage


class Portion:
    """Runs a stage that was made without some of its models, and leaves alone the columns that those fill.

    without: keys of their roles. The stage's columns name theirs in `models`.
    """

    def __init__(self, stage: Stage, without: Collection[str]) -> None:
        self.stage, self.name = stage, stage.name
        self.others = [column.name for column in stage.columns if set(column.models) & set(without)]

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        clips = [clip for unit in units for clip in unit.clips]
        before = [{name: clip.values[name] for name in self.others if name in clip.values} for clip in clips]
        spent = [unit.seconds.get(self.name, 0.0) if unit.wants(self.name) else None for unit in units]
        try:
            self.stage(units)
        finally:
            for clip, values in zip(clips, before, strict=True):
                for name in self.others:
                    clip.values.pop(name, None)
                clip.values.update(values)
        for unit, seconds in zip(units, spent, strict=True):
            if seconds is not None:
                unit.seconds[self.name] += seconds
        return list(units)
