"""All that sources say of one video, made into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.clip import Listed, Video
from pipelines.sources.entries import Entry
from pipelines.sources.listed import bounds

__all__ = ["merged"]


def merged(path: str, entries: Sequence[Entry], stamp: dict[str, Any]) -> Video:
    """One video, from its entries. stamp: what a listing says of it."""
    of_video = [entry for entry in entries if entry.span is None]
    spans: dict[tuple, list[Entry]] = {}
    for entry in entries:
        if span := entry.span:
            spans.setdefault(bounds(span), []).append(entry)
    return Video(
        path,
        captions=[caption for entry in of_video for caption in entry.captions],
        columns=_joined([entry for entry in of_video if entry.columns or entry.captions]),
        spans=[_joined_span(same) for same in spans.values()],
        stamp=stamp,
    )


def _joined_span(entries: Sequence[Entry]) -> Listed:
    """One span, merged from the rows that name it."""
    span = entries[0].span
    assert span is not None
    span.captions = [caption for entry in entries for caption in entry.captions]
    span.columns = _joined(entries)
    return span


def _joined(entries: Sequence[Entry]) -> dict[str, Any]:
    """Merged columns of rows: the value if all that have one agree, else the list of values, null where a row has none."""
    names = dict.fromkeys(name for entry in entries for name in entry.columns)
    joined = {}
    for name in names:
        values = [entry.columns.get(name) for entry in entries]
        there = [value for value in values if value is not None]
        joined[name] = there[0] if all(value == there[0] for value in there) else values
    return joined
