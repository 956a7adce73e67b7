"""The records that travel through Winnow: a video, the unit of work cut from it, the clips found in it.

A clip has an identity (which file, which span) and a bag of scores. The scores are not fields of the record:
each stage declares the columns that it fills (`Column`), and the table's schema is made of these declarations,
so a new model adds a column beside its code and touches nothing here.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgpack
import numpy as np
import pyarrow as pa

FILE, COUNTED = "file", "counted"  # how frames are found again: by the file's own times, or by counting
TOO_SHORT, SKIPPED = "too short", "skipped"  # how reasons in `Clip.errors` begin that are no failures


@dataclass(frozen=True)
class Column:
    """One column of the clips table, with all that a reader must know to trust it.

    unit: physical unit, or "" for names and texts. range: e.g. "0..1". formula: how it is computed. source: paper or model.
    models: keys of the config, e.g. "captions.frame": where one of them names no model, the column is empty.
    """

    name: str
    type: pa.DataType
    formula: str
    unit: str = ""
    range: str = ""
    source: str = ""
    models: tuple[str, ...] = ()

    @classmethod
    def of(cls, field: pa.Field) -> Column:
        """From the field of a table that `field` made."""
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        known = {name: notes.get(name, "") for name in ("formula", "unit", "range", "source")}
        return cls(field.name, field.type, **known)

    def field(self) -> pa.Field:
        notes = {"formula": self.formula, "unit": self.unit, "range": self.range, "source": self.source}
        return pa.field(self.name, self.type, metadata={k: v for k, v in notes.items() if v})


@dataclass
class Listed:
    """A span that a source list names: it becomes a clip as it stands, whatever the pictures in it do.

    start, end: seconds after the first picture of the file, end exclusive; start_frame, end_frame: in their place, frames
    of the file in presentation order. None: from the first picture, to the end of the last. captions, columns: what the
    rows of this span say. where: the list and the row, for messages. problem: why it cannot be used, or None. frames: once
    the file is decoded, the frames that bound its clips, ascending, the last one exclusive; none where it became no clip.
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
    """A source file as it was named to us.

    path: absolute. video_id: 32 hex digits, the content's fingerprint, so that it does not change when files move; 16 of the
    path's hash for a file that cannot be read. captions: of the source list, in its order. columns: every other column of the
    source list, kept as it came (JSON values). spans: those that the list names; where there are any, they are the clips.
    """

    path: str
    video_id: str = ""
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    spans: list[Listed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.video_id = self.video_id or hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        self.spans = [Listed(**span) if isinstance(span, dict) else span for span in self.spans]


@dataclass
class Clip:
    """The span of a shot that is exported: frames [start_frame, end_frame) of the file, counted in presentation order.

    start_time, end_time: presentation seconds of the first frame, and of the end of the last one.
    bounds: "shots", or "list" where a source list named the span; then captions and columns are those of the span.
    values: the scores, by column name. errors: stage name -> reason, for the stages that failed on this clip.
    fps, width, height: of its own pictures; a file may change them. clock: how its frames are found again, FILE or
    COUNTED. frames: JPEG bytes that a video captioner asked for; they cross processes but are never stored.
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
        """A stage failed on it. That a clip is too short for a score, or was skipped on purpose, is no failure."""
        return any(not reason.startswith((TOO_SHORT, SKIPPED)) for reason in self.errors.values())

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame

    def stills(self) -> list[bytes]:
        """JPEG bytes of the first, middle and last still, those that exist."""
        found = (self.values.get(name) for name in ("still_first", "still_middle", "still_last"))
        return [still for still in found if still]


@dataclass
class Unit:
    """One video, or a stretch of a long one, that is worked on, committed and retried as a whole.

    index of count: which stretch. start, end: presentation seconds, both keyframes of the source; None: the file's own.
    facts: what was seen of the file (width, height, fps, codec, frames_in_file, frames_decoded ...), see `curate.watching.facts`.
    status: "ok", "failed", "lost" or "duplicate"; error: the plain reason. A unit can be ok and carry a warning.
    lost: kinds of the losses so far (see `curate.base.child`): what a machine did is tried again, and is no failure.
    seconds: wall seconds by stage. todo: the stages still to run on it; None: all. kind: what its path names: "file", or an
    input that is none and failed: "folder", "link", "entry" of a list. duplicate_of: of a second copy, the path of the
    first, as tables have it. stored: dataset and shard that its rows are in already, to be read where it is worked on.
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

    def wants(self, stage: str) -> bool:
        return self.status == "ok" and (self.todo is None or stage in self.todo)

    @property
    def footage(self) -> float:
        """Seconds of pictures in the unit, once it is decoded; before that, as far as the file says."""
        if (seen := self.facts.get("footage")) is not None:
            return seen
        end = (self.facts.get("duration") or 0.0) if self.end is None else self.end
        return max(0.0, end - (self.start or 0.0))

    @property
    def id(self) -> str:
        return f"{self.video.video_id}-{self.index:04d}"

    def clip_id(self, clip: Clip) -> str:
        """`<video id>-<first frame, 8 digits>`: sorts by place in the source, and does not depend on how others were cut.

        Spans of a list may overlap and start together: theirs end with the frame that they end at.
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
        return msgpack.packb(asdict(self), default=_plain, unicode_errors="surrogateescape")

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
