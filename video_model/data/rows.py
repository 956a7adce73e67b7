"""Clips and pictures to train on, as columns: in memory, or mapped from Arrow files that all workers share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from video_model.data.sources import DataFile
from video_model.errors import DataError

PART = 1 << 20  # rows that are worked on at once


class Column:
    """Values [N] of some rows of an array, looked up when they are asked for."""

    def __init__(self, values: np.ndarray, at: np.ndarray | None = None) -> None:
        self.values, self.at = values, at

    def __len__(self) -> int:
        return len(self.values if self.at is None else self.at)

    def __getitem__(self, rows: Any) -> Any:
        return self.values[rows if self.at is None else self.at[rows]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.values if self.at is None else self.values[self.at]
        return found if dtype is None else found.astype(dtype, copy=False)


@dataclass(frozen=True)
class Rows:
    """All rows of some files, in their order. texts: Arrow table of clip_id, video_id and captions. numbers: [M] each of file,
    position (in the file), num_frames (0: unknown), fps (nan), width, height (0), motion_score and others (nan), silent (no
    caption at all), and key_high, key_low: the digest of the clip_id."""

    texts: pa.Table
    numbers: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.numbers["file"])


class Index:
    """Clips and pictures to train on. Rows are numbered 0 to len - 1, in the order of the files.

    files: what the rows point into. rows: all that the files hold, of which `at` [N] are meant (None: all). captions: column ->
    probability. report: reason -> rows left out. fingerprint: if it is known.
    """

    def __init__(
        self,
        files: tuple[DataFile, ...],
        rows: Rows,
        captions: Mapping[str, float],
        report: Mapping[str, int],
        at: np.ndarray | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.files, self.rows, self.captions, self.report = files, rows, dict(captions), dict(report)
        self.at = at
        if fingerprint:
            self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.rows) if self.at is None else len(self.at)

    def __repr__(self) -> str:
        pictures = int(self.is_image.sum())
        return f"Index({len(self) - pictures} clips, {pictures} pictures)"

    def view(self, column: str) -> Column:
        """[N] of a column of numbers."""
        return Column(self.rows.numbers[column], self.at)

    def parts(self) -> Iterator[np.ndarray]:
        """All row numbers, some at a time, so that what is made of them is never large."""
        for first in range(0, len(self), PART):
            yield np.arange(first, min(len(self), first + PART))

    def place(self, row: int) -> tuple[int, int]:
        """(which of `files`, row in it)."""
        numbers, base = self.rows.numbers, row if self.at is None else self.at[row]
        return int(numbers["file"][base]), int(numbers["position"][base])

    def kind(self, row: int) -> str:
        """ "video" or "image"."""
        return self.files[self.place(row)[0]].kind

    def key(self, row: int) -> str:
        """The id of a clip."""
        return self._text("clip_id", row)

    def text(self, column: str) -> pa.ChunkedArray:
        """[N] of clip_id, video_id, or a caption."""
        found = self.rows.texts[column]
        return found if self.at is None else found.take(pa.array(self.at))

    def text_at(self, column: str, row: int) -> str:
        """One of `text`; None where it is null."""
        return self._text(column, row)

    def texts_at(self, column: str, rows: np.ndarray) -> list[str | None]:
        """Some of `text`."""
        at = rows if self.at is None else self.at[rows]
        return self.rows.texts[column].take(pa.array(at)).to_pylist()

    @property
    def keys(self) -> list[str]:
        """Ids of the clips, as a list: for few clips."""
        return self.text("clip_id").to_pylist()

    def digests(self, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """The upper and lower half of the digests of some clips' ids."""
        return self.view("key_high")[rows], self.view("key_low")[rows]

    @property
    def file(self) -> np.ndarray:
        """[N] which of `files`."""
        return np.asarray(self.view("file"))

    @property
    def position(self) -> np.ndarray:
        """[N] row in the file."""
        return np.asarray(self.view("position"))

    @property
    def num_frames(self) -> np.ndarray:
        """[N] int; 0 where unknown."""
        return np.asarray(self.view("num_frames"))

    @property
    def fps(self) -> np.ndarray:
        """[N] frames per second; nan for pictures and where unknown."""
        return np.asarray(self.view("fps"))

    @property
    def shape(self) -> np.ndarray:
        """[N, 2] height and width in px; 0 where unknown."""
        return self.shape_of(slice(None))

    def shape_of(self, rows: Any) -> np.ndarray:
        return np.stack([self.view(name)[rows] for name in ("height", "width")], 1)

    def number(self, column: str) -> np.ndarray:
        """[N] of motion_score, or of another column that the index was opened with; nan where there is none."""
        return np.asarray(self.view(column))

    @property
    def motion(self) -> np.ndarray:
        """[N] motion score; nan where there is none."""
        return self.number("motion_score")

    @property
    def is_image(self) -> np.ndarray:
        """[N] bool."""
        return self.image_of(slice(None))

    def image_of(self, rows: Any) -> np.ndarray:
        return self._of_images[self.view("file")[rows]]

    @cached_property
    def _of_images(self) -> np.ndarray:
        return np.array([file.kind == "image" for file in self.files])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the files and the rows in use."""
        total = hashlib.sha256(str([file.identity for file in self.files]).encode())
        for name in ("file", "position"):
            column = self.view(name)
            for part in self.parts():
                total.update(np.ascontiguousarray(column[part]).tobytes())
        return total.hexdigest()[:16]

    def texts(self, row: int) -> dict[str, str]:
        """The captions of a row that are not empty, by column."""
        found = {name: self._text(name, row) for name in self.captions}
        return {name: text for name, text in found.items() if text and text.strip()}

    @property
    def silent(self) -> np.ndarray:
        """[N] bool: has no caption at all."""
        return np.asarray(self.view("silent")).astype(bool)

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
        rows = np.asarray(rows, np.int64)
        at = (rows if self.at is None else self.at[rows]).astype(number_type(len(self.rows)))
        return Index(self.files, self.rows, self.captions, self.report, at)

    def split(self, fraction: float, seed: int = 0) -> tuple[Index, Index]:
        """(train, held out), by hash of video_id, so that no video is in both.

        fraction: the share of videos (and, apart, of pictures) held out; at least one of them and not all, where there
        are two. Held out is empty for fraction 0 or a single video.
        """
        if not 0 <= fraction < 1:
            raise DataError(f"held-out fraction: must be >= 0 and < 1 (got {fraction:g})")
        held, videos, pictures = np.zeros(len(self), bool), self.text("video_id"), self.is_image
        for kind in (False, True):
            of_kind = pictures == kind
            distinct = videos.filter(pa.array(of_kind)).unique().to_pylist()
            ranked = sorted((_unit(f"{seed}:{video}"), video) for video in distinct)
            if fraction == 0 or len(ranked) < 2:
                continue
            count = min(max(1, sum(draw < fraction for draw, _ in ranked)), len(ranked) - 1)
            held |= of_kind & among(videos, [video for _, video in ranked[:count]])
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))

    def _text(self, column: str, row: int) -> Any:
        return self.rows.texts[column][row if self.at is None else int(self.at[row])].as_py()


def join(*parts: Index) -> Index:
    """One index of the rows of several, each with its own `where`. Rows named twice are kept once."""
    captions: dict[str, float] = {}
    report: dict[str, int] = {}
    for part in parts:
        captions |= part.captions
        for reason, count in part.report.items():
            report[reason] = report.get(reason, 0) + count
    if all(part.rows is parts[0].rows for part in parts):
        files, rows, at = parts[0].files, parts[0].rows, _union(parts)
    else:
        files, rows, at = _beside(parts)
    twice = sum(map(len, parts)) - (len(rows) if at is None else len(at))
    if twice:
        report["named twice"] = report.get("named twice", 0) + twice
    return Index(files, rows, captions, report, at)


def _union(parts: Sequence[Index]) -> np.ndarray | None:
    """Of parts of the same rows: those of the first one, then new ones of the second ..."""
    if parts[0].at is None:
        return None
    seen, found = np.zeros(len(parts[0].rows), bool), []
    for part in parts:
        at = np.arange(len(seen)) if part.at is None else part.at
        found.append(at[~seen[at]])
        seen[at] = True
    return np.concatenate(found).astype(number_type(len(seen)))


def _beside(parts: Sequence[Index]) -> tuple[tuple[DataFile, ...], Rows, np.ndarray]:
    """The rows of several as one; of those with the same clip_id the first."""
    files = {file.path: file for part in parts for file in part.files}
    places = {path: i for i, path in enumerate(files)}
    texts = pa.concat_tables([part.rows.texts for part in parts], promote_options="permissive")
    names = dict.fromkeys(name for part in parts for name in part.rows.numbers)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ats, start = [], 0
    for part in parts:
        own = {**part.rows.numbers}
        own["file"] = np.array([places[file.path] for file in part.files], np.int32)[own["file"]]
        for name in names:
            columns[name].append(own[name] if name in own else np.full(len(part.rows), np.nan))
        ats.append((np.arange(len(part.rows)) if part.at is None else part.at) + start)
        start += len(part.rows)
    rows = Rows(texts, {name: np.concatenate(values) for name, values in columns.items()})
    at = np.concatenate(ats).astype(number_type(start))
    first = first_of_each(rows.numbers["key_high"][at], rows.numbers["key_low"][at])
    return tuple(files.values()), rows, at if first is None else at[first]


def number_type(count: int) -> type[np.signedinteger]:
    """That holds the row numbers of so many rows."""
    return np.int32 if count < 2**31 else np.int64


def digests_of(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The upper and lower half of the 16 bytes that stand for each text, as [N] uint64."""
    data = b"".join(hashlib.sha256((text or "").encode("utf-8", "surrogatepass")).digest()[:16] for text in texts)
    high, low = np.frombuffer(data, "<u8").reshape(-1, 2).T
    return np.ascontiguousarray(high), np.ascontiguousarray(low)


def first_of_each(high: np.ndarray, low: np.ndarray) -> np.ndarray | None:
    """The rows that are the first with their digest, ascending; None: all are."""
    order = np.argsort(high, kind="stable")
    ordered = high[order]
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.lexsort((low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    return None if not same.any() else np.sort(order[np.r_[True, ~same]])


def among(texts: pa.ChunkedArray, chosen: Sequence[str]) -> np.ndarray:
    """[N] bool: which texts are among the chosen ones."""
    return pc.is_in(texts, value_set=pa.array(chosen, pa.string())).to_numpy()


def _unit(text: str) -> float:
    """A number in [0, 1) that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
