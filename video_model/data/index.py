"""The index of training data: a small row for each clip or picture, and where its bytes lie. No bytes are in it.

CACHE/index/<key>/files.json, texts.arrow, numbers.arrow: made once of all rows of some sources, and mapped by all workers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.base.files import atomic_folder, write_json
from video_model.data.mapped import map_columns, map_table, write_columns
from video_model.data.rows import Index, Rows, digests_of, first_of_each, join, number_type
from video_model.data.sources import (
    NEEDED,
    NUMBERS,
    OTHER_CAPTIONS,
    DataFile,
    Place,
    find_places,
    open_file,
    small_columns,
)
from video_model.data.webdataset import Members
from video_model.data.where import mentioned, rows_where
from video_model.errors import DataError, first_line

CAPTIONS = {"caption_frame": 0.5, "caption_video": 0.25, "caption_merged": 0.25}  # SVD, section 3
FORMAT = 1  # of the files in the cache
BATCH = 1 << 16  # rows of one batch of texts

TYPES = {
    "clip_id": pa.string(), "video_id": pa.string(), "num_frames": pa.int32(), "fps": pa.float64(),
    "width": pa.int32(), "height": pa.int32(), "motion_score": pa.float32(),
    "file": pa.int32(), "position": pa.int64(),
}  # fmt: skip


def open_index(
    sources: Sequence[str | Path] | str | Path,
    where: str | None = None,
    captions: Mapping[str, float] | None = None,
    numbers: Sequence[str] = (),
    partial: bool = False,
    cache: Path | None = None,
) -> Index:
    """Index the clips and pictures of some sources: curated folders, folders of image-text Parquet or .tar shards, files, or
    their URLs.

    where: an SQL condition on the columns of all the sources together (a column that a source lacks is null there, and
    null does not pass); for a condition on one of several, open them apart and `join`. captions: column -> probability
    to be drawn; default: SVD's three. A file that has none of them may have `caption`, `text`, `TEXT` or `txt`. numbers:
    columns to keep beside motion_score, see `Index.number`. partial: the captions are those of more sources than these, and
    are not all looked for here, see `check_captions`. cache: folder where the rows are kept, to be mapped, until the files
    change; None: in memory. Raises DataError.
    """
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    places = find_places(sources)
    chosen = dict(CAPTIONS if captions is None else captions)
    if not chosen or min(chosen.values()) < 0 or not sum(chosen.values()) > 0:
        raise DataError(f"captions: {chosen}: give each column a probability >= 0, and one of them more than 0")
    kept = tuple(dict.fromkeys(("motion_score", *numbers)))
    named = ", ".join(str(source) for source in sources)
    index = _mapped(places, chosen, kept, named, cache) if cache else _made(places, chosen, kept, named, None)
    if not partial:
        check_captions(index.files, chosen)
    return matching(index, where, kept, named) if where else index


def matching(index: Index, where: str, kept: Sequence[str], named: str) -> Index:
    """The rows of an index, as it was opened, that meet a condition; `kept`: its numbers. Raises DataError."""
    every = list(dict.fromkeys(name for file in index.files for name in small_columns(file.schema)))
    asked = mentioned(where, every)
    tables = [_read(i, file, [], asked, list(kept)) for i, file in enumerate(index.files)]
    rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    rows = rows if index.at is None else rows.take(index.at)
    seen = rows.select([name for name in rows.column_names if name in every])
    found = rows_where(seen, where, every)
    if not len(found):
        raise DataError(f"{named}: where {' '.join(where.split())}: keeps none of {len(index)} clips; loosen it")
    made = index.select(found)
    if len(found) < len(index):
        made.report["not in where"] = len(index) - len(found)
    return made


def key_of(places: Sequence[Place], *more: Any) -> str:
    """Of what is made of some files as they are now."""
    text = json.dumps([FORMAT, [[place.path, place.bytes, place.version] for place in places], *more])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mapped(
    places: Sequence[Place], chosen: Mapping[str, float], kept: Sequence[str], named: str, cache: Path
) -> Index:
    """The rows that the cache holds, which are made where it holds none."""
    home = cache / "index" / key_of(places, list(chosen), list(kept))
    if not (home / "files.json").exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(home) as folder:
            _made(places, chosen, kept, named, folder)
    numbers, about = map_columns(home / "numbers.arrow")
    files = _files_from(json.loads((home / "files.json").read_text()), numbers)
    at = map_columns(home / "first.arrow")[0]["at"] if about["named_twice"] else None
    rows = Rows(map_table(home / "texts.arrow"), numbers)
    captions = {name: chosen.get(name, 1.0) for name in about["captions"]}
    return Index(files, rows, captions, about["report"], at, about["fingerprint"])


def _made(
    places: Sequence[Place], chosen: Mapping[str, float], kept: Sequence[str], named: str, folder: Path | None
) -> Index:
    """Read the small columns of all files, into memory or a folder. Raises DataError."""
    files = [open_file(place) for place in places]
    texts = _caption_columns(files, chosen)
    columns = list(dict.fromkeys(name for names in texts for name in names))
    schema = pa.schema([(name, pa.string()) for name in ("clip_id", "video_id", *columns)])
    numbers: dict[str, list[np.ndarray]] = {}
    batches: list[pa.RecordBatch] = []
    writer = pa.ipc.new_file(str(folder / "texts.arrow"), schema) if folder else None
    for batch in _batches(_tables(files, texts, kept, schema, numbers)):
        writer.write_batch(batch) if writer else batches.append(batch)
    if writer:
        writer.close()
    report: Counter[str] = Counter()
    for file in files:
        report.update(file.members.left_out if file.members else {})
    whole = {name: np.concatenate(values) for name, values in numbers.items()}
    if not len(whole.get("file", ())):
        why = "; ".join(f"{count}: {reason}" for reason, count in report.items()) or "select clips with looser filters"
        raise DataError(f"{named}: holds no rows ({why})" if report else f"{named}: holds no rows; {why}")
    first = first_of_each(whole["key_high"], whole["key_low"])
    if first is not None:
        report["named twice"] = len(whole["file"]) - len(first)
        first = first.astype(number_type(len(whole["file"])))
    rows = Rows(pa.Table.from_batches(batches, schema), whole)
    captions = {name: chosen.get(name, 1.0) for name in columns}
    index = Index(tuple(files), rows, captions, dict(+report), first)
    if folder:
        if first is not None:
            write_columns(folder / "first.arrow", {"at": first}, {})
        about = {"captions": columns, "report": index.report, "fingerprint": index.fingerprint}
        write_columns(folder / "numbers.arrow", whole, about | {"named_twice": first is not None})
        write_json(folder / "files.json", _files_as_json(files))
    return index


def _tables(
    files: Sequence[DataFile],
    texts: Sequence[list[str]],
    kept: Sequence[str],
    schema: pa.Schema,
    numbers: dict[str, list[np.ndarray]],
) -> Iterator[pa.Table]:
    """The texts of each file; its numbers are added to `numbers`."""
    for number, (file, names) in enumerate(zip(files, texts, strict=True)):
        table = _read(number, file, names, [], list(kept))
        count = len(table)
        shown = np.zeros(count, bool)
        for name in schema.names[2:]:
            if name in table.column_names:
                letters = pc.utf8_length(pc.utf8_trim_whitespace(table[name])).fill_null(0)
                shown |= letters.to_numpy() > 0
            else:
                table = table.append_column(name, pa.nulls(count, pa.string()))
        found = {name: _filled(table[name]) for name in ("file", "position", *NUMBERS, *kept)}
        found["key_high"], found["key_low"] = digests_of(table["clip_id"].to_pylist())
        found["silent"] = (~shown).astype(np.uint8)
        empty = np.zeros(count, np.int64)
        found["offset"], found["bytes"] = (file.members.offsets, file.members.sizes) if file.members else (empty, empty)
        for name, values in found.items():
            numbers.setdefault(name, []).append(values)
        yield table.select(schema.names)


def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Of about BATCH rows, so that there are few."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= BATCH:
            yield from pa.concat_tables(waiting).combine_chunks().to_batches()
            waiting = []
    if waiting:
        yield from pa.concat_tables(waiting).combine_chunks().to_batches()


def _filled(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers, with nan or 0 where there is none."""
    return column.fill_null(np.nan if pa.types.is_floating(column.type) else 0).to_numpy()


