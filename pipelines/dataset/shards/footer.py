"""What the driver and the manifest know of a shard: a light row per unit, without pixels or scores."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curate.clip import Listed, Unit, Video, path_to_text

__all__ = ["REPLACED", "ROWS", "Footer", "footer_rows", "form_of", "source_digests"]

ITEM = re.compile(r"<(item|element|l): ")  # what files call the items of a list
REPLACED = "replaced"  # status of a row that says: rows of this unit below this generation do not count

ROWS = pa.schema(
    [
        ("shard", pa.string()),
        ("video_id", pa.string()),
        ("unit", pa.int32()),
        ("units", pa.int32()),
        ("unit_start", pa.float64()),
        ("unit_end", pa.float64()),
        ("video_path", pa.string()),  # as in tables (`path_to_text`)
        ("status", pa.string()),  # ok, failed, lost, duplicate; or REPLACED
        ("error", pa.string()),
        ("kind", pa.string()),  # file, folder, link, entry
        ("duplicate_of", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # ns since 1970
        ("version", pa.string()),  # ETag of an object
        ("checksum", pa.string()),
        ("duration", pa.float64()),  # s, by the header
        ("footage", pa.float64()),  # s of decoded pictures
        ("clips", pa.int32()),
        ("clip_failures", pa.int32()),  # clips on which a stage failed; null where the manifest was rebuilt
        ("warned", pa.bool_()),
        ("seconds", pa.float64()),  # wall, of all stages
        ("source_list", pa.string()),  # digests, see `source_digests`
        ("source_spans", pa.string()),
        ("source_texts", pa.string()),
        ("source_unplaced", pa.bool_()),
        ("stages", pa.string()),  # joined by commas
        ("generation", pa.int32()),
        ("run", pa.string()),
        ("form", pa.string()),  # digest of the names and types of the columns of both files
    ]
)


@dataclass(frozen=True)
class Footer:
    """A committed shard as its writer tells of it. rows: as ROWS: one per unit, and one of status REPLACED for each unit
    whose rows of lower generations do not count any more."""

    shard: str
    rows: pa.Table

    @property
    def units(self) -> list[str]:
        """Ids of the units."""
        found = self.rows.select(["video_id", "unit", "status"]).to_pylist()
        return [f"{row['video_id']}-{row['unit']:04d}" for row in found if row["status"] != REPLACED]

    def pack(self) -> bytes:
        """As bytes (an Arrow stream), to cross a process boundary."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.schema) as stream:
            stream.write_table(self.rows)
        return sink.getvalue().to_pybytes()

    @classmethod
    def unpack(cls, data: bytes) -> Footer:
        rows = pa.ipc.open_stream(data).read_all()
        return cls(rows["shard"][0].as_py(), rows)


def footer_rows(
    shard: str,
    units: Sequence[Unit],
    *,
    stages: Sequence[str],
    generation: int,
    replaces: Sequence[str],
    run: str,
    form: str,
) -> pa.Table:
    """ROWS of a shard. replaces: ids of units."""
    shared = {"shard": shard, "stages": ",".join(stages), "generation": generation, "run": run, "form": form}
    rows = [_row(unit) | shared for unit in units]
    for name in replaces:
        video_id, _, index = name.rpartition("-")
        rows.append({"video_id": video_id, "unit": int(index), "status": REPLACED} | shared)
    return pa.Table.from_pylist(rows, schema=ROWS)


def _row(unit: Unit) -> dict[str, Any]:
    facts = {name: unit.facts.get(name) for name in ("bytes", "modified", "version", "checksum", "duration", "footage")}
    return facts | source_digests(unit.video) | {
        "video_id": unit.video.video_id,
        "unit": unit.index,
        "units": unit.count,
        "unit_start": unit.start,
        "unit_end": unit.end,
        "video_path": path_to_text(unit.video.path),
        "status": unit.status,
        "error": unit.error,
        "kind": unit.kind,
        "duplicate_of": unit.duplicate_of,
        "clips": len(unit.clips),
        "clip_failures": sum(clip.failed for clip in unit.clips),
        "warned": bool(unit.warnings),
        "seconds": sum(unit.seconds.values()),
    }  # fmt: skip


def form_of(clips: pa.Schema, videos: pa.Schema) -> str:
    """Equal for shards that DuckDB can read as one table: the same names and types in the same order."""
    columns = [[(field.name, ITEM.sub("<", str(field.type))) for field in schema] for schema in (clips, videos)]
    return _digest(columns)


def source_digests(video: Video) -> dict[str, Any]:
    """What a source list says of a video, in 16 hex digits each: equal digests, equal lists.

    source_list: captions and columns of the whole video. source_spans: which spans there are (null: none). source_texts:
    the spans with their captions and columns, in order. source_unplaced: whether a span was not found in the decode.
    """
    spans = [(_bounds(span), span.captions, span.columns) for span in video.spans]
    return {
        "source_list": _digest([video.captions, video.columns]),
        "source_spans": _digest(sorted({json.dumps(bounds) for bounds, _, _ in spans})) if spans else None,
        "source_texts": _digest(spans) if spans else None,
        "source_unplaced": any(span.frames is None for span in video.spans),
    }


def _bounds(span: Listed) -> list[Any]:
    times = [None if time is None else float(time) for time in (span.start, span.end)]
    return [*times, span.start_frame, span.end_frame, span.problem]


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
