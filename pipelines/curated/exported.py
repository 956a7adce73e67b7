"""The row of an exported clip: that of the annotated one, with frames, times, rate and size of its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.clip import Column
from curate.export.span import Extracted
from pipelines.formats.format import Format

OF_BYTES = ("start_frame", "end_frame", "start_time", "end_time", "num_frames", "fps", "width", "height")
CUT_COLUMNS = (
    Column("video_codec", pa.string(), "codec of the clip's bytes"),
    *(
        Column(f"scored_{name}", kind, f"{name} of the clip that was scored: a copy may have lost frames of it", unit)
        for name, kind, unit in (
            ("start_frame", pa.int64(), "frames"),
            ("end_frame", pa.int64(), "frames"),
            ("start_time", pa.float64(), "s"),
            ("end_time", pa.float64(), "s"),
        )
    ),
    Column(
        "cut",
        pa.string(),
        "how the bytes were made: packets copied from the source, or encoded again",
        range="copy, transcode",
    ),
)


def schema_of(clips: pa.Schema, format: Format, drop: Sequence[str]) -> pa.Schema:
    """Schema of the exported rows, from that of the annotated clips. Field metadata (formula, unit ...) stays."""
    added = [column.field() for column in (*format.columns, *CUT_COLUMNS)]
    return format.schema(pa.schema([*(field for field in clips if field.name not in drop), *added]))


def row_of(row: Mapping[str, Any], made: Extracted) -> dict[str, Any]:
    """row: of the plan, whose own columns begin with an underscore and are left out."""
    errors = [{"stage": stage, "reason": reason} for stage, reason in dict(row.get("errors") or ()).items()]
    scored = {f"scored_{name}": row[name] for name in ("start_frame", "end_frame", "start_time", "end_time")}
    kept = {name: value for name, value in row.items() if not name.startswith("_")}
    return kept | scored | {name: getattr(made, name) for name in OF_BYTES} | {
        "errors": errors,
        "video_codec": made.codec,
        "cut": made.how,
    }  # fmt: skip
