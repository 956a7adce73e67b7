"""The records that travel through Winnow: a video, the unit of work cut from it, the clips found in it.

A clip has an identity (which file, which span) and scores. Scores are not fields of the record: each stage declares the
columns that it fills (`Column`), from which the table's schema is derived, so a new score changes nothing here.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgpack
import numpy as np
import pyarrow as pa

FILE, COUNTED = "file", "counted"  # how frames are located: by the file's own times, or by counting
TOO_SHORT, SKIPPED = "too short", "skipped"  # prefixes of reasons in `Clip.errors` that are not failures


@dataclass(frozen=True)
class Column:
    """A column of the clips or videos table, with its documentation.

    unit: physical unit, or "" for names and texts. range: e.g. "0..1". formula: how it is computed. source: paper or model.
    models: keys of the config, e.g. "captions.frame": the column is empty where one of them is null.
    """

    name: str
    type: pa.DataType
    formula: str
    unit: str = ""
    range: str = ""
    source: str = ""
    models: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        """Why a value cannot be stored in this column; None if it can. A NaN or an infinity is no score."""
        if value is None:
            return None
        try:
            pa.array([value], self.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError) as error:
            return f"{self.name}: {value!r:.60} is no {self.type} ({' '.join(str(error).split())[:120]})"
        if isinstance(value, (float, np.floating)) and not np.isfinite(value):
            return f"{self.name} came out as {float(value)}"
        return None

    @classmethod
    def of(cls, field: pa.Field) -> Column:
        """The inverse of `field`."""
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        known = {name: notes.get(name, "") for name in ("formula", "unit", "range", "source")}
        return cls(field.name, field.type, **known)

    def field(self) -> pa.Field:
        notes = {"formula": self.formula, "unit": self.unit, "range": self.range, "source": self.source}
        return pa.field(self.name, self.type, metadata={k: v for k, v in notes.items() if v})


@dataclass
class Listed:
    """A span that a source list names: it becomes a clip, not divided at cuts.

    start, end: seconds after the first picture of the file, end exclusive; or start_frame, end_frame: frames of the file in
    presentation order. None: the start, or the end, of the file. captions, columns: from the rows of this span. where: the
    list and the row, for messages. problem: why it cannot be used, or None. frames: after the decode, the bounds of its
    clips in frames, ascending, the last one exclusive; empty if it is in no clip.
    """

    start: float | None = None
    end: float | None = None
    start_frame: int | None = None
    end_frame: int | None = None
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    problem: str | None = None
    frames: list[int] | None = None


@dataclass
class Video:
    """A source file.

    path: absolute, or a URL. video_id: 32 hex digits, the content's fingerprint, which does not change when the file moves; 16 of the
    path's hash for a file that cannot be read. captions: of the source list, in its order. columns: its other columns (JSON
    values). spans: those that the list names; if there are any, they are the clips. stamp: `bytes`, `modified` and `version`
    of an object as the listing of its store had them, or {}.
    """

    path: str
    video_id: str = ""
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    spans: list[Listed] = field(default_factory=list)
    stamp: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.video_id = self.video_id or hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        self.spans = [Listed(**span) if isinstance(span, dict) else span for span in self.spans]


@dataclass
class Clip:
    """A span of a shot: frames [start_frame, end_frame) of the file, in presentation order.

    start_time, end_time: presentation seconds of the first frame, and of the end of the last one.
    bounds: "shots", or "list" if a source list named the span; then captions and columns are those of the span.
    values: the scores, by column name. errors: stage name -> reason, for the stages that failed on this clip.
    fps, width, height: of its own pictures, since they may change within a file. clock: how its frames are located, FILE or
    COUNTED. frames: JPEG bytes for the video captioner; never stored.
    """

    start_frame: int
    end_frame: int
    start_time: float
    end_time: float
    shot_start_time: float
    shot_end_time: float
    values: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    clock: str | None = None
    bounds: str = "shots"
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a stage failed on it; being too short for a score, or skipped by the prefilter, is not a failure."""
        return any(not reason.startswith((TOO_SHORT, SKIPPED)) for reason in self.errors.values())

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame

    def stills(self) -> list[bytes]:
        """JPEG bytes of the first, middle and last still, as far as they exist."""
        found = (self.values.get(name) for name in ("still_first", "still_middle", "still_last"))
        return [still for still in found if still]


