"""What passes between the driver and its workers: a unit with how it is committed, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from curate.clip import Unit

__all__ = ["Report", "Task"]


@dataclass
class Task:
    """A unit to work on. stages: all whose columns its rows have afterwards. generation, replaces: see
    `pipelines.dataset`. keep: good rows are recorded, which a failure must not replace. alone: it is retried with nothing
    beside it."""

    unit: Unit
    stages: Sequence[str] = ()
    generation: int = 0
    replaces: Sequence[str] = ()
    keep: bool = False

    @property
    def id(self) -> str:
        return self.unit.id

    def writes(self, unit: Unit) -> bool:
        """Whether rows of this outcome are committed."""
        return unit.status == "ok" or not (self.keep or unit.stored)

    def pack(self) -> bytes:
        order = {"stages": list(self.stages), "generation": self.generation, "replaces": list(self.replaces)}
        return msgpack.packb({"unit": self.unit.pack(), "keep": self.keep, **order})

    @classmethod
    def unpack(cls, data: bytes) -> Task:
        fields = msgpack.unpackb(data)
        return cls(**{**fields, "unit": Unit.unpack(fields["unit"])})


@dataclass
class Report:
    """What became of a unit, without its clips. lost: kinds of its losses so far. clips, clip_failures: numbers. footage:
    seconds of pictures. seconds: by stage. bytes_read, requests: of the sources' store, 0 for local files. written: its rows are, or will be, committed by whoever reports."""

    id: str
    path: str
    index: int = 0
    count: int = 1
    status: str = "ok"
    error: str | None = None
    lost: list[str] = field(default_factory=list)
    clips: int = 0
    clip_failures: int = 0
    warned: bool = False
    footage: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    requests: int = 0
    written: bool = False

    @classmethod
    def of(cls, unit: Unit, written: bool = False) -> Report:
        return cls(
            id=unit.id,
            path=unit.video.path,
            index=unit.index,
            count=unit.count,
            status=unit.status,
            error=unit.error,
            lost=list(unit.lost),
            clips=len(unit.clips),
            clip_failures=sum(clip.failed for clip in unit.clips),
            warned=bool(unit.warnings),
            footage=unit.footage,
            seconds=dict(unit.seconds),
            bytes_read=unit.facts.get("bytes_read") or 0,
            requests=unit.facts.get("requests") or 0,
            written=written,
        )

    def lost_now(self) -> bool:
        return self.status == "lost"

    def plain(self) -> dict[str, Any]:
        return dict(self.__dict__)


def again(task: Task, lost: Sequence[str]) -> Task:
    """The task with the kinds of losses that its unit has met."""
    return replace(task, unit=replace(task.unit, lost=list(lost), status="ok", error=None))
