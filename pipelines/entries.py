"""What a row of a list means: which video, which captions, which span of it, and what else it says."""

from __future__ import annotations

import ast
import datetime
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from curate.clip import Listed

PATHS = [
    "path",
    "video_path",
    "video",
    "file",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "video_file",
    "video_filename",
    "video_file_name",
    "videopath",
    "clip_path",
    "media",
    "media_path",
    "mp4",
    "url",
    "video_url",
    "uri",
]
CAPTIONS = [
    "caption",
    "captions",
    "cap",
    "caps",
    "text",
    "texts",
    "prompt",
    "prompts",
    "description",
    "descriptions",
    "sentence",
    "sentences",
]
STARTS = [
    "start",
    "start_time",
    "start_sec",
    "start_secs",
    "start_seconds",
    "start_second",
    "start_s",
    "start_timestamp",
    "begin",
    "begin_time",
    "clip_start",
    "clip_start_time",
    "span_start",
    "time_start",
    "t_start",
    "start_ms",
]
ENDS = [
    "end",
    "end_time",
    "end_sec",
    "end_secs",
    "end_seconds",
    "end_second",
    "end_s",
    "end_timestamp",
    "stop",
    "stop_time",
    "clip_end",
    "clip_end_time",
    "span_end",
    "time_end",
    "t_end",
    "end_ms",
]
PAIRED = ["span", "timestamp", "timestamps", "segment"]  # [start, end] in one column
FRAMES = (("start_frame", "end_frame"), ("frame_start", "frame_end"))

MOST_BYTES = 1000  # of a picture or the like in another column
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)$")
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass
class Entry:
    """One row. path: as it is written, None where the row holds the video itself (held), or nothing that can be a path.

    span: None where the row is of the whole video. problem: why the row cannot be used, or None.
    """

    path: str | None = None
    held: bytes | None = None
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    span: Listed | None = None
    problem: str | None = None


def knows_path(head: str) -> bool:
    return head_of(head) in PATHS


def head_of(name: Any) -> str:
    """A column's name as it is looked up: in any case, with spaces or dashes for underscores."""
    return re.sub(r"[\s_-]+", "_", str(name).strip().lstrip("\ufeff")).strip("_").lower()


def entry_of(row: Mapping[str, Any]) -> Entry:
    """The first column that names a path, a caption and a span is that; every other one is kept as it is."""
    heads: dict[str, str] = {}
    for name in row:
        heads.setdefault(head_of(name), name)
    taken: list[str] = []

    def first(names: list[str]) -> Any:
        for name in names:
            if name in heads and not _missing(row[heads[name]]):
                taken.append(heads[name])
                return row[heads[name]]
        return None

    entry = Entry()
    columns: dict[str, Any] = {}
    held = [name for name in PATHS if name in heads and _holds_bytes(row[heads[name]])]
    _place(entry, first(held or PATHS), taken, columns)
    entry.captions = list(_captions(first(CAPTIONS)))
    entry.span = _span(first, heads, row)
    rest = {name: plain(value) for name, value in row.items() if name not in taken}
    entry.columns = {plain(str(name)): value for name, value in {**columns, **rest}.items() if value not in (None, "")}
    if entry.problem is None and entry.path is None and entry.held is None:
        entry.problem = (
            f"names no video: one of the columns {', '.join(PATHS[:6])} is needed (found {', '.join(map(str, row))})"
        )
    return entry


def _place(entry: Entry, value: Any, taken: list[str], columns: dict[str, Any]) -> None:
    """The video itself, as the hub's struct {bytes, path} or as bytes; or where it lies."""
    if isinstance(value, Mapping):
        entry.held, value = value.get("bytes"), value.get("path")
        if entry.held and value:
            columns[taken[-1]] = plain(str(value))
    elif isinstance(value, bytes):
        entry.held, value = value, None
    if entry.held:
        entry.path = str(value) if value else None
        return
    if value is None:
        return
    place = str(value).strip()
    if place.lower().startswith("file://"):
        place = unquote(urlsplit(place).path)
    if ADDRESS.match(place):
        entry.problem = f"{plain(place)} is an address, and Winnow reads files only: download it and name its path"
    elif not _is_file_name(place):
        entry.problem = f"{place!r} cannot be a file name: correct the entry or take it out"
    else:
        entry.path = place


