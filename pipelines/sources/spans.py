"""Parses times and spans of lists: two columns, one with a pair, or one with a list of pairs; as values or text."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from curate.clip import Listed

__all__ = ["PAIRED", "missing", "parsed_list", "seconds_of", "spans_of"]

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
START_FRAMES, END_FRAMES = ["start_frame", "frame_start"], ["end_frame", "frame_end"]
PAIRED = ["span", "spans", "timestamp", "timestamps", "segment", "segments"]  # [start, end], or several, in one column

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)$")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
RANGE = re.compile(r"(\d+(?::\d+)+(?:[.,]\d*)?)\s*(?:-->|-|–|—|~|to)\s*(\d+(?::\d+)+(?:[.,]\d*)?)")
TOKEN = re.compile(r"""\s*(?:([\[(])|([\])])|(,)|('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([^\s,\[\]()'"]+))""", re.DOTALL)
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\n": "", "\\": "\\", "'": "'", '"': '"'}
DEEPEST = 3  # lists within lists


def spans_of(cells: Mapping[str, Any]) -> tuple[list[Listed], list[str]]:
    """The spans of a row, and the names of the columns that they come from. Invalid spans have `problem` set.

    cells: by normalised name, without empty ones. Times take precedence over frames, two columns over one with pairs. A
    column with a name for pairs but other values ("timestamp": when it was uploaded) is ignored.
    """
    for heads, read in (((STARTS, ENDS), _of_times), ((START_FRAMES, END_FRAMES), _of_frames)):
        used = [next((head for head in side if head in cells), None) for side in heads]
        if used != [None, None]:
            values = [None if head is None else _list_or_value(cells[head]) for head in used]
            return [read(pair, used) for pair in _rows(values)], [head for head in used if head]
    for head in PAIRED:
        if head in cells and (pairs := _pairs(cells[head])):
            return [_of_times(pair, [head, head]) for pair in pairs], [head]
    return [], []


def missing(value: Any) -> bool:
    """Whether a cell, or an item of a list, is empty."""
    return value is None or value in ("", [], {}) or (isinstance(value, float) and math.isnan(value))


def _rows(values: list[Any]) -> list[Sequence[Any]]:
    """Start and end of each span, from two cells that hold one time or frame each, or lists of them."""
    if not any(isinstance(value, list | tuple) for value in values):
        return [values]
    count = max(len(value) for value in values if isinstance(value, list | tuple))
    columns = [[None] * count if value is None else value for value in values]
    if any(not isinstance(column, list | tuple) or len(column) != count for column in columns):
        return [values]
    return list(zip(*columns, strict=True))


def _pairs(value: Any) -> list[Any]:
    """[start, end] of each span in a cell; [] if it holds none. Items that are no pair are returned unchanged."""
    value = _list_or_value(value)
    if isinstance(value, str) and (found := RANGE.fullmatch(value.strip())):
        return [list(found.groups())]
    if _is_pair(value):
        return [value]
    if isinstance(value, list | tuple) and any(isinstance(part, list | tuple) for part in value):
        return list(value)
    return []


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and not any(isinstance(part, list | tuple | Mapping) for part in value)
    )


def _list_or_value(value: Any) -> Any:
    found = parsed_list(value, clocks=True) if isinstance(value, str) else None
    return value if found is None else found


def _of_times(pair: Any, heads: Sequence[str | None]) -> Listed:
    if not _is_pair(pair):
        return Listed(problem=f"{pair!r} is no span: write [start, end]")
    try:
        start, end = (
            None if missing(value) else seconds_of(value) * (0.001 if (head or "").endswith("_ms") else 1.0)
            for value, head in zip(pair, heads, strict=True)
        )
    except ValueError as error:
        return Listed(problem=str(error))
    return Listed(start, end)


def _of_frames(pair: Any, heads: Sequence[str | None]) -> Listed:
    try:
        start, end = (None if missing(value) else _integer(value) for value in pair)
    except (ValueError, TypeError):
        return Listed(problem=f"its frames {pair[0]} to {pair[1]} are no whole numbers")
    return Listed(start_frame=start, end_frame=end)


def _integer(value: Any) -> int:
    """The integer of 10, "10" or 10.0 (tables with empty cells store floats). Raises ValueError for others."""
    if not isinstance(value, float) and not NUMBER.fullmatch(str(value).strip()):
        raise ValueError(value)
    number = float(value)
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def seconds_of(value: Any) -> float:
    """Seconds of a number, `83.5`, `1:23.5` or `00:01:23,500`. Raises ValueError for others."""
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
        elif NUMBER.fullmatch(text):
            found = float(text)
    if found is None or not math.isfinite(found):
        raise ValueError(f"{value!r} is no time: write seconds or HH:MM:SS.mmm")
    return found


def parsed_list(text: str, clocks: bool = False) -> list[Any] | None:
    """The list in a string, in the syntax of JSON, Python or NumPy; None if it is none.

    Items are quoted strings, numbers, None and lists. clocks: also unquoted times such as 0:00:05.13.
    """
    text = text.strip()
    if not (text.startswith(("[", "(")) and text.endswith(("]", ")"))):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _parsed(text, clocks)
    return found if isinstance(found, list) else None


def _parsed(text: str, clocks: bool) -> list[Any] | None:
    top: list[Any] = []
    stack, at, comma = [top], 0, False  # comma: one may follow here
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None or (at and len(stack) == 1):
            return None
        at = token.end()
        opened, closed, separated, quoted, word = token.groups()
        if opened:
            if len(stack) > DEEPEST:
                return None
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif closed:
            stack.pop()
        elif separated:
            if not comma:
                return None
        else:
            try:
                stack[-1].append(_unquoted(quoted[1:-1]) if quoted else _word(word, clocks))
            except ValueError:
                return None
        comma = not (opened or separated)
    return top[0] if len(stack) == 1 else None


def _word(word: str, clocks: bool) -> Any:
    if NUMBER.fullmatch(word):
        return float(word)
    if word in ("None", "null", "nan", "NaN"):
        return None
    if clocks and CLOCK.match(word):
        return word
    raise ValueError(word)


def _unquoted(text: str) -> str:
    def char(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else ESCAPED.get(code, found[0])

    return ESCAPE.sub(char, text)
