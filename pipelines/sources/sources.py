"""The videos of a job's sources: files, folders, globs, and lists with captions, spans and other columns.

Every input becomes a video, once, or a refused input with its reason; both get a row in `videos/`. All rows of the same
video are merged: all captions in order, and each span.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.base.files import atomic_file
from curate.clip import Listed, Unit, Video
from pipelines.sources.entries import ADDRESS, PATHS, Entry, entries_of, is_path_column, json_safe, suffix_of
from pipelines.sources.folders import ALIAS, VIDEO_SUFFIXES, Refused, Search, SkippedFiles
from pipelines.sources.listed import bounds
from pipelines.sources.lists import LIST_SUFFIXES, BrokenRow, ListError, NoPaths, decoded, rows_of

HELD = "sources"  # folder of the dataset for videos contained in a Parquet file
SIDECAR_BYTES = 1 << 16
ENTRY = ": entry "  # between a list and the number of its row, in the path of a refused row
UNREAD = "caption file that cannot be read"
NO_METADATA = "metadata file that names no videos"


class InputError(Exception):
    """One line: the source, what is wrong with it, and the fix."""


@dataclass
class FoundVideos:
    """videos: in a fixed order, each file once. refused: inputs that cannot be searched or read, as failed units.

    lists, folders: absolute paths of what was read and searched.
    """

    videos: list[Video] = field(default_factory=list)
    refused: list[Unit] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    lists: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def accepts(self, path: str) -> bool:
        """Whether an input that was refused before (a folder, a link, or `LIST: entry 3`) was checked again and is accepted."""
        if any(unit.video.path == path for unit in self.refused):
            return False
        name, row, _ = path.rpartition(ENTRY)
        if row and (name in self.lists or os.path.exists(name)):
            return name in self.lists
        return any(Path(path).is_relative_to(folder) for folder in self.folders)


def find_videos(sources: Sequence[str], store: Path | None = None) -> FoundVideos:
    """All videos of the sources. A listed path that does not exist is included: it becomes a failed row.

    store: the dataset's folder: videos contained in a Parquet file are written to `store/sources/`, named by their content,
    so that clips can be cut later. Raises InputError.
    """
    finder = _Finder(store)
    for source in sources:
        finder.source(source)
    found = finder.found()
    if not found.videos and not found.refused:
        passed = found.skipped
        count = sum(passed.suffixes.values()) + sum(passed.others.values())
        raise InputError(
            f"no videos in {', '.join(sources)}"
            + (f" ({count} {'file' if count == 1 else 'files'} there skipped: {skipped_text(passed)})" if count else "")
            + ": name files, folders, globs, or a list (.txt, .jsonl, .json, .csv, .tsv, .parquet)"
        )
    return found


def skipped_text(passed: SkippedFiles) -> str:
    """What was skipped, by kind: `3 .txt, 1 hidden (._x.mp4)`."""
    parts = [f"{count} {suffix}" for suffix, count in sorted(passed.suffixes.items())]
    parts += [
        f"{count} {kind} ({'e.g. ' if count > 1 else ''}{os.path.basename(passed.examples[kind])!r})"
        for kind, count in sorted(passed.others.items())
    ]
    return ", ".join(parts)


class _Finder:
    """Collects the rows of every video, by the real path of its file."""

    def __init__(self, store: Path | None) -> None:
        self.store, self.search = store, Search(None if store is None else Path(store) / HELD)
        self.paths: dict[str, str] = {}  # real path -> the first name
        self.aliases: set[str] = set()
        self.folders: dict[str, str] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.refused: dict[str, Unit] = {}
        self.lists: set[str] = set()
        self.read: list[str] = []
        self.searched: list[str] = []

    def source(self, source: str) -> None:
        if os.path.isdir(source):
            self._folder(source)
        elif Path(source).suffix.lower() in LIST_SUFFIXES and os.path.isfile(source):
            self._list(Path(source))
        elif _is_there(source):
            self._add(source)
        elif ADDRESS.match(source):
            raise InputError(f"{source}: is an address, and Winnow reads files only: download it and name its path")
        else:
            self._glob(source)

    def found(self) -> FoundVideos:
        videos = [_video(path, self.entries.get(path, [])) for path in self.paths.values()]
        return FoundVideos(videos, list(self.refused.values()), self.search.skipped, self.read, self.searched)

    def _glob(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputError(f"{pattern}: no such file, folder or glob match: check the path")
        asked = Path(pattern).suffix.lower()  # for a pattern such as *.dat all matches are taken
        for match in matches:
            suffix = Path(match).suffix.lower()
            if os.path.isdir(match):
                self._folder(match)
            elif suffix in LIST_SUFFIXES and asked == suffix:
                self._list(Path(match))
            elif suffix in VIDEO_SUFFIXES or (asked and asked == suffix) or Path(pattern).name not in ("*", "**"):
                self._add(match)
            else:
                self.search.skipped.suffixes[suffix or "(no suffix)"] += 1

    def _folder(self, folder: str) -> None:
        self.searched.append(os.path.abspath(folder))
        for found in self.search(folder):
            if isinstance(found, Refused):
                self._refuse(found.path, found.reason, found.kind)
            elif found.kind == "metadata":
                self._list(Path(found.path), optional=True)
            else:
                self._add(found.path)
                for sidecar in found.sidecars:
                    self._sidecar(found.path, Path(sidecar))

    def _sidecar(self, video: str, path: Path) -> None:
        """v.txt is v.mp4's caption; v.json an object with it. Captions of several files are all kept."""
        try:
            if path.stat().st_size > SIDECAR_BYTES:
                raise ListError("too large for a caption")
            text = decoded(path.read_bytes()).strip()
            content = json.loads(text) if path.suffix == ".json" else {"caption": text}
        except (ListError, OSError, ValueError, RecursionError):
            self.search.skipped.add(UNREAD, str(path))
            return
        for entry in entries_of({**(content if isinstance(content, dict) else {"captions": content}), PATHS[0]: video}):
            if entry.problem:
                self.search.skipped.add(UNREAD, str(path))
                return
            if entry.span:
                entry.span.where = json_safe(path.name)
            self._add(video, entry)

    def _list(self, path: Path, optional: bool = False) -> None:
        """Add the rows of a list. An unusable row is a refused input; if all are, raise InputError.

        optional: it may be the metadata of a VideoFolder, of the files beside it; other files of that name are skipped.
        """
        if (real := os.path.realpath(path)) in self.lists:
            return
        self.lists.add(real)
        problems: list[tuple[int, Entry]] = []
        good = 0
        try:
            for number, row in enumerate(rows_of(path, is_path_column), 1):
                entries = [Entry(problem=row.reason)] if isinstance(row, BrokenRow) else entries_of(row)
                if entries[0].problem:
                    problems.append((number, entries[0]))
                    continue
                for entry in entries:
                    if entry.span:
                        entry.span.where = json_safe(f"{path.name}{ENTRY}{number}")
                    self._add(self._path_of(entry, path), entry)
                good += 1
        except ListError as error:
            if optional and isinstance(error, NoPaths):
                self.search.skipped.add(NO_METADATA, str(path))
                return
            raise InputError(f"{path}: {error}") from None
        if problems and not good:
            if optional:
                self.search.skipped.add(NO_METADATA, str(path))
                return
            number, entry = problems[0]
            more = f" (and so for all of its {len(problems)} entries)" if len(problems) > 1 else ""
            raise InputError(f"{path}: entry {number}: {entry.problem}{more}")
        self.read.append(os.path.abspath(path))
        for number, entry in problems:
            self._refuse(
                f"{os.path.abspath(path)}{ENTRY}{number}", f"list entry {number}: {entry.problem}", "entry", entry
            )

    def _path_of(self, entry: Entry, path: Path) -> str:
        if entry.held:
            return self._hold(entry, path)
        return os.path.join(path.parent, entry.path)

    def _hold(self, entry: Entry, path: Path) -> str:
        """Write the bytes of a video in a row to a file of the dataset, atomically."""
        if self.store is None:
            raise InputError(f"{path}: holds the videos themselves, which only `winnow annotate` can store")
        folder = Path(self.store) / HELD
        target = folder / f"{hashlib.sha256(entry.held).hexdigest()[:32]}{suffix_of(entry.path)}"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(target) as stream:
                stream.write(entry.held)
        entry.held = None
        return str(target)

    def _add(self, path: str, entry: Entry | None = None) -> None:
        path = os.path.abspath(path)
        first = self.paths.setdefault(self._real(path), path)
        if first != path and path not in self.aliases:
            self.aliases.add(path)
            self.search.skipped.add(ALIAS, path)
        if entry:
            self.entries.setdefault(first, []).append(entry)

    def _real(self, path: str) -> str:
        """The path with links resolved; folders are cached."""
        folder, name = os.path.split(path)
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        return os.path.realpath(path) if os.path.islink(path) else os.path.join(self.folders[folder], name)

    def _refuse(self, path: str, reason: str, kind: str, entry: Entry | None = None) -> None:
        listed = {"captions": entry.captions, "columns": entry.columns} if entry else {}
        self.refused.setdefault(path, Unit(Video(path, **listed), kind=kind).fail(json_safe(reason)))


def _video(path: str, entries: list[Entry]) -> Video:
    """One video, merged from its entries."""
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
    )


def _joined_span(entries: list[Entry]) -> Listed:
    """One span, merged from the rows that name it."""
    span = entries[0].span
    span.captions = [caption for entry in entries for caption in entry.captions]
    span.columns = _joined(entries)
    return span


def _joined(entries: list[Entry]) -> dict[str, Any]:
    """Merged columns of rows: the value if all that have one agree, else the list of values, null where a row has none."""
    names = dict.fromkeys(name for entry in entries for name in entry.columns)
    joined = {}
    for name in names:
        values = [entry.columns.get(name) for entry in entries]
        there = [value for value in values if value is not None]
        joined[name] = there[0] if all(value == there[0] for value in there) else values
    return joined


def _is_there(source: str) -> bool:
    """Whether it exists, or access is denied: then opening it gives the reason."""
    try:
        os.lstat(source)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
