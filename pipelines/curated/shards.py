"""Shards of a curated dataset: rows with the clip's bytes inside, as the hub's Video feature wants them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.files import commit, writing
from curate.clip import COUNTED, Column, text_to_path
from curate.export.extract import Extracted, Span
from curate.export.span import Origin
from pipelines.curated.cutting import Job, MapFn, Source
from pipelines.dataset.files import FOOTER

if TYPE_CHECKING:
    from pipelines.curated.passes import Spool

GROUP_BYTES, GROUP_ROWS = 16_000_000, 100  # a reader that streams holds one row group

OF_BYTES = ("start_frame", "end_frame", "start_time", "end_time", "num_frames", "fps", "width", "height")
NOT_ASKED = ("still_middle", "image_embedding", "errors")
VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ADDED = (
    Column("video", VIDEO, "the clip: an mp4 without sound, starting at time 0, and its name"),
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


@dataclass
class Made:
    """Counts over all shards. trimmed: copies that lost frames of what was scored, frames_lost of frames_scored."""

    clips: int = 0
    hours: float = 0.0
    bytes: int = 0
    shards: int = 0
    copied: int = 0
    transcoded: int = 0
    trimmed: int = 0
    frames_scored: int = 0
    frames_lost: int = 0
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


def job_of(row: dict[str, Any], options: dict[str, Any], spool: Path | None = None) -> Job:
    """row: of a clip, with _bytes, _keyframes and the unit's marks, as the plan of a curated dataset has them."""
    span = Span(row["start_frame"], row["end_frame"], row["start_time"], row["end_time"], _origin(row))
    source = Source(row["video_id"], row["_bytes"], row.get("_modified"), row.get("_checksum"))
    return Job(
        row["clip_id"], text_to_path(row["video_path"]), span, row["_keyframes"], options, source, spool and str(spool)
    )


def _origin(row: dict[str, Any]) -> Origin | None:
    if row.get("clock") != COUNTED:
        return None
    return Origin(row["_first_packet"] or 0, row["_first_pts"], row["_first_frame"] or 0, row["_unit_start"])


def row_of(row: dict[str, Any], made: Extracted) -> dict[str, Any]:
    """The curated row: frames, times, rate and size are those of the bytes."""
    errors = [{"stage": stage, "reason": reason} for stage, reason in dict(row.get("errors") or ()).items()]
    scored = {f"scored_{name}": row[name] for name in ("start_frame", "end_frame", "start_time", "end_time")}
    return row | scored | {name: getattr(made, name) for name in OF_BYTES} | {
        "errors": errors,
        "video": {"bytes": made.bytes, "path": f"{row['clip_id']}.mp4"},
        "video_codec": made.codec,
        "cut": made.how,
    }  # fmt: skip


class Standing:
    """Whether a clip still passes the selection after a copy has lost frames of it.

    conditions: (name, SQL) of each filter. Only those that look at what a copy changes are asked again.
    """

    def __init__(self, conditions: Sequence[tuple[str, str]]) -> None:
        self.conditions = [(name, sql) for name, sql in conditions if any(column in sql.lower() for column in OF_BYTES)]

    def fails(self, row: dict[str, Any], made: Extracted) -> str | None:
        """Why a copy will not do: the first filter that the clip passed and its copy does not; None where it will."""
        if not self.conditions or made.how != "copy" or made.num_frames == row["num_frames"]:
            return None
        plain = {name: value for name, value in row.items() if not name.startswith("_") and name not in NOT_ASKED}
        plain["errors"] = list(dict(row.get("errors") or ()).items())
        both = [plain | {"_cut": False}, plain | {name: getattr(made, name) for name in OF_BYTES} | {"_cut": True}]
        errors = pa.map_(pa.string(), pa.string())
        rows = pa.Table.from_pylist(both)
        rows = rows.set_column(
            rows.schema.get_field_index("errors"), "errors", pa.array([r["errors"] for r in both], errors)
        )
        db = duckdb.connect(config={"enable_external_access": False})
        db.register("clips", rows)
        for name, sql in self.conditions:
            try:
                verdicts = dict(db.execute(f"SELECT _cut, ({sql}\n) FROM clips").fetchall())
            except duckdb.Error:
                verdicts = {False: None}
            if not verdicts[False]:  # of one clip alone it is not true: ranks, comparisons with others, labels
                return f"whether a copy would pass {name} cannot be asked of one clip"
            if not verdicts[True]:
                return f"a copy would fail {name}"
        return None


