"""The index of training data: a small row for each clip or picture, and where its bytes lie. No bytes are in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_model.data.sources import NEEDED, NUMBERS, OTHER_CAPTIONS, DataFile, find_files, small_columns
from video_model.data.where import mentioned, rows_where
from video_model.errors import DataError, first_line

CAPTIONS = {"caption_frame": 0.5, "caption_video": 0.25, "caption_merged": 0.25}  # SVD, section 3

PLACE = ("file", "position")
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
) -> Index:
    """Index the clips and pictures of some sources: curated folders, folders of image-text Parquet or .tar shards, files.

    where: an SQL condition on the columns of all the sources together (a column that a source lacks is null there, and
    null does not pass); for a condition on one of several, open them apart and `join`. captions: column -> probability
    to be drawn; default: SVD's three. A file that has none of them may have `caption`, `text`, `TEXT` or `txt`. numbers:
    columns to keep beside motion_score, see `Index.number`. partial: the captions are those of more sources than these, and
    are not all looked for here, see `check_captions`. Raises DataError.
    """
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    files = find_files(sources)
    chosen = dict(CAPTIONS if captions is None else captions)
    if not chosen or min(chosen.values()) < 0 or not sum(chosen.values()) > 0:
        raise DataError(f"captions: {chosen}: give each column a probability >= 0, and one of them more than 0")
    texts = _caption_columns(files, chosen)
    if not partial:
        check_captions(files, chosen)
    every = list(dict.fromkeys(name for file in files for name in small_columns(file.schema)))
    extra = mentioned(where, every) if where else []
    columns = list(dict.fromkeys(name for names in texts for name in names))
    kept = list(dict.fromkeys(("motion_score", *numbers)))
    tables = [_read(i, file, names, extra, kept) for i, (file, names) in enumerate(zip(files, texts, strict=True))]
    rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    places = ", ".join(str(source) for source in sources)
    report = Counter()
    for file in files:
        report.update(file.members.left_out if file.members else {})
    if not len(rows):
        why = "; ".join(f"{count}: {reason}" for reason, count in report.items()) or "select clips with looser filters"
        raise DataError(f"{places}: holds no rows ({why})" if report else f"{places}: holds no rows; {why}")
    rows, report["named twice"] = _unique(rows)
    if where:
        before = len(rows)
        seen = rows.select([name for name in rows.column_names if name in every])
        rows = rows.take(rows_where(seen, where, every))
        if not len(rows):
            raise DataError(f"{places}: where {' '.join(where.split())}: keeps none of {before} clips; loosen it")
        report["not in where"] = before - len(rows)
    rows = rows.select(list(dict.fromkeys([*TYPES, *kept, *columns])))
    return Index(tuple(files), rows, {name: chosen.get(name, 1.0) for name in columns}, dict(+report))


class Index:
    """Clips and pictures to train on. Rows are numbered 0 to len - 1, in the order of the files.

    files: what the rows point into. rows: Arrow table (clip_id, video_id, num_frames, fps, width, height, motion_score,
    file, position in the file, the captions). captions: column -> probability. report: reason -> rows left out.
    """

    def __init__(
        self, files: tuple[DataFile, ...], rows: pa.Table, captions: Mapping[str, float], report: Mapping[str, int]
    ) -> None:
        self.files, self.rows, self.captions, self.report = files, rows, dict(captions), dict(report)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        pictures = int(self.is_image.sum())
        return f"Index({len(self) - pictures} clips, {pictures} pictures)"

    @cached_property
    def keys(self) -> list[str]:
        """Ids of the clips."""
        return self.rows["clip_id"].to_pylist()

    @cached_property
    def file(self) -> np.ndarray:
        """[N] which of `files`."""
        return self.rows["file"].to_numpy()

    @cached_property
    def position(self) -> np.ndarray:
        """[N] row in the file."""
        return self.rows["position"].to_numpy()

    @cached_property
    def num_frames(self) -> np.ndarray:
        """[N] int; 0 where unknown."""
        return self.rows["num_frames"].fill_null(0).to_numpy()

    @cached_property
    def fps(self) -> np.ndarray:
        """[N] frames per second; nan for pictures and where unknown."""
        return self.rows["fps"].to_numpy()

    @cached_property
    def shape(self) -> np.ndarray:
        """[N, 2] height and width in px; 0 where unknown."""
        return np.stack([self.rows[name].fill_null(0).to_numpy() for name in ("height", "width")], 1)

    def number(self, column: str) -> np.ndarray:
        """[N] of motion_score, or of another column that the index was opened with; nan where there is none."""
        return self.rows[column].to_numpy()

    @cached_property
    def motion(self) -> np.ndarray:
        """[N] motion score; nan where there is none."""
        return self.number("motion_score")

    @cached_property
    def is_image(self) -> np.ndarray:
        """[N] bool."""
        return np.array([file.kind == "image" for file in self.files])[self.file]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the files and the rows in use."""
        total = hashlib.sha256(str([file.identity for file in self.files]).encode())
        total.update(np.ascontiguousarray(self.file).tobytes() + np.ascontiguousarray(self.position).tobytes())
        return total.hexdigest()[:16]

    def texts(self, row: int) -> dict[str, str]:
        """The captions of a row that are not empty, by column."""
        found = {name: self.rows[name][row].as_py() for name in self.captions}
        return {name: text for name, text in found.items() if text and text.strip()}

    @cached_property
    def silent(self) -> np.ndarray:
        """[N] bool: has no caption at all."""
        empty = np.ones(len(self), bool)
        for name in self.captions:
            shown = pc.utf8_length(pc.utf8_trim_whitespace(self.rows[name])).fill_null(0)
            empty &= shown.to_numpy() == 0
        return empty

    def caption(self, row: int, draw: float) -> str:
        """One of the row's captions, drawn with the given probabilities; "" where it has none. draw: in [0, 1).

        The probability of a missing caption goes to the others in proportion.
        """
        texts = {name: text for name, text in self.texts(row).items() if self.captions[name] > 0}
        total = sum(self.captions[name] for name in texts)
        for name, text in texts.items():
            draw -= self.captions[name] / total
            if draw < 0:
                return text
        return next(reversed(texts.values()), "")

    def select(self, rows: np.ndarray) -> Index:
        """The index of some of the rows."""
        return Index(self.files, self.rows.take(np.asarray(rows, np.int64)), self.captions, self.report)

    def split(self, fraction: float, seed: int = 0) -> tuple[Index, Index]:
        """(train, held out), by hash of video_id, so that no video is in both.

        fraction: the share of videos (and, apart, of pictures) held out; at least one of them and not all, where there
        are two. Held out is empty for fraction 0 or a single video.
        """
        if not 0 <= fraction < 1:
            raise DataError(f"held-out fraction: must be >= 0 and < 1 (got {fraction:g})")
        held = np.zeros(len(self), bool)
        videos = np.array(self.rows["video_id"].to_pylist(), object)
        for kind in (False, True):
            of_kind = self.is_image == kind
            ranked = sorted((_unit(f"{seed}:{video}"), video) for video in set(videos[of_kind]))
            if fraction == 0 or len(ranked) < 2:
                continue
            count = min(max(1, sum(draw < fraction for draw, _ in ranked)), len(ranked) - 1)
            chosen = {video for _, video in ranked[:count]}
            held |= of_kind & np.array([video in chosen for video in videos], bool)
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))