def _files_as_json(files: Sequence[DataFile]) -> dict[str, Any]:
    schemas = list(dict.fromkeys(file.schema.serialize().to_pybytes() for file in files))
    places = {data: i for i, data in enumerate(schemas)}
    listed = [
        [file.path, file.kind, file.column, places[file.schema.serialize().to_pybytes()], file.group_rows,
         file.identity, file.members is not None]
        for file in files
    ]  # fmt: skip
    return {"files": listed, "schemas": [base64.b64encode(data).decode() for data in schemas]}


def _files_from(told: Mapping[str, Any], numbers: Mapping[str, np.ndarray]) -> tuple[DataFile, ...]:
    """The inverse. numbers: of all rows of the files, in order."""
    schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) for text in told["schemas"]]
    files, first = [], 0
    for path, kind, column, schema, groups, identity, shard in told["files"]:
        last = first + sum(groups)
        members = None
        if shard:
            members = Members(None, numbers["offset"][first:last], numbers["bytes"][first:last], "", {}, 0)
        files.append(DataFile(path, kind, column, schemas[schema], tuple(groups), identity, members))
        first = last
    return tuple(files)


def check_captions(files: Sequence[DataFile], chosen: Mapping[str, float]) -> None:
    """Raise DataError where a caption that was asked for is in none of the files. The default ones may be lacking."""
    schemas = {id(file.schema): file.schema for file in files}.values()
    have = list(dict.fromkeys(name for schema in schemas for name in small_columns(schema)))
    lost = [name for name in chosen if name not in have]
    if lost and dict(chosen) != CAPTIONS:
        raise DataError(f"captions: no source has a column {', '.join(lost)}; columns are {', '.join(have)}")


