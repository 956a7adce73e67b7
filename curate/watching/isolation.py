"""Planning, watching and identifying files in a child process; what becomes of a unit whose child was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from curate.base.child import RAISED, SUSPECT, Child, Lost, NotStarted
from curate.clip import Unit, Video

__all__ = ["Isolated", "settle"]


def settle(unit: Unit, lost: Lost) -> Unit:
    """The unit after a loss: "lost", to be tried again; "failed" where the reason is the unit's own, or was reproduced."""
    unit.lost = [*unit.lost, lost.kind]
    again = lost.kind in SUSPECT and sum(kind in SUSPECT for kind in unit.lost) > 1
    return unit.fail(str(lost)) if again or lost.kind == RAISED else unit.lose(str(lost))


class Isolated(Child):
    """`plan`, `watch` and what else is done with a file, in a child. All raise NotStarted, and no other Lost."""

    def __init__(self, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        super().__init__("curate.watching.watch", timeout=timeout, memory_gb=memory_gb, setting="decode.memory_gb")

    def watch(self, unit: Unit, timeout: float | None = None, **arguments: Any) -> Unit:
        """`watch(unit, **arguments)`; where the child was lost the unit comes back as `settle` has it."""
        try:
            request = {"do": "watch", "unit": unit.pack(), "arguments": arguments}
            (found,) = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as lost:
            return settle(unit, lost)
        return Unit.unpack(found)

    def frames(self, unit: Unit, timeout: float | None = None, **arguments: Any) -> Unit:
        """`captioner_frames(unit, **arguments)`; where that has failed the clips say so under `errors["frames"]`, where
        the child was lost the unit is lost."""
        bare = replace(unit, clips=[replace(clip, values={}, errors={}) for clip in unit.clips])
        try:
            request = {"do": "frames", "unit": bare.pack(), "arguments": arguments}
            (found,) = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as lost:
            seen = settle(bare, lost)
            unit.lost = seen.lost
            if seen.status == "lost":
                return unit.lose(str(lost))
            for clip in unit.clips:
                clip.errors["frames"] = str(lost)
            return unit
        for clip, seen in zip(unit.clips, Unit.unpack(found).clips, strict=True):
            clip.frames, clip.errors = seen.frames, clip.errors | seen.errors
        return unit

    def plan(
        self, video: Video, timeout: float | None = None, lost: Sequence[str] = (), **arguments: Any
    ) -> list[Unit]:
        """`plan(video, **arguments)`. lost: kinds of the losses so far."""
        try:
            request = {"do": "plan", "unit": Unit(video).pack(), "arguments": arguments}
            found = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as error:
            return [settle(Unit(video, lost=list(lost)), error)]
        return [Unit.unpack(unit) for unit in found]

    def identify(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        """`identify(path)`; where the child was lost, what the file system says, without `video_id`."""
        try:
            return self.ask({"do": "identify", "unit": Unit(Video(path)).pack(), "arguments": {}}, timeout)
        except NotStarted:
            raise
        except Lost:
            return {"video_id": None, "bytes": None, "modified": None}

    def checksum(self, path: str, timeout: float | None = None) -> str | None:
        """`checksum(path)`; None where it cannot be read."""
        try:
            return self.ask({"do": "checksum", "unit": Unit(Video(path)).pack(), "arguments": {}}, timeout)["checksum"]
        except NotStarted:
            raise
        except Lost:
            return None
