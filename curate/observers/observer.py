"""What watches the frames of a decode go by.

An observer is made for one unit, sees every frame of it once, and fills its columns at the end, when the clips are known.
Whatever it needs from another observer is a fact of the frame.
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

    Exactly one observer of a pass finds the clips: it comes first in the list.
    """

    @classmethod
    def views(cls, options: Any) -> dict[str, int]:
        """Shorter sides, px, of the views of a frame that it looks at: `grey`, `picture`. One size for all observers."""
        return {}

    @classmethod
    def made(cls, options: Any, unit: Unit, frames: int) -> Observer:
        """The observer of one unit. options: of its section. frames: how many frames of each clip later stages want."""
        return cls(**cls.arguments(options))

    def see(self, frame: Frame) -> None:
        """Look at the next frame, in order of presentation; its pixels are valid until this returns."""
        raise NotImplementedError

    def clips(self, timeline: Timeline) -> list[Clip] | None:
        """The clips, with frames counted from the unit's first; None: this observer finds none."""
        return None

    def finish(self, unit: Unit, timeline: Timeline) -> None:
        """Write the columns into `clip.values` of the unit's clips, reasons into `clip.errors`, facts into `unit.facts`."""
        raise NotImplementedError