@dataclass
class Unit:
    """One video, or a stretch of a long one: the unit of work, commit and retry.

    index, count: which stretch, of how many. start, end: presentation seconds, both keyframes; None: the file's own. facts:
    of the file (width, height, fps, codec, frames_in_file, frames_decoded ...), see `curate.watching.facts`.
    status: "ok", "failed", "lost" or "duplicate"; error: the reason. A unit that is ok can have warnings.
    lost: kinds of its losses so far (see `curate.base.child`), which are retried and are not failures. seconds: wall seconds
    by stage. todo: the stages still to run on it; None: all. kind: what its path names: "file", or a failed input that is
    none: "folder", "link", "entry" of a list. duplicate_of: of a second copy, the path of the first, as in tables. stored:
    dataset and shard that hold its rows already, read by the worker.
    """

    video: Video
    index: int = 0
    count: int = 1
    start: float | None = None
    end: float | None = None
    status: str = "ok"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    clips: list[Clip] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    todo: list[str] | None = None
    lost: list[str] = field(default_factory=list)
    kind: str = "file"
    duplicate_of: str | None = None
    stored: tuple[str, str] | None = None
    recalled: bool = False

    def wants(self, stage: str) -> bool:
        return self.status == "ok" and (self.todo is None or stage in self.todo)

    @property
    def footage(self) -> float:
        """Seconds of pictures in the unit; before the decode, by the header."""
        if (seen := self.facts.get("footage")) is not None:
            return seen
        end = (self.facts.get("duration") or 0.0) if self.end is None else self.end
        return max(0.0, end - (self.start or 0.0))

    @property
    def id(self) -> str:
        return f"{self.video.video_id}-{self.index:04d}"

    def clip_id(self, clip: Clip) -> str:
        """`<video id>-<first frame, 8 digits>`: sorts by position in the source, and does not depend on other clips.

        Spans of a list may start at the same frame: their ids end with the last frame too.
        """
        end = f"-{clip.end_frame:08d}" if clip.bounds == "list" else ""
        return f"{self.video.video_id}-{clip.start_frame:08d}{end}"

    def fail(self, reason: str) -> Unit:
        self.status, self.error, self.clips = "failed", reason, []
        return self

    def lose(self, reason: str) -> Unit:
        self.status, self.error, self.clips = "lost", reason, []
        return self

    def pack(self) -> bytes:
        """The unit as MessagePack bytes: how it crosses a process boundary (no pickle)."""
        spans = [
            vars(span) for span in self.video.spans
        ]  # `asdict` copies all there is, which takes longer than packing
        fields = {
            **vars(self),
            "video": {**vars(self.video), "spans": spans},
            "clips": [vars(clip) for clip in self.clips],
        }
        return msgpack.packb(fields, default=_plain, unicode_errors="surrogateescape")

    @classmethod
    def unpack(cls, data: bytes) -> Unit:
        fields = msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
        fields["video"] = Video(**fields["video"])
        fields["clips"] = [Clip(**clip) for clip in fields["clips"]]
        return cls(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot cross a process boundary")


RAW_NAME = "raw-bytes:"


def path_to_text(path: str) -> str:
    """A path as valid UTF-8 for a table: itself, or `raw-bytes:` and percent escapes where its bytes are not text."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return RAW_NAME + quote(os.fsencode(path))


def text_to_path(text: str) -> str:
    """The inverse of `path_to_text`."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix(RAW_NAME))) if text.startswith(RAW_NAME) else text