def write_shards(
    folder: Path,
    rows: Path,
    schema: pa.Schema,
    bounds: Sequence[int],
    cut: MapFn,
    again: MapFn,
    options: dict[str, Any],
    standing: Standing,
    moved: Callable[[str], str],
    spool: Spool,
) -> Made:
    """Write the shards that are not there yet; shard k holds rows bounds[k] to bounds[k + 1]. Counts are over all.

    cut: called once, with the jobs of all missing shards. again: for single jobs meanwhile: a copy that would fail
    `standing` is cut again, whole. moved: where a source lies now, by the path recorded.
    spool: where clips may lie that were cut already; it counts what is done.
    """
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

    spool.written = [(bounds[k], bounds[k + 1]) for k in range(count) if k not in missing]
    ahead: list[dict[str, Any]] = []  # rows whose jobs were handed out and whose results are to come

    def jobs() -> Iterator[Job]:
        for k in missing:
            spool.fill(bounds[k + 1])
            table = pq.read_table(rows, filters=[("_position", ">=", bounds[k]), ("_position", "<", bounds[k + 1])])
            for row in table.to_pylist(maps_as_pydicts="strict"):
                row["video_path"] = moved(row["video_path"])
                ahead.append(row)
                yield job_of(row, options, spool.folder)

    spool.tell(done, failures)
    results = iter(cut(jobs()))
    for k in missing:
        taken = []
        with _Shard(paths[k], schema) as shard:
            for _ in range(bounds[k], bounds[k + 1]):
                result = next(results)
                row = ahead.pop(0)
                if not isinstance(result, str) and (why := standing.fails(row, result)):
                    (result,) = again([job_of(row, options | {"snap": False}, spool.folder)])
                    result = result if isinstance(result, str) else replace(result, why=why)
                if isinstance(result, str):
                    shard.fail(row, result)
                    failures += 1
                else:
                    shard.add(row, result)
                done += 1
                taken.append(row["clip_id"])
                spool.ready.discard(row["clip_id"])
                spool.tell(done, failures)
        spool.drop(taken)
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
        with writing(self.path.parent):
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
        lost = row["num_frames"] - made.num_frames if made.how == "copy" else 0
        self.made.trimmed += lost > 0
        self.made.frames_lost += lost
        self.made.frames_scored += row["num_frames"]
        if made.how == "transcode":
            self.made.transcoded += 1
            self.made.why_transcoded[made.why] = self.made.why_transcoded.get(made.why, 0) + 1
        if self.held >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self._flush()

    def fail(self, row: dict[str, Any], reason: str) -> None:
        self.made.failed.append({"clip_id": row["clip_id"], "video_path": row["video_path"], "reason": reason})

    def _flush(self) -> None:
        if self.rows:
            with writing(self.path.parent):
                self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.held = [], 0

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                with writing(self.path.parent):
                    self._commit()
        finally:  # where the disk is full closing fails too, and the file must go all the same
            for opened in (self.writer, self.stream):
                with suppress(OSError, pa.ArrowException):
                    opened.close()
            self.aside.unlink(missing_ok=True)

    def _commit(self) -> None:
        self._flush()
        made = {name: value for name, value in asdict(self.made).items() if name != "shards"}
        self.writer.add_key_value_metadata({FOOTER: json.dumps({"made": made}).encode()})
        self.writer.close()
        self.stream.close()
        commit(self.aside, self.path)


def _empty(schema: pa.Schema) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pa.BufferReader(sink.getvalue())