def join(*parts: Index) -> Index:
    """One index of the rows of several, each with its own `where`. Rows named twice are kept once."""
    files: dict[str, DataFile] = {file.path: file for part in parts for file in part.files}
    places = {path: i for i, path in enumerate(files)}
    tables, report, captions = [], Counter(), {}
    for part in parts:
        moved = np.array([places[file.path] for file in part.files], np.int32)[part.file]
        tables.append(part.rows.set_column(part.rows.column_names.index("file"), "file", pa.array(moved)))
        report.update(part.report)
        captions |= part.captions
    rows, twice = _unique(pa.concat_tables(tables, promote_options="permissive").combine_chunks())
    report["named twice"] += twice
    return Index(tuple(files.values()), rows, captions, dict(+report))


def check_captions(files: Sequence[DataFile], chosen: Mapping[str, float]) -> None:
    """Raise DataError where a caption that was asked for is in none of the files. The default ones may be lacking."""
    have = list(dict.fromkeys(name for file in files for name in small_columns(file.schema)))
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
    columns |= {"file": np.full(count, number, np.int32), "position": np.arange(count)}
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


def _unique(rows: pa.Table) -> tuple[pa.Table, int]:
    """The first row of each clip_id, and how many more there were."""
    ids = rows["clip_id"].to_pylist()
    first = list({key: i for i, key in reversed(list(enumerate(ids)))}.values())
    if len(first) == len(rows):
        return rows, 0
    return rows.take(np.sort(np.array(first, np.int64))), len(rows) - len(first)


def _unit(text: str) -> float:
    """A number in [0, 1) that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


__all__ = ["CAPTIONS", "DataError", "Index", "check_captions", "join", "open_index"]
