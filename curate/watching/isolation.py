"""Planning, watching and identifying files in a child process; the status of a unit whose child was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from curate.base.child import RAISED, SUSPECT, Child, Lost, NotStarted
from curate.base.store.blocks import enter
from curate.clip import Unit, Video
from curate.video.remote import is_remote, spooled

__all__ = ["Isolated", "record_loss"]


def record_loss(unit: Unit, lost: Lost) -> Unit:
    """The unit after a loss: "lost", to be retried; "failed" if the unit is to blame, or the loss was reproduced."""
    unit.lost = [*unit.lost, lost.kind]
    again = lost.kind in SUSPECT and sum(kind in SUSPECT for kind in unit.lost) > 1
    return unit.fail(str(lost)) if again or lost.kind == RAISED else unit.lose(str(lost))


class Isolated(Child):
    """`plan`, `watch` and other work on files, in a child process. All methods raise NotStarted, and no other Lost."""

    def __init__(self, *, timeout: float = 600.0, memory_gb: float = 4.0) -> None:
        super().__init__("curate.watching.watch", timeout=timeout, memory_gb=memory_gb, setting="decode.memory_gb")

    def ask(
        self, request: dict[str, Any], timeout: float | None = None, max_bytes: int | None = None
    ) -> dict[str, Any]:
        """As `Child.ask`; an object of a store is read by the child itself, or from a file if only this process sees it."""
        url = request["path"]
        if not is_remote(url):
            return super().ask(request, timeout, max_bytes)
        enter()  # so that what one child has read the next one need not
        with spooled(url) as stand_in:
            return super().ask(request | {"stand_in": stand_in}, timeout, max_bytes)

    def watch(self, unit: Unit, timeout: float | None = None, **arguments: Any) -> Unit:
        """`watch(unit, **arguments)`; after a loss the unit is that of `record_loss`."""
        try:
            request = {"do": "watch", "path": unit.video.path, "unit": unit.pack(), "arguments": arguments}
            (found,) = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as lost:
            return record_loss(unit, lost)
        return Unit.unpack(found)

    def frames(self, unit: Unit, timeout: float | None = None, **arguments: Any) -> Unit:
        """`captioner_frames(unit, **arguments)`; on failure the clips have the reason in `errors["frames"]`; after a
        loss the unit is lost."""
        bare = replace(unit, clips=[replace(clip, values={}, errors={}) for clip in unit.clips])
        try:
            request = {"do": "frames", "path": unit.video.path, "unit": bare.pack(), "arguments": arguments}
            (found,) = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as lost:
            seen = record_loss(bare, lost)
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
        """`plan(video, **arguments)`. lost: kinds of its losses so far."""
        try:
            request = {"do": "plan", "path": video.path, "unit": Unit(video).pack(), "arguments": arguments}
            found = self.ask(request, timeout)["units"]
        except NotStarted:
            raise
        except Lost as error:
            return [record_loss(Unit(video, lost=list(lost)), error)]
        return [Unit.unpack(unit) for unit in found]

    def identify(self, path: str, timeout: float | None = None) -> dict[str, Any]:
        """`identify(path)`; after a loss all values are None."""
        try:
            return self.ask(
                {"do": "identify", "path": path, "unit": Unit(Video(path)).pack(), "arguments": {}}, timeout
            )
        except NotStarted:
            raise
        except Lost:
            return {"video_id": None, "bytes": None, "modified": None, "version": None}

    def checksum(self, path: str, timeout: float | None = None) -> str | None:
        """`checksum(path)`; None where it cannot be read."""
        try:
            return self.ask(
                {"do": "checksum", "path": path, "unit": Unit(Video(path)).pack(), "arguments": {}}, timeout
            )["checksum"]
        except NotStarted:
            raise
        except Lost:
            return None
