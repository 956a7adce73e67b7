"""Labels that a person gave to clips: good, bad, a note. DATASET/labels.jsonl, one line for each.

    {"clip_id": "...", "label": "good", "note": "sharp", "at": 1700000000.0}

The last line of a clip counts, and a null label removes it. On a disk lines are only appended, under a lock; on object storage,
which cannot append, the object is replaced on condition that nobody else did meanwhile, and lines that no longer count are left
out of it. Incomplete lines (a full disk, an editor) are skipped. In a `where` the columns are `label` and `label_note`, null for
clips without a label.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.base.scratch import process_scratch
from curate.base.sql import literal
from curate.base.store import Changed, Store, StoreError, store_of

NAME = "labels.jsonl"
LABELS = ("good", "bad")
COLUMNS = ("label", "label_note")
MAX_NOTE = 2000
TRIES = 20  # of replacing the object, when others write it too
LONG = 1 << 20  # bytes of an object, from which on lines that no longer count are left out


class LabelError(Exception):
    """A label that cannot be stored. One line."""


@dataclass(frozen=True)
class Label:
    """label: "good", "bad" or None. note: free text or None."""

    label: str | None
    note: str | None


def append(place: str | os.PathLike[str] | Store, clip_id: str, label: str | None, note: str | None) -> Label:
    """Append a line, flushed to disk or put whole; safe for several processes at once. Raises LabelError."""
    if label is not None and label not in LABELS:
        raise LabelError(f"label {label!r}: choose good or bad, or none to take it back")
    note = _plain((note or "").strip()) or None
    if note and len(note) > MAX_NOTE:
        raise LabelError(f"note: {len(note)} characters; write at most {MAX_NOTE}")
    line = json.dumps({"clip_id": clip_id, "label": label, "note": note, "at": round(time.time(), 3)}).encode()
    store = store_of(place)
    if store.folder is None:
        _replace(store, line)
    else:
        _append(store.folder / NAME, line)
    return Label(label, note)


def read(place: str | os.PathLike[str] | Store) -> dict[str, Label]:
    """Clip id -> its current label."""
    found: dict[str, Label] = {}
    for line in _lines(store_of(place)):
        try:
            row = json.loads(line)
            clip_id, label, note = row["clip_id"], row.get("label"), row.get("note")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(clip_id, str) and label in (None, *LABELS) and (note is None or isinstance(note, str)):
            found[_plain(clip_id)] = Label(label, note and _plain(note))
    return {clip_id: label for clip_id, label in found.items() if label.label or label.note}


def digest(place: str | os.PathLike[str] | Store) -> str:
    """Of all current labels."""
    labels = sorted((key, value.label, value.note) for key, value in read(place).items())
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]


def labelled(clips: str, place: str | os.PathLike[str] | Store) -> str:
    """The relation `clips` with the columns of labels, which DuckDB reads from a file of this process's own."""
    labels = read(place)
    if not labels:
        return f"(SELECT *, NULL::VARCHAR AS label, NULL::VARCHAR AS label_note FROM {clips})"
    rows = tuple((key, value.label, value.note) for key, value in sorted(labels.items()))
    return f"(SELECT * FROM {clips} LEFT JOIN read_parquet({literal(_written(rows))}) USING (clip_id))"


def _append(path: Path, line: bytes) -> None:
    file = None
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        data = b"\n" * torn + line + b"\n"
        if os.write(file, data) != len(data):
            raise LabelError(f"{path}: the line could not be written completely: check the disk")
        os.fsync(file)
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror}: check the disk and the folder's rights") from None
    finally:
        if file is not None:
            os.close(file)


def _replace(store: Store, line: bytes) -> None:
    """The object with one line more, if it is still the one that was read; else again."""
    try:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(0.02 * attempt)
            try:
                version = store.head(NAME).version
                before = store.read(NAME)
                if store.head(NAME).version != version:
                    continue
                if before and not before.endswith(b"\n"):
                    before += b"\n"
                if len(before) > LONG:
                    before = _current(before)
                store.replace(NAME, before + line + b"\n", version)
                return
            except FileNotFoundError:
                if store.put(NAME, line + b"\n"):
                    return
            except Changed:
                continue
    except StoreError as error:
        raise LabelError(str(error)) from None
    raise LabelError(f"{store.where(NAME)}: others write it all the time: try again")


def _current(text: bytes) -> bytes:
    """The last line of each clip, in order; lines that are none stay."""
    kept: dict[object, bytes] = {}
    for number, line in enumerate(text.split(b"\n")):
        try:
            key = str(json.loads(line)["clip_id"])
        except (ValueError, KeyError, TypeError):
            key = number  # type: ignore[assignment]
        kept.pop(key, None)
        if line:
            kept[key] = line
    return b"".join(line + b"\n" for line in kept.values())


def _lines(store: Store) -> list[bytes]:
    try:
        return store.read(NAME).split(b"\n")
    except FileNotFoundError:
        return []


@lru_cache(maxsize=4)
def _written(rows: tuple[tuple[str, str | None, str | None], ...]) -> str:
    """A Parquet file of labels: a million of them are not a text of SQL."""
    columns = zip(*rows, strict=True)
    table = pa.table(
        {name: pa.array(found, pa.string()) for name, found in zip(("clip_id", *COLUMNS), columns, strict=True)}
    )
    path = f"{process_scratch().folder}/{hashlib.sha256(repr(rows).encode()).hexdigest()[:16]}.parquet"
    pq.write_table(table, path)
    return path


def _plain(text: str) -> str:
    """Valid Unicode: JSON can hold lone surrogates, which tables cannot."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
