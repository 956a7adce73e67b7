"""Base class of observers, which measure clips during the decode.

An observer is created for one unit, sees each of its frames once, and fills its columns at the end, when the clips are
known. Observers pass facts to each other as attributes of the frame.
"""

from __future__ import annotations

from typing import Any

from curate.clip import Clip, Unit
from curate.pipeline_part import PipelinePart
from curate.video.frame import Frame
from curate.video.timeline import Timeline

__all__ = ["Observer"]


class Observer(PipelinePart):
    """Subclasses declare `name`, `needs` and `columns`, and write `see` and `finish`.

    Exactly one observer finds the clips: it comes first in the list.
    """

    @classmethod
    def views(cls, options: Any) -> dict[str, int]:
        """Shorter sides, px, of the views of a frame that it uses: `grey`, `picture`. All observers must agree on one size."""
        return {}

    @classmethod
    def create(cls, options: Any, unit: Unit, frames: int) -> Observer:
        """The observer of one unit. options: of its section. frames: how many frames of each clip later stages need."""
        return cls(**cls.arguments(options))

    def see(self, frame: Frame) -> None:
        """Look at the next frame, in order of presentation; its pixels are valid until this returns."""
        raise NotImplementedError

    def clips(self, timeline: Timeline) -> list[Clip] | None:
        """The clips, with frames counted from the unit's first; None: not the observer that finds them."""
        return None

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        """Write the columns into `clip.values` of the unit's clips, reasons into `clip.errors`, facts into `unit.facts`."""
        raise NotImplementedError
