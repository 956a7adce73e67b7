"""Reads lists of videos row by row: text, JSON, JSON lines, CSV with any separator, Parquet.

A row is a dict, or a `BrokenRow` with the reason. Problems of the list as a whole raise ListError.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from os.path import splitext
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.store.files import opened
from pipelines.sources.folders import VIDEO_SUFFIXES

LIST_SUFFIXES = frozenset([".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
SEPARATORS = ",;\t|"
FIELD_CHARACTERS = 1 << 24
BATCH_ROWS = 1024
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class ListError(Exception):
    """A list that cannot be used. The reason and the fix, without the list's name."""


class NoPaths(ListError):
    """A table without a column of paths."""


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read. reason: with the fix."""

    reason: str


Knows = Callable[[str], bool]  # whether a column of this name holds paths of videos


def rows_of(path: str, knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    """The rows of a list, a file or an object of a store, in order, a few at a time in memory: all of them only of JSON that
    is one value. Raises ListError, StoreError."""
    suffix = splitext(path)[1].lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path, knows)
        elif suffix == ".txt":  # the bytes of a path need not be text
            yield from _lines(path)
        elif suffix in (".csv", ".tsv"):
            yield from _table(path, suffix, knows)
        else:
            yield from _json(path, knows, lines=suffix != ".json")
    except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
        raise ListError(f"cannot be read as a {suffix} list: {error}") from None


@contextmanager
def text_of(path: str, errors: str = "strict") -> Iterator[TextIO]:
    """The text of a list, in UTF-8, or in UTF-16 or 32 with a byte order mark, lines as they end."""
    with opened(path) as stream:
        head = stream.read(4)
        stream.seek(0)
        encoding = next((name for mark, name in BOMS if head.startswith(mark)), "utf-8")
        yield io.TextIOWrapper(stream, encoding, errors, newline="")


def _explained(path: str, error: UnicodeDecodeError) -> ListError:
    """Which line of a list is not text."""
    with opened(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as found:
                return _not_text(number, line[found.start])
    return ListError(f"is not {error.encoding} throughout ({error.reason}): save it as UTF-8")


def decoded(data: bytes, errors: str = "strict") -> str:
    """Text in UTF-8, or in UTF-16 or 32 with a byte order mark. ListError names the first line that is not."""
    encoding = next((name for mark, name in BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise _not_text(data[: error.start].count(b"\n") + 1, data[error.start]) from None


def _not_text(line: int, byte: int) -> ListError:
    return ListError(
        f"line {line} is not UTF-8 (byte 0x{byte:02x}), and nothing in the file says what it is: save it "
        "as UTF-8, e.g. if it came from Windows: iconv -f WINDOWS-1252 -t UTF-8 LIST > NEW"
    )


def _lines(path: str) -> Iterator[dict[str, Any]]:
    with text_of(path, errors="surrogateescape") as text:
        text.reconfigure(newline="\n")  # type: ignore[attr-defined]
        for line in text:
            if line.strip() and not line.startswith("#"):
                yield {"path": line.strip()}


# --- separated columns


def _table(path: str, suffix: str, knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    csv.field_size_limit(FIELD_CHARACTERS)
    try:
        with text_of(path) as text:
            head = next((line for line in _clean(text) if line.strip()), "").splitlines()
        separator = _separator(next((line for line in head if line.strip()), ""), suffix, knows)
        # many such tables use no quoting: a quote is a character
        plain = separator == "\t" and not _quotes_close(path)
        with text_of(path) as text:
            form: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if plain else {"strict": True}
            yield from _cells(csv.reader(_clean(text), delimiter=separator, **form), separator, knows)
    except UnicodeDecodeError as error:
        raise _explained(path, error) from None


def _clean(text: Iterable[str]) -> Iterator[str]:
    return (line.replace("\0", "\ufffd") for line in text)


def _cells(reader: Any, separator: str, knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    names = [name.strip() for name in next((row for row in reader if any(cell.strip() for cell in row)), [])]
    if names and not any(map(knows, names)):
        raise NoPaths(_no_head(names))
    while True:
        began = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = f"line {began}" if reader.line_num <= began else f"lines {began} to {reader.line_num}"
            yield BrokenRow(f"{lines}: {error}: double the quotes within a quoted field, and close it")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names):
            mark = {"\t": "tab", ",": "comma"}.get(separator, separator)
            yield BrokenRow(
                f"line {began} has {len(cells) - len(names)} more fields than the header: "
                f"put a field that has a {mark} in it in double quotes"
            )
            continue
        yield dict(zip(names, cells, strict=False))


def _separator(head: str, suffix: str, knows: Knows) -> str:
    """The separator that gives the header a path column, and the most columns."""

    def worth(mark: str) -> tuple[bool, int, bool]:
        names = next(csv.reader([head], delimiter=mark), [])
        return any(map(knows, names)), len(names), mark == ("\t" if suffix == ".tsv" else ",")

    return max(SEPARATORS, key=worth)


def _quotes_close(path: str) -> bool:
    try:
        with text_of(path) as text:
            return all(True for _ in csv.reader(_clean(text), delimiter="\t", strict=True))
    except csv.Error:
        return False


def _no_head(names: list[str]) -> str:
    if any(os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES for name in names):
        return f"has no head: write the names of the columns in a first line, such as path,caption (found {', '.join(names)})"
    return f"names no video: no column is called path, video or file (found {', '.join(names)})"


# --- JSON


def _json(path: str, knows: Knows, lines: bool) -> Iterator[dict[str, Any] | BrokenRow]:
    """One value, one value a line, or several values in a row, whatever the suffix."""
    if lines and _is_of_lines(path):
        try:
            with text_of(path) as text:
                yield from _json_rows(text, knows)
        except UnicodeDecodeError as error:
            raise _explained(path, error) from None
        return
    with opened(path) as stream:
        text = decoded(stream.read()).strip().removeprefix("\ufeff")
    try:
        whole = json.loads(text)
    except ValueError:
        yield from _json_lines(text, knows)
    else:
        yield from _of_json(whole, knows, single=lines)


def _is_of_lines(path: str) -> bool:
    """Whether the first two lines are values, so that a line is one."""
    try:
        with text_of(path) as text:
            first = list(islice((line for line in text if line.strip().removeprefix("\ufeff")), 2))
            return len(first) == 2 and all(isinstance(_value(line), dict | str) for line in first)
    except ValueError:
        return False


def _value(line: str) -> Any:
    return json.loads(line.strip().removeprefix("\ufeff"))


def _json_rows(lines: Iterable[str], knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield from _of_json(_value(line), knows, single=True)
            except ValueError as error:
                yield BrokenRow(f"line {number} is not JSON ({error}): correct it")


def _json_lines(text: str, knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    found = list(_json_rows(text.split("\n"), knows))
    if all(isinstance(row, BrokenRow) for row in found):
        first = found[0].reason.removesuffix(": correct it") if found else "nothing in it"  # type: ignore[union-attr]
        found = _json_stream(text, knows, first)
    yield from found


def _json_stream(text: str, knows: Knows, why: str) -> list[dict[str, Any] | BrokenRow]:
    """Values over several lines, one after the other."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            raise ListError(f"cannot be read as JSON: {why}") from None
        found += _of_json(value, knows, single=True)
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
    return found


