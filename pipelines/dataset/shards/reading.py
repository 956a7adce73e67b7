"""Reading shards: one unit's rows, and what a shard's own footer says where the manifest does not name it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store import Store
from curate.base.store.files import opened
from curate.clip import Unit
from pipelines.dataset.files import FOOTER, DatasetError
from pipelines.dataset.shards.footer import REPLACED, ROWS, Footer, form_of, source_digests
from pipelines.dataset.tables import Tables, video_of

__all__ = ["footer_of", "read_footer", "read_unit"]

LIGHT = (
    "video_id", "unit", "units", "unit_start", "unit_end", "video_path", "status", "error", "kind", "duplicate_of", "bytes",
    "modified", "version", "checksum", "duration", "footage", "clips", "warnings", "seconds", "source_caption",
    "source_captions", "source_columns", "source_spans",
)  # fmt: skip


def read_unit(store: Store, shard: str, unit: Unit, tables: Tables) -> Unit:
    """The stored rows of one unit of a shard, for more stages; columns that the shard lacks are null.

    Rows are sorted by unit, so that row group statistics leave one or two groups to read."""
    (video,) = _rows_of(store, f"videos/part-{shard}.parquet", unit, tables.videos.names)
    return tables.unit_of(video, _rows_of(store, f"clips/part-{shard}.parquet", unit, tables.clips.names))


def _rows_of(store: Store, name: str, unit: Unit, columns: list[str]) -> list[dict[str, Any]]:
    wanted = [("video_id", "=", unit.video.video_id), ("unit", "=", unit.index)]
    with opened(store.where(name)) as stream:
        held = set(pq.read_schema(stream).names)
        present = [column for column in columns if column in held]
        stream.seek(0)
        return pq.read_table(stream, columns=present, filters=wanted, use_threads=False).to_pylist()


def read_footer(store: Store, shard: str) -> Footer:
    """The footer of a shard of any version, from its file in videos/. Raises DatasetError where that is damaged, and
    FileNotFoundError where it is gone."""
    name = f"videos/part-{shard}.parquet"
    try:
        data = store.read(name)
        with opened(store.where(f"clips/part-{shard}.parquet")) as stream:
            clips = pq.read_schema(stream)
        return footer_of(shard, data, clips)
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DatasetError(
            f"{store.where(name)}: damaged shard ({type(error).__name__}): delete it and its twin in clips/, then annotate "
            "again to remake its rows"
        ) from None


def footer_of(shard: str, videos: bytes, clips: pa.Schema) -> Footer:
    """The footer of a shard from the bytes of its file in videos/ and the columns of that in clips/."""
    file = pq.ParquetFile(io.BytesIO(videos))
    head = file.schema_arrow
    footer, there = json.loads(head.metadata[FOOTER]), set(head.names)
    rows = file.read(columns=[column for column in LIGHT if column in there], use_threads=False).to_pylist()
    return Footer(shard, _rows(shard, rows, footer, form_of(clips, head)))


def _rows(shard: str, rows: Sequence[dict[str, Any]], footer: dict[str, Any], form: str) -> pa.Table:
    shared = {
        "shard": shard,
        "stages": ",".join(footer["stages"]),
        "generation": footer["generation"],
        "run": footer.get("run"),
        "form": form,
    }
    made = [_row(row) | shared for row in rows]
    for name in footer["replaces"]:
        video_id, _, index = name.rpartition("-")
        made.append({"video_id": video_id, "unit": int(index), "status": REPLACED} | shared)
    return pa.Table.from_pylist(made, schema=ROWS)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    seconds = [pair["seconds"] if isinstance(pair, dict) else pair[1] for pair in row["seconds"] or ()]
    made = {name: row.get(name) for name in ROWS.names if name in LIGHT}
    return (
        made | source_digests(video_of(row)) | _since(row) | {"warned": bool(row["warnings"]), "seconds": sum(seconds)}
    )


def _since(row: dict[str, Any]) -> dict[str, Any]:
    """kind and duplicate_of, which rows of an older Winnow have in the error only."""
    status, error = row["status"], row["error"] or ""
    kinds = {"folder may not be read": "folder", "list entry ": "entry", "link to ": "link"}
    told = next((kind for begin, kind in kinds.items() if status == "failed" and error.startswith(begin)), "file")
    copied = error.removeprefix("same content as ") if status == "duplicate" else None
    return {"kind": row.get("kind") or told, "duplicate_of": row.get("duplicate_of") or copied}
