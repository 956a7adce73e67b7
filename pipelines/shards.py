"""Shards of a curated dataset: rows with the clip's bytes inside, as the hub's Video feature wants them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.clip import Column, text_to_path
from curate.extract import Extracted, Span
from pipelines.cutting import Job, MapFn
from pipelines.files import FOOTER, commit

GROUP_BYTES, GROUP_ROWS = 16_000_000, 100  # a reader that streams holds one row group

VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ADDED = (
    Column("video", VIDEO, "the clip: an mp4 without sound, starting at time 0, and its name"),
    Column("video_codec", pa.string(), "codec of the clip's bytes"),
    Column(
        "cut",
        pa.string(),
        "how the bytes were made: packets copied from the source, or encoded again",
        range="copy, transcode",
    ),
)


@dataclass
class Made:
    """Counts over all shards."""

    clips: int = 0
    hours: float = 0.0
    bytes: int = 0
    shards: int = 0
    copied: int = 0
    transcoded: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    why_transcoded: dict[str, int] = field(default_factory=dict)

    def add(self, footer: dict[str, Any]) -> None:
        """Add the counts that the footer of a shard has."""
        made = dict(footer["made"])
        for reason, count in made.pop("why_transcoded").items():
            self.why_transcoded[reason] = self.why_transcoded.get(reason, 0) + count
        for name, value in made.items():
            setattr(self, name, getattr(self, name) + value)
        self.shards += 1


def read_schema(clips: pa.Schema, drop: Sequence[str]) -> pa.Schema:
    """Schema of a curated shard, from that of the annotated clips. Field metadata (formula, unit ...)
    stays.
    """
    from datasets import Features, Video

    fields = [f for f in clips if f.name not in drop]
    plain = pa.schema([pa.field(f.name, f.type) for f in fields] + [pa.field(c.name, c.type) for c in ADDED[1:]])
    features = Features.from_arrow_schema(plain) | {"video": Video()}
    order = [*(f.name for f in fields), *(c.name for c in ADDED)]
    info = {"info": {"features": Features({name: features[name] for name in order}).to_dict()}}
    return pa.schema([*fields, *(c.field() for c in ADDED)], metadata={b"huggingface": json.dumps(info).encode()})


def job_of(row: dict[str, Any], options: dict[str, Any]) -> Job:
    names = ("start_frame", "end_frame", "start_time", "end_time", "shot_start_time", "shot_end_time")
    span = Span(**{name: row[name] for name in names})
    return Job(row["clip_id"], text_to_path(row["video_path"]), span, row["_keyframes"], options)


def row_of(row: dict[str, Any], made: Extracted) -> dict[str, Any]:
    """The curated row: frames, times, rate and size are those of the bytes."""
    taken = ("start_frame", "end_frame", "start_time", "end_time", "num_frames", "fps", "width", "height")
    errors = [{"stage": stage, "reason": reason} for stage, reason in dict(row.get("errors") or ()).items()]
    return row | {name: getattr(made, name) for name in taken} | {
        "errors": errors,
        "video": {"bytes": made.bytes, "path": f"{row['clip_id']}.mp4"},
        "video_codec": made.codec,
        "cut": made.how,
    }  # fmt: skip


def write_shards(
    folder: Path,
    rows: Path,
    schema: pa.Schema,
    bounds: Sequence[int],
    cut: MapFn,
    options: dict[str, Any],
    progress: Callable[[int, int, int], None] | None = None,
) -> Made:
    """Write the shards that are not there yet; shard k holds rows bounds[k] to bounds[k + 1]. Counts are over all."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    count = len(bounds) - 1
    paths = [folder / f"train-{k:05d}-of-{count:05d}.parquet" for k in range(count)]
    missing = [k for k in range(count) if not paths[k].exists()]
    made = Made()
    for k in set(range(count)) - set(missing):
        made.add(json.loads(pq.read_metadata(paths[k]).metadata[FOOTER]))
    done, failures = made.clips + len(made.failed), len(made.failed)

    ahead: list[dict[str, Any]] = []  # rows whose jobs were handed out and whose results are to come

    def jobs() -> Iterator[Job]:
        for k in missing:
            table = pq.read_table(rows, filters=[("_position", ">=", bounds[k]), ("_position", "<", bounds[k + 1])])
            for row in table.to_pylist(maps_as_pydicts="strict"):
                ahead.append(row)
                yield job_of(row, options)

    results = iter(cut(jobs()))
    for k in missing:
        with _Shard(paths[k], schema) as shard:
            for _ in range(bounds[k], bounds[k + 1]):
                result = next(results)
                row = ahead.pop(0)
                if isinstance(result, str):
                    shard.fail(row, result)
                    failures += 1
                else:
                    shard.add(row, result)
                done += 1
                if progress:
                    progress(done, bounds[-1], failures)
        made.add(json.loads(pq.read_metadata(paths[k]).metadata[FOOTER]))
    made.failed.sort(key=lambda failure: failure["clip_id"])
    return made


class _Shard:
    """One shard in the making: written aside, flushed to the disk, renamed when it is whole."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.aside = path.with_suffix(".tmp")
        self.rows: list[dict[str, Any]] = []
        self.held = 0
        self.made = Made()

    def __enter__(self) -> _Shard:
        self.stream = open(self.aside, "wb")
        heavy = ("video.bytes", "still_middle")  # compressed already
        leaves = pq.ParquetFile(_empty(self.schema)).schema
        names = [leaves.column(i).path for i in range(len(leaves))]
        self.writer = pq.ParquetWriter(
            self.stream,
            self.schema,
            compression={name: "NONE" if name in heavy else "ZSTD" for name in names},
            use_dictionary=[name for name in names if name not in heavy],
            write_statistics=[name for name in names if name not in heavy],
        )
        return self

    def add(self, row: dict[str, Any], made: Extracted) -> None:
        self.rows.append(row_of(row, made))
        self.held += len(made.bytes)
        self.made.clips += 1
        self.made.hours += (made.end_time - made.start_time) / 3600
        self.made.bytes += len(made.bytes)
        self.made.copied += made.how == "copy"
        if made.how == "transcode":
            self.made.transcoded += 1
            self.made.why_transcoded[made.why] = self.made.why_transcoded.get(made.why, 0) + 1
        if self.held >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self._flush()

    def fail(self, row: dict[str, Any], reason: str) -> None:
        self.made.failed.append({"clip_id": row["clip_id"], "video_path": row["video_path"], "reason": reason})

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.held = [], 0

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.writer.close()
            self.stream.close()
            self.aside.unlink(missing_ok=True)
            return
        self._flush()
        made = {name: value for name, value in asdict(self.made).items() if name != "shards"}
        self.writer.add_key_value_metadata({FOOTER: json.dumps({"made": made}).encode()})
        self.writer.close()
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        commit(self.aside, self.path)


def _empty(schema: pa.Schema) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pa.BufferReader(sink.getvalue())