def _of_json(value: Any, knows: Knows, single: bool = False) -> list[dict[str, Any] | BrokenRow]:
    """The rows in a value. single: it is one of several, so that an object is a row. Raises ListError."""
    if isinstance(value, str):
        return [{"path": value}]
    if isinstance(value, list):
        return [row for item in value for row in _of_json(item, knows, single=True)]
    if not isinstance(value, dict):
        return [BrokenRow(f"{json.dumps(value)[:40]} is not an object with a path")]
    known = [name for name in value if knows(name)]
    if columns := _columns(value, known):
        return columns
    if known or single:
        return [value]
    if lists := [part for part in value.values() if _names_videos(part, knows)]:
        return [row for part in lists for row in _of_json(part, knows)]
    if not any(os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES for name in value):
        raise NoPaths(_no_head(list(value)))
    return [row for name, found in value.items() for row in _of_video(name, found)]


def _names_videos(part: Any, knows: Knows) -> bool:
    """Whether it is a list of objects with a path."""
    return isinstance(part, list) and any(isinstance(item, dict) and any(map(knows, item)) for item in part)


def _columns(value: dict[str, Any], known: list[str]) -> list[dict[str, Any]]:
    """The rows of a table stored by columns: as lists, or as objects by row number (pandas)."""
    if not known or not all(isinstance(value[name], list | dict) for name in known):
        return []
    parts = [list(part.values()) if isinstance(part, dict) else part for part in value.values()]
    if not all(isinstance(part, list) for part in parts) or len({len(part) for part in parts}) != 1:
        return []
    return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]


def _of_video(name: str, found: Any) -> list[dict[str, Any]]:
    """{"v.mp4": caption, captions, an object, or several: spans}."""
    if isinstance(found, dict):
        return [{**found, "path": name}]
    if isinstance(found, list) and found and all(isinstance(item, dict) for item in found):
        return [{**item, "path": name} for item in found]
    return [{"path": name, "caption": found}]


# --- Parquet


def _parquet(path: str, knows: Knows) -> Iterator[dict[str, Any] | BrokenRow]:
    with opened(path) as stream, pq.ParquetFile(stream) as file:
        names = file.schema_arrow.names
        if not any(map(knows, names)):
            raise NoPaths(_no_head(names))
        heavy = any(knows(f.name) and not pa.types.is_string(f.type) for f in file.schema_arrow)
        for batch in file.iter_batches(1 if heavy else BATCH_ROWS):  # the column may contain the videos themselves
            yield from batch.to_pylist(maps_as_pydicts="strict")
