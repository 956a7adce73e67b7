"""From what the user named to a list of videos: files, folders, globs, and lists that carry captions and other columns."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.clip import Video

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".gif",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".ts",
        ".m2ts",
        ".mts",
        ".wmv",
        ".flv",
        ".f4v",
        ".3gp",
        ".3g2",
        ".ogv",
        ".vob",
        ".asf",
        ".mxf",
        ".y4m",
        ".m2v",
        ".264",
        ".h264",
        ".265",
        ".hevc",
        ".ivf",
        ".rm",
        ".rmvb",
        ".dv",
    ]
)
LIST_SUFFIXES = frozenset([".txt", ".jsonl", ".csv", ".parquet"])
PATH_COLUMNS = ("path", "video_path", "video", "file", "filename", "file_name")
CAPTION_COLUMNS = ("caption", "text")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class SourceError(Exception):
    """One line: the source, what is wrong with it, and the mend."""


@dataclass
class Found:
    """videos: in a fixed order, each path once. passed_over: files in folders that are not videos by name, by suffix."""

    videos: list[Video] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def find_videos(sources: Sequence[str]) -> Found:
    """All videos that the sources name. A path that is listed but not there stays in: it ends as a failed row."""
    found, seen = Found(), {}
    for source in sources:
        for video in _of_source(source, found.passed_over):
            if video.path not in seen:
                seen[video.path] = video
                found.videos.append(video)
    if not found.videos:
        passed = f" ({sum(found.passed_over.values())} files there are not videos by name)" if found.passed_over else ""
        raise SourceError(
            f"no videos in {', '.join(sources)}{passed}: name files, folders, globs, or a .txt, .jsonl, .csv or .parquet list"
        )
    return found


def _of_source(source: str, passed_over: Counter[str]) -> Iterator[Video]:
    path = Path(source)
    if path.is_dir():
        yield from _of_folder(path, passed_over)
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        yield from _of_list(path)
    elif os.path.lexists(source):
        yield Video(_absolute(source))
    else:
        matches = sorted(glob.glob(source, recursive=True))
        if not matches:
            raise SourceError(f"{source}: no such file, folder or glob match: check the path")
        for match in matches:
            if os.path.isdir(match):
                yield from _of_folder(Path(match), passed_over)
            else:
                yield Video(_absolute(match))


def _of_folder(folder: Path, passed_over: Counter[str]) -> Iterator[Video]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        # a directory that is named like a video is an input too: it ends as a row that says so
        for name in sorted(files + [name for name in folders if Path(name).suffix.lower() in VIDEO_SUFFIXES]):
            suffix = Path(name).suffix.lower()
            if suffix in VIDEO_SUFFIXES:
                yield Video(_absolute(os.path.join(root, name)))
            else:
                passed_over[suffix or "(no suffix)"] += 1


def _of_list(path: Path) -> Iterator[Video]:
    try:
        rows = list(_rows(path))
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read as a {path.suffix} list: {error}") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise SourceError(f"{path}: entry {number} is not an object with a path")
        key = next((name for name in PATH_COLUMNS if row.get(name)), None)
        if key is None:
            raise SourceError(
                f"{path}: entry {number} names no video: one of the columns {', '.join(PATH_COLUMNS)} is needed (found {', '.join(map(str, row))})"
            )
        caption = next((name for name in CAPTION_COLUMNS if row.get(name)), None)
        place = str(row[key])
        if not _is_file_name(place):
            raise SourceError(
                f"{path}: entry {number}: {place!r} cannot be a file name: correct the entry or take it out"
            )
        columns = {name: plain(value) for name, value in row.items() if name not in (key, caption)}
        yield Video(
            _absolute(place if os.path.isabs(place) else os.path.join(path.parent, place)),
            caption=plain(str(row[caption])) if caption else None,
            columns={plain(name): value for name, value in columns.items() if value not in (None, "")},
        )


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
    return plain(str(value))


def _is_file_name(place: str) -> bool:
    try:
        return b"\0" not in os.fsencode(place)
    except UnicodeEncodeError:
        return False


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        table = pq.read_table(path)
        yield from table.to_pylist()
    elif suffix == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                if None in row:
                    raise SourceError(
                        f"{path}: line {reader.line_num} has {len(row[None])} more fields than the header: "
                        "put a field that has a comma in it in double quotes"
                    )
                yield row
    else:
        for line in path.read_text(encoding="utf-8-sig").split("\n"):
            if line.strip() and suffix == ".jsonl":
                yield json.loads(line)
            elif line.strip() and not line.startswith("#"):
                yield {"path": line.strip()}


def _absolute(path: str) -> str:
    return os.path.abspath(path)
