"""Planning, watching and identifying files in a child process; the status of a unit whose child was lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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

    def waits_for(self, request: dict[str, Any]) -> str | None:
        return "the store" if is_remote(request["path"]) else None

    def ask(
        self, request: dict[str, Any], timeout: float | None = None, max_bytes: int | None = None
    ) -> dict[str, Any]:
        with _within_reach([request]) as (reached,):
            return super().ask(reached, timeout, max_bytes)

    def ask_each(self, requests: Sequence[tuple[dict[str, Any], float]]) -> list[dict[str, Any] | Lost]:
        with _within_reach([request for request, _ in requests]) as reached:
            return super().ask_each(list(zip(reached, (limit for _, limit in requests), strict=True)))

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

    def plan(self, video: Video, timeout: float | None = None, **arguments: Any) -> list[Unit]:
        """`plan(video, **arguments)`; after a loss one unit, that of `record_loss`."""
        return self.plan_each([(video, (), self.timeout if timeout is None else timeout, arguments)])[0]

    def plan_each(self, videos: Sequence[tuple[Video, Sequence[str], float, dict[str, Any]]]) -> list[list[Unit]]:
        """`plan` of each. videos: with the kinds of its losses so far, seconds, and arguments."""
        found = self.ask_each(
            [
                ({"do": "plan", "path": video.path, "unit": Unit(video).pack(), "arguments": how}, limit)
                for video, _, limit, how in videos
            ]
        )
        return [
            [record_loss(Unit(video, lost=list(lost)), answer)]
            if isinstance(answer, Lost)
            else [Unit.unpack(unit) for unit in answer["units"]]
            for (video, lost, _, _), answer in zip(videos, found, strict=True)
        ]

    def identify_each(self, paths: Sequence[str], limit: float) -> list[dict[str, Any]]:
        """`identify(path)` of each; after a loss all values are None. limit: seconds for each."""
        found = self.ask_each(
            [
                ({"do": "identify", "path": path, "unit": Unit(Video(path)).pack(), "arguments": {}}, limit)
                for path in paths
            ]
        )
        nothing = {"video_id": None, "bytes": None, "modified": None, "version": None}
        return [dict(nothing) if isinstance(answer, Lost) else answer for answer in found]

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


@contextmanager
def _within_reach(requests: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Requests on objects of a store, which the child reads by itself: what one child has read the next one need not; and
    of what only this process sees (memory://) the child gets a file."""
    with ExitStack() as stack:
        reached = []
        for request in requests:
            if is_remote(request["path"]):
                enter()
                request = request | {"stand_in": stack.enter_context(spooled(request["path"]))}
            reached.append(request)
        yield reached
