"""The columns of the two tables of an annotated dataset, and the conversion of units to rows and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store
from curate.base.store.files import opened
from curate.clip import Clip, Column, Unit, Video, path_to_text, text_to_path

__all__ = ["CLIP_ADDRESS", "CLIP_BOUNDS", "CLIP_IDENTITY", "CLIP_TAIL", "PAIRS", "VIDEO_IDENTITY", "Tables", "video_of"]

CLIP_ADDRESS = (  # identity and position
    Column("clip_id", pa.string(), "video id and first frame"),
    Column("video_id", pa.string(), "hash of the file's content"),
    Column("video_path", pa.string(), "absolute path of the source"),
    Column("unit", pa.int32(), "which stretch of the video"),
    Column("start_time", pa.float64(), "presentation time of the first frame", "s"),
    Column("end_time", pa.float64(), "end of the last frame", "s"),
    Column("start_frame", pa.int64(), "first frame, in presentation order"),
    Column("end_frame", pa.int64(), "end of the frames, exclusive"),
)
CLIP_FORM = (  # format of its pictures
    Column("num_frames", pa.int64(), "end_frame - start_frame"),
    Column(
        "fps", pa.float64(), "average frame rate of the clip, by its frames' times; the video's where they agree", "1/s"
    ),
    Column("width", pa.int32(), "as displayed", "px"),
    Column("height", pa.int32(), "as displayed", "px"),
)
CLIP_BOUNDS = (  # how it was bounded, and how it is located
    Column("clock", pa.string(), "how its frames are found again in the source", range="file, counted"),
    Column("shot_start_time", pa.float64(), "start of the shot that the clip lies in", "s"),
    Column("shot_end_time", pa.float64(), "end of the shot that the clip lies in", "s"),
    Column(
        "bounds", pa.string(), "what bounds the clip: shots, or the span that the source list named", "", "shots, list"
    ),
)
CLIP_IDENTITY = (*CLIP_ADDRESS, *CLIP_FORM, *CLIP_BOUNDS)
PAIRS = {
    "errors": pa.list_(pa.struct([("stage", pa.string()), ("reason", pa.string())])),
    "seconds": pa.list_(pa.struct([("stage", pa.string()), ("seconds", pa.float64())])),
}
OF_VIDEO = {  # facts of the video that are columns of its clips too, for selections -> DuckDB's type
    **dict.fromkeys(("codec", "pixel_format", "container"), "VARCHAR"),
    "bitrate": "DOUBLE", "rotation": "INTEGER", "mirrored": "BOOLEAN", "sample_aspect_ratio": "DOUBLE",
    "interlaced": "BOOLEAN", "variable_frame_rate": "BOOLEAN",
    **dict.fromkeys(("transfer", "primaries", "matrix", "range"), "VARCHAR"),
    "bit_depth": "INTEGER", "hdr": "BOOLEAN", "has_audio": "BOOLEAN",
}  # fmt: skip
CLIP_TAIL = (
    Column("source_caption", pa.string(), "first of source_captions"),
    Column(
        "source_captions",
        pa.list_(pa.string()),
        "captions that the source list gave the clip's span, or else its video; in the list's order",
    ),
    Column("source_columns", pa.string(), "every other column of the source list, as JSON"),
    Column("errors", PAIRS["errors"], "stage -> reason, for the stages that failed on this clip"),
)
VIDEO_IDENTITY = (
    Column("video_id", pa.string(), "hash of the file's content; of its path, if it could not be read"),
    Column("video_path", pa.string(), "absolute path of the source"),
    Column("unit", pa.int32(), "which stretch of the video"),
    Column("units", pa.int32(), "how many stretches the video has"),
    Column("unit_start", pa.float64(), "start of the stretch; null: of the file", "s"),
    Column("unit_end", pa.float64(), "end of the stretch; null: of the file", "s"),
    Column("status", pa.string(), "ok, failed, lost (by a machine: tried again) or duplicate"),
    Column("error", pa.string(), "why it failed or was lost, or of which file it is a duplicate"),
    Column(
        "kind", pa.string(), "what the path names; null: an older Winnow wrote the row", "", "file, folder, link, entry"
    ),
    Column("duplicate_of", pa.string(), "of a duplicate: the path of the other file"),
    Column("warnings", pa.list_(pa.string()), "what was wrong although the unit could be used"),
    Column("clips", pa.int32(), "clips found"),
    Column("seconds", PAIRS["seconds"], "wall time by stage", "s"),
    Column("source_caption", pa.string(), "first of source_captions"),
    Column(
        "source_captions",
        pa.list_(pa.string()),
        "captions that the source list gave the whole video, in the list's order",
    ),
    Column("source_columns", pa.string(), "every other column of the source list, as JSON"),
    Column("source_spans", pa.string(), "spans that the source list named, which are the clips, as JSON"),
)


@dataclass(frozen=True)
class Tables:
    """The columns of the two tables, whichever stages ran. scores: of all stages; facts: of a video."""

    scores: Sequence[Column]
    facts: Sequence[Column]

    @property
    def clip_columns(self) -> tuple[Column, ...]:
        return (*CLIP_IDENTITY, *(fact for fact in self.facts if fact.name in OF_VIDEO), *self.scores, *CLIP_TAIL)

    @property
    def clips(self) -> pa.Schema:
        return pa.schema([column.field() for column in self.clip_columns])

    @property
    def videos(self) -> pa.Schema:
        return pa.schema([column.field() for column in (*VIDEO_IDENTITY, *self.facts)])

    def with_stored(self, store: Store, shards: Iterable[str]) -> Tables:
        """With the columns of these shards that no part of this job declares, so that results of plugins are kept."""
        found: dict[str, dict[str, Column]] = {"clips": {}, "videos": {}}
        known = {"clips": set(self.clips.names), "videos": set(self.videos.names)}
        for shard in shards:
            for table, columns in found.items():
                with opened(store.where(f"{table}/part-{shard}.parquet")) as stream:
                    schema = pq.read_schema(stream)
                new = {field.name: Column.of(field) for field in schema if field.name not in known[table]}
                columns |= {name: column for name, column in new.items() if not pa.types.is_map(column.type)}
        return replace(
            self, scores=(*self.scores, *found["clips"].values()), facts=(*self.facts, *found["videos"].values())
        )

    def clip_row(self, unit: Unit, clip: Clip) -> dict[str, Any]:
        row = {name: unit.facts.get(name) for name in OF_VIDEO}
        row |= {column.name: clip.values.get(column.name) for column in self.scores}
        return row | {
            "clip_id": unit.clip_id(clip),
            "video_id": unit.video.video_id,
            "video_path": path_to_text(unit.video.path),
            "unit": unit.index,
            "start_time": clip.start_time,
            "end_time": clip.end_time,
            "start_frame": clip.start_frame,
            "end_frame": clip.end_frame,
            "num_frames": clip.num_frames,
            "fps": clip.fps,
            "width": clip.width,
            "height": clip.height,
            "clock": clip.clock,
            "shot_start_time": clip.shot_start_time,
            "shot_end_time": clip.shot_end_time,
            "bounds": clip.bounds,
            "source_caption": next(iter(clip.captions or unit.video.captions), None),
            "source_captions": (clip.captions or unit.video.captions) or None,
            "source_columns": _json(unit.video.columns | clip.columns),
            "errors": [{"stage": stage, "reason": reason} for stage, reason in sorted(clip.errors.items())],
        }

    def video_row(self, unit: Unit) -> dict[str, Any]:
        row = {column.name: unit.facts.get(column.name) for column in self.facts}
        return row | {
            "video_id": unit.video.video_id,
            "video_path": path_to_text(unit.video.path),
            "unit": unit.index,
            "units": unit.count,
            "unit_start": unit.start,
            "unit_end": unit.end,
            "status": unit.status,
            "error": unit.error,
            "kind": unit.kind,
            "duplicate_of": unit.duplicate_of,
            "warnings": unit.warnings,
            "clips": len(unit.clips),
            "seconds": [{"stage": stage, "seconds": spent} for stage, spent in sorted(unit.seconds.items())],
            "source_caption": next(iter(unit.video.captions), None),
            "source_captions": unit.video.captions or None,
            "source_columns": _json(unit.video.columns),
            "source_spans": _json([asdict(span) for span in unit.video.spans]),
        }

    def unit_of(self, video: dict[str, Any], clips: Iterable[dict[str, Any]]) -> Unit:
        """The inverse of `clip_row` and `video_row`: a stored unit, for more stages."""
        return Unit(
            video=video_of(video),
            index=video["unit"],
            count=video["units"],
            start=video["unit_start"],
            end=video["unit_end"],
            status=video["status"],
            error=video["error"],
            kind=video.get("kind") or "file",
            duplicate_of=video.get("duplicate_of"),
            warnings=list(video["warnings"] or ()),
            facts={column.name: video.get(column.name) for column in self.facts},
            seconds=_pairs(video["seconds"]),
            clips=[
                Clip(
                    start_frame=row["start_frame"],
                    end_frame=row["end_frame"],
                    start_time=row["start_time"],
                    end_time=row["end_time"],
                    shot_start_time=row["shot_start_time"],
                    shot_end_time=row["shot_end_time"],
                    values={column.name: row.get(column.name) for column in self.scores},
                    errors=_pairs(row["errors"]),
                    fps=row.get("fps"),
                    width=row.get("width"),
                    height=row.get("height"),
                    clock=row.get("clock"),
                    **_listed(row, video),
                )
                for row in clips
            ],
        )


def video_of(row: dict[str, Any]) -> Video:
    """The source of a row of `videos/`, with its captions, columns and spans. Rows of older versions have at most one
    caption and no spans."""
    captions = row.get("source_captions") or [row["source_caption"]]
    return Video(
        path=text_to_path(row["video_path"]),
        video_id=row["video_id"],
        captions=[caption for caption in captions if caption],
        columns=json.loads(row["source_columns"]) if row["source_columns"] else {},
        spans=json.loads(row.get("source_spans") or "[]"),
    )


def _listed(row: dict[str, Any], video: dict[str, Any]) -> dict[str, Any]:
    """The values that a clip row has from the span of a list, as arguments of Clip."""
    if row.get("bounds") != "list":
        return {}
    columns = json.loads(row["source_columns"] or "{}")
    shared = json.loads(video["source_columns"] or "{}")
    own = {name: value for name, value in columns.items() if name not in shared or shared[name] != value}
    captions = list(row["source_captions"] or ())
    return {"bounds": "list", "captions": captions, "columns": own}


def _pairs(stored: Any) -> dict[str, Any]:
    """stage -> reason or seconds, of a list of structs, or of a map as the first datasets have them."""
    pairs = [tuple(pair.values()) if isinstance(pair, dict) else pair for pair in stored or ()]
    return dict(pairs)


def _json(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) if value else None