def _captions(value: Any) -> Iterator[str]:
    """Each text in a cell: one, a list of them, or a list of objects that have one each."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _captions(part)
    elif isinstance(value, Mapping):
        heads = {head_of(name): name for name in value}
        yield from _captions(next((value[heads[name]] for name in CAPTIONS if name in heads), None))
    elif value is not None and str(value).strip():
        yield from _written_list(str(value)) or [plain(str(value))]


def _written_list(text: str) -> list[str]:
    """The texts of a list that stands in a cell as JSON or Python write it; [] where it is none."""
    if not (text.startswith("[") and text.endswith("]")):
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    texts = isinstance(found, list) and all(isinstance(part, str) for part in found)
    return [plain(part) for part in found if part.strip()] if texts else []


def _missing(value: Any) -> bool:
    return value in (None, "", [], {}) or (isinstance(value, float) and math.isnan(value))


def _holds_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, Mapping) and bool(value.get("bytes")))


def _span(first: Any, heads: Mapping[str, str], row: Mapping[str, Any]) -> Listed | None:
    for names in FRAMES:
        if all(name in heads for name in names) and not any(name in heads for name in (*STARTS, *ENDS)):
            values = [first([name]) for name in names]
            if values == [None, None]:
                return None
            try:
                ends = [None if value is None else int(str(value)) for value in values]
            except ValueError:
                return Listed(problem=f"its frames {values[0]} to {values[1]} are no whole numbers")
            return Listed(start_frame=ends[0], end_frame=ends[1])
    units = [_unit(names, heads) for names in (STARTS, ENDS)]
    values = [first(STARTS), first(ENDS)]
    if values == [None, None]:
        pair = next((row[heads[name]] for name in PAIRED if name in heads), None)
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return None
        values = list(pair)
        first(PAIRED)
    try:
        start, end = (
            None if value is None else seconds_of(value) * unit for value, unit in zip(values, units, strict=True)
        )
    except ValueError as error:
        return Listed(problem=str(error))
    return Listed(start, end)


def _unit(names: list[str], heads: Mapping[str, str]) -> float:
    """Seconds of 1 in the column that is used."""
    used = next((name for name in names if name in heads), "")
    return 0.001 if used.endswith("_ms") else 1.0


def seconds_of(value: Any) -> float:
    """Seconds: a number, `83.5`, `1:23.5`, `00:01:23,500`. ValueError for what is neither."""
    found = None
    if isinstance(value, datetime.timedelta):
        found = value.total_seconds()
    elif isinstance(value, datetime.time):
        found = value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str):
        text = value.strip().removesuffix("s").strip()
        text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
        if clock := CLOCK.match(text):
            found = int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
        elif re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
            found = float(text)
    if found is None or not math.isfinite(found):
        raise ValueError(f"{value!r} is no time: write seconds or HH:MM:SS.mmm")
    return found


def plain(value: Any) -> Any:
    """A value as JSON, Parquet and MessagePack all can hold it: text without lone surrogates, integers of 64 bits (longer
    ones as text), null for NaN and infinity; what JSON does not know, as text."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(name)): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, bytes) and len(value) > MOST_BYTES:
        return f"{len(value)} bytes, not kept"
    return plain(str(value))


def _is_file_name(place: str) -> bool:
    try:
        return bool(place) and b"\0" not in os.fsencode(place)
    except UnicodeEncodeError:
        return False


def suffix_of(name: str | None) -> str:
    """The suffix of a held video's name; .mp4 where it has none that is one."""
    suffix = Path(name or "").suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ".mp4"
