"""Labels that a person gave to clips: good, bad, a note. DATASET/labels.jsonl, one line for each.

    {"clip_id": "...", "label": "good", "note": "sharp", "at": 1700000000.0}

Lines are only appended, under a lock; the last line of a clip counts, and a null label removes it. Incomplete lines (a full
disk, an editor) are skipped. In a `where` the columns are `label` and `label_note`, null for clips without a label.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from curate.base.sql import literal

NAME = "labels.jsonl"
LABELS = ("good", "bad")
COLUMNS = ("label", "label_note")
MAX_NOTE = 2000


class LabelError(Exception):
    """A label that cannot be stored. One line."""


@dataclass(frozen=True)
class Label:
    """label: "good", "bad" or None. note: free text or None."""

    label: str | None
    note: str | None


def append(root: Path, clip_id: str, label: str | None, note: str | None) -> Label:
    """Append a line and flush it to disk; safe for several processes at once. Raises LabelError."""
    if label is not None and label not in LABELS:
        raise LabelError(f"label {label!r}: choose good or bad, or none to take it back")
    note = _plain((note or "").strip()) or None
    if note and len(note) > MAX_NOTE:
        raise LabelError(f"note: {len(note)} characters; write at most {MAX_NOTE}")
    line = json.dumps({"clip_id": clip_id, "label": label, "note": note, "at": round(time.time(), 3)})
    file = None
    try:
        file = os.open(root / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        data = b"\n" * torn + line.encode() + b"\n"
        if os.write(file, data) != len(data):
            raise LabelError(f"{root / NAME}: the line could not be written completely: check the disk")
        os.fsync(file)
    except OSError as error:
        raise LabelError(f"{root / NAME}: {error.strerror}: check the disk and the folder's rights") from None
    finally:
        if file is not None:
            os.close(file)
    return Label(label, note)


def read(root: Path) -> dict[str, Label]:
    """Clip id -> its current label."""
    try:
        lines = (root / NAME).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found: dict[str, Label] = {}
    for line in lines:
        try:
            row = json.loads(line)
            clip_id, label, note = row["clip_id"], row.get("label"), row.get("note")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(clip_id, str) and label in (None, *LABELS) and (note is None or isinstance(note, str)):
            found[_plain(clip_id)] = Label(label, note and _plain(note))
    return {clip_id: label for clip_id, label in found.items() if label.label or label.note}


def digest(root: Path) -> str:
    """Of all current labels."""
    labels = sorted((key, value.label, value.note) for key, value in read(root).items())
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]


def labelled(clips: str, root: Path) -> str:
    """The relation `clips` with the columns of labels."""
    labels = read(root)
    if not labels:
        return f"(SELECT *, NULL::VARCHAR AS label, NULL::VARCHAR AS label_note FROM {clips})"
    rows = [{"clip_id": key, "label": value.label, "label_note": value.note} for key, value in labels.items()]
    kind = '[{"clip_id": "VARCHAR", "label": "VARCHAR", "label_note": "VARCHAR"}]'
    return f"(SELECT * FROM {clips} LEFT JOIN (SELECT unnest(from_json({literal(json.dumps(rows))}, '{kind}'), max_depth := 2)) USING (clip_id))"


def _plain(text: str) -> str:
    """Valid Unicode: JSON can hold lone surrogates, which tables cannot."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
