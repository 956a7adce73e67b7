"""Rows of a list parsed into entries: the video, its captions, its spans, and other columns."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from curate.base.store import storable
from curate.clip import Listed
from pipelines.sources.spans import PAIRED, missing, parsed_list, spans_of

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

MOST_BYTES = 1000  # limit of a binary value in another column
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass
class Entry:
    """A row's captions and columns of a video, or of one span of it.

    path: as written; None if the row contains the video itself (held), or no valid path. span: None for the whole video.
    problem: why the row cannot be used, or None.
    """

    path: str | None = None
    held: bytes | None = None
    captions: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    span: Listed | None = None
    problem: str | None = None


def is_path_column(head: str) -> bool:
    return normalized_name(head) in PATHS


def normalized_name(name: Any) -> str:
    """A column's name in lower case, with underscores for spaces and dashes."""
    return _normalized(str(name))


@lru_cache(maxsize=1024)
def _normalized(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lstrip("\ufeff")).strip("_").lower()


def entries_of(row: Mapping[str, Any]) -> list[Entry]:
    """One entry for each span of the row, and one for captions of the whole video; at least one.

    The first column with a known name for path, captions and spans is used; all others are kept unchanged.
    """
    heads, cells = _read(row)
    held = [head for head in PATHS if head in cells and _holds_bytes(cells[head])]
    place = next((head for head in held or PATHS if head in cells), None)
    name = heads.get(place)
    given, columns = Entry(), {}
    if place is not None:
        _place(given, cells[place], name, columns)
    else:
        given.problem = (
            f"names no video: one of the columns {', '.join(PATHS[:6])} is needed (found {', '.join(map(str, row))})"
        )
    entries = _without_path({other: value for other, value in row.items() if other != name})
    for entry in entries:
        entry.path, entry.held, entry.columns = given.path, given.held, columns | entry.columns
        entry.problem = given.problem or entry.problem
    bad = [entry for entry in entries if entry.problem]
    return bad[:1] or entries


def _without_path(row: Mapping[str, Any], within: bool = False) -> list[Entry]:
    """The entries of a row, without path. within: the row is an object in a cell, which cannot contain further ones."""
    heads, cells = _read(row)
    captioned = next((head for head in CAPTIONS if head in cells), None)
    spans, used = spans_of(cells)
    inner = None
    if not spans and not within:
        inner = next((head for head in (*CAPTIONS, *PAIRED) if head in cells and _of_spans(cells[head])), None)
    taken = [heads[head] for head in (captioned, inner, *used) if head]
    rest = {json_safe(str(name)): json_safe(value) for name, value in row.items() if name not in taken}
    columns = {name: value for name, value in rest.items() if value not in (None, "")}
    parts = _parts(cells[captioned]) if captioned and captioned != inner else []
    whole = [Entry(captions=[text for part in parts for text in part], columns=columns)]
    if inner:
        entries = [entry for part in _of_spans(cells[inner]) for entry in _without_path(part, within=True)]
        for entry in entries:
            entry.columns = columns | entry.columns
        return [*entries, *(whole if whole[0].captions else [])]
    if not spans:
        return whole
    if len(spans) == 1:
        parts = [whole[0].captions]
    elif len(parts) < 2:  # one caption, of the whole video
        entries = [Entry(columns=columns, span=span) for span in spans]
        return [*entries, *([Entry(captions=parts[0])] if parts and parts[0] else [])]
    if len(parts) != len(spans):
        problem = f"names {len(spans)} spans and {len(parts)} captions: write one caption for each span, or one for all"
        return [Entry(captions=whole[0].captions, columns=columns, problem=problem)]
    return [Entry(captions=texts, columns=dict(columns), span=span) for texts, span in zip(parts, spans, strict=True)]


def _read(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Normalised name -> first column with it, and normalised name -> its value, if not empty."""
    heads: dict[str, str] = {}
    for name in row:
        heads.setdefault(normalized_name(name), name)
    return heads, {head: row[name] for head, name in heads.items() if not missing(row[name])}


def _of_spans(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a cell, if at least one of them names a span: `[{"start": 0, "end": 5, "caption": "..."}]`."""
    value = parsed_list(value) if isinstance(value, str) else value
    parts = [value] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    objects = [part if isinstance(part, Mapping) else {"caption": part} for part in parts]
    return objects if any(spans_of(_read(part)[1])[0] for part in objects) else []


def _place(entry: Entry, value: Any, name: str, columns: dict[str, Any]) -> None:
    """Set the entry's video: its bytes, also as the hub's struct {bytes, path}, or its path."""
    if isinstance(value, Mapping):
        entry.held, value = value.get("bytes"), value.get("path")
        if entry.held and value:
            columns[json_safe(str(name))] = json_safe(str(value))
    elif isinstance(value, bytes):
        entry.held, value = value, None
    if entry.held:
        entry.path = str(value) if value else None
        return
    if missing(value):
        entry.problem = f"names no video: the path in {json_safe(str(name))} is empty"
        return
    place = str(value).strip()
    if place.lower().startswith("file://"):
        place = unquote(urlsplit(place).path)
    if ADDRESS.match(place) and not storable(place):
        entry.problem = (
            f"{json_safe(place)} is an address of no storage that Winnow knows: download it and name its path"
        )
    elif not _is_file_name(place):
        entry.problem = f"{place!r} cannot be a file name: correct the entry or take it out"
    else:
        entry.path = place


def _parts(value: Any) -> list[list[str]]:
    """The captions of each part of a cell; the parts of a list are its items."""
    value = _texts(value) if isinstance(value, str) else value
    return [list(_captions(part)) for part in (value if isinstance(value, list | tuple) else [value])]


def _captions(value: Any) -> Iterator[str]:
    """Each caption in a cell: a string, a list of them, or a list of objects with one each."""
    value = _texts(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple):
        for part in value:
            yield from _captions(part)
    elif isinstance(value, Mapping):
        heads = {normalized_name(name): name for name in value}
        yield from _captions(next((value[heads[name]] for name in CAPTIONS if name in heads), None))
    elif not missing(value) and str(value).strip():
        yield json_safe(str(value))


def _texts(text: str) -> Any:
    """The list of strings in a cell, in JSON or Python syntax; the string itself if it is none."""
    found = parsed_list(text) if text.lstrip().startswith("[") else None
    return text if found is None or not _only_texts(found) else found


def _only_texts(value: Any, depth: int = 2) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(_only_texts(part, depth - 1) for part in value)
    return value is None or isinstance(value, str)


def _holds_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, Mapping) and bool(value.get("bytes")))


def json_safe(value: Any) -> Any:
    """A value for JSON, Parquet and MessagePack: strings without lone surrogates, 64-bit integers (larger ones as strings),
    null for NaN and infinity; other types as strings."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {json_safe(str(name)): json_safe(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(part) for part in value]
    if isinstance(value, bytes) and len(value) > MOST_BYTES:
        return f"{len(value)} bytes, not kept"
    return json_safe(str(value))


def _is_file_name(place: str) -> bool:
    try:
        return bool(place) and b"\0" not in os.fsencode(place)
    except UnicodeEncodeError:
        return False


def suffix_of(name: str | None) -> str:
    """The suffix of a contained video's name; .mp4 if it has no valid one."""
    suffix = Path(name or "").suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ".mp4"