def _caption_columns(files: list[DataFile], chosen: Mapping[str, float]) -> list[list[str]]:
    """The caption columns of each file. Raises DataError where one has none."""
    found = []
    for file in files:
        names = [name for name in chosen if name in file.schema.names]
        names = names or [name for name in OTHER_CAPTIONS if name in file.schema.names][:1]
        if not names:
            raise DataError(
                f"{file.path}: has no caption column ({', '.join(dict.fromkeys([*chosen, *OTHER_CAPTIONS]))}); columns are "
                f"{', '.join(file.schema.names)}; name one under captions"
            )
        for name in names:
            kind = file.schema.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
                raise DataError(f"{file.path}: caption column {name} is {kind}, not text")
        found.append(names)
    return found


def _read(number: int, file: DataFile, texts: list[str], extra: list[str], kept: list[str]) -> pa.Table:
    """The index rows of one file; `extra`: columns for the condition; `kept`: numbers."""
    names = [name for name in dict.fromkeys((*NEEDED, *kept, *texts, *extra)) if name in file.schema.names]
    names = [name for name in names if name in texts or name in extra or file.kind == "video" or name in NEEDED]
    table = file.table(names) if names else None
    count = len(file)
    columns = {name: table[name] for name in names} if table is not None else {}
    columns |= {"file": np.full(count, number, np.int32), "position": np.arange(count, dtype=np.int64)}
    if file.kind == "image":
        ids = columns.get("clip_id", pa.nulls(count, pa.string()))
        own = pa.array([f"{file.identity}-{i:08d}" for i in range(count)], pa.string())
        columns["clip_id"] = pc.coalesce(ids.cast(pa.string()), own)
        columns["num_frames"] = np.ones(count, np.int32)
        columns["fps"] = pa.nulls(count, pa.float64())
    columns["video_id"] = pc.coalesce(
        columns.get("video_id", pa.nulls(count)).cast(pa.string()), columns["clip_id"].cast(pa.string())
    )
    for name in ("width", "height", *kept):
        columns.setdefault(name, pa.nulls(count))
    try:
        return pa.table({name: _typed(name, value, texts, kept) for name, value in columns.items()})
    except pa.ArrowInvalid as error:
        mend = "make it again with winnow select" if file.kind == "video" else "mend that column"
        raise DataError(f"{file.path}: {first_line(error)}; {mend}") from None


def _typed(
    name: str, value: pa.ChunkedArray | pa.Array | np.ndarray, texts: list[str], kept: list[str]
) -> pa.ChunkedArray | pa.Array:
    value = pa.array(value) if isinstance(value, np.ndarray) else value
    kind = pa.string() if name in texts else TYPES.get(name, pa.float64() if name in kept else None)
    if kind is None:
        return value
    return value.cast(kind, safe=name not in (*NUMBERS, *kept))


__all__ = ["CAPTIONS", "DataError", "Index", "check_captions", "join", "key_of", "matching", "open_index"]
