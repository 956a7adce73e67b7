"""The videos of sources as a stream, in a fixed order, whatever their number.

Lists are read first, to disk, for any row may say something of a video that another source names. Folders are searched as
the stream is read. A video that a list or the user names, and that lies in a folder that is searched later, waits for that
search, which knows the captions beside it; it keeps its first name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from curate.base.store import Store, is_remote, shown, store_of
from curate.base.store.files import opened
from curate.clip import Unit, Video
from curate.video.identity import is_gone
from pipelines.sources.entries import PATHS, Entry, entries_of, is_path_column, json_safe, suffix_of
from pipelines.sources.folders import ALIAS, FoundFile, Refused, Search, SkippedFiles
from pipelines.sources.lists import BrokenRow, ListError, NoPaths, decoded, rows_of
from pipelines.sources.mentions import Mention, Mentions, key_of
from pipelines.sources.merging import merged
from pipelines.sources.named import InputError, Place, absolute, beside, places_of, real_path, within
from pipelines.sources.objects import search_objects

__all__ = ["ENTRY", "HELD", "InputError", "SourceStream"]

HELD = "sources"  # folder of the dataset for videos contained in a Parquet file
SIDECAR_BYTES = 1 << 16
ENTRY = ": entry "  # between a list and the number of its row, in the path of a refused row
UNREAD = "caption file that cannot be read"
NO_METADATA = "metadata file that names no videos"
LOG = logging.getLogger("winnow")
TOO_LATE = "row of a metadata file for a video that was found before it"


class SourceStream:
    """Every video of the sources, once, and every refused input as a failed unit, in a fixed order. Iterate once.

    store: the dataset's folder or URL: videos contained in a Parquet file are written to its `sources/`, named by their
    content, so that clips can be cut later: not before `hold`, which wants the dataset's lock. What is wrong with a source as
    a whole is raised as InputError before the first item; a stream without any item ends with InputError. `close` (or `with`) deletes its temporary files.
    videos, refused: how many were given so far. Complete after the last item: skipped; lists, folders: absolute paths, or
    URLs, of what was read and searched; `accepts`.
    """

    def __init__(self, sources: Sequence[str], store: str | os.PathLike[str] | Store | None = None) -> None:
        self.sources, self.store = list(sources), None if store is None else store_of(store)
        self.videos = self.refused = 0
        self.skipped = SkippedFiles()
        self.lists: list[str] = []
        self.folders: list[str] = []
        self.mentions = Mentions()
        held = None if self.store is None or self.store.folder is None else self.store.folder / HELD
        self._search = Search(held, self.skipped)
        self._read: set[str] = set()  # real paths of lists
        self._holding = False
        self._to_hold: dict[str, None] = {}  # lists that hold videos, read before `hold`
        self._there: dict[str, bool] = {}  # lists that were not read
        self._told = False

    def __enter__(self) -> SourceStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the temporary files."""
        self.mentions.close()

    def __iter__(self) -> Iterator[Video | Unit]:
        for item in self._items():
            if isinstance(item, Unit):
                if not self.mentions.first_time("refused", item.video.path):
                    continue
                self.refused += 1
            else:
                self.videos += 1
            yield item
        if not self.videos and not self.refused:
            raise InputError(nothing_found(self.sources, self.skipped))

    def accepts(self, path: str) -> bool:
        """Whether an input that was refused before (a folder, a link, or `LIST: entry 3`) was checked again and is accepted."""
        if self.mentions.known("refused", path):
            return False
        name, row, _ = path.rpartition(ENTRY)
        if row and (name in self.lists or self._is_there(name)):
            return name in self.lists
        return any(within(path, folder) for folder in self.folders)

    def _is_there(self, name: str) -> bool:
        if name not in self._there:
            self._there[name] = not is_gone(name)
        return self._there[name]

    def hold(self) -> None:
        """Write the videos that lists contain to the dataset: of the lists read so far, and from now on of each as it is read.

        Call it with the dataset's lock held. Raises DiskError, StoreError."""
        self._holding = True
        for path in self._to_hold:
            try:
                for row in rows_of(path, is_path_column):
                    for entry in () if isinstance(row, BrokenRow) else entries_of(row):
                        if entry.held and not entry.problem:
                            self._hold(entry, path)
            except ListError as error:
                raise InputError(f"{shown(path)}: {error}") from None
        self._to_hold = {}

    # --- in order

    def _items(self) -> Iterator[Video | Unit]:
        places = places_of(self.sources, self.skipped)
        for place in places:
            place.first = self.mentions.count
            if place.kind == "list":
                self._list(place.path)
            elif place.kind == "file":
                self._tell_of_secrets(place.path)
                self.mentions.add(key_of(real_path(place.path)), absolute(place.path), None)
            place.last = self.mentions.count
        waiting = [place for place in places if place.kind == "folder"]
        waited = False
        for place in places:
            if place.kind == "folder":
                waiting.remove(place)
                yield from self._folder(place)
            else:
                for mention in self.mentions.between(place.first, place.last):
                    if waiting and mention.key and _waits(mention, waiting):
                        waited = True
                    else:
                        yield from self._mentioned(mention)
        if waited:
            for at, place in enumerate(places):
                later = [other for other in places[at:] if other.kind == "folder"]
                for mention in (
                    self.mentions.between(place.first, place.last) if later and place.kind != "folder" else ()
                ):
                    if mention.key and _waits(mention, later):
                        yield from self._mentioned(mention)

    def _mentioned(self, mention: Mention) -> Iterator[Video | Unit]:
        """The video of a mention, if this is its first one and no search has given it."""
        if isinstance(mention.entry, Unit):
            yield mention.entry
            return
        same = self.mentions.of(mention.key)
        given = self.mentions.given(mention.key)
        if same[0].n == mention.n and given is None:
            yield merged(same[0].path, _entries(same), {})
        else:
            self._alias(mention.path, given or same[0].path)

    def _folder(self, place: Place) -> Iterator[Video | Unit]:
        self.folders.append(absolute(place.path))
        root, first = real_path(place.path), self.mentions.count
        if is_remote(place.path):
            own = None if self.store is None else f"{self.store.url}/{HELD}"
            found: Iterator[FoundFile | Refused] = search_objects(store_of(root), self.skipped, own)
        else:
            found = self._search(place.path)
        for item in found:
            if isinstance(item, Refused):
                yield Unit(Video(item.path), kind=item.kind).fail(json_safe(item.reason))
            elif item.kind == "metadata":
                self._metadata(item.path, place, root)
            else:
                yield from self._found(item, place, root)
        for mention in self.mentions.between(first, self.mentions.count):  # metadata of what the search has not found
            if mention.key is None or self.mentions.given(mention.key) is None:
                yield from self._mentioned(mention)

    def _found(self, item: FoundFile, place: Place, root: str) -> Iterator[Video]:
        """A video that a search has found, unless it was given before."""
        path = absolute(item.path)
        real = real_path(path)
        key = key_of(real)
        before = self.mentions.given(key)
        same = self.mentions.of(key)
        if before is None and self._is_given(same, real, place, root):
            before = same[0].path
        if before is not None:
            self._alias(path, before)
            for sidecar in item.sidecars if before == path else ():
                self._sidecar(path, sidecar)
            return
        first = same[0].path if same and same[0].n < place.first else path
        self._alias(path, first)
        self.mentions.give(key, first)
        beside_it = [entry for sidecar in item.sidecars for entry in self._sidecar(path, sidecar)]
        earlier = [mention for mention in same if mention.n < place.first]
        later = [mention for mention in same if mention.n >= place.first]
        yield merged(first, [*_entries(earlier), *beside_it, *_entries(later)], _stamp(item))

    @staticmethod
    def _is_given(same: Sequence[Mention], real: str, place: Place, root: str) -> bool:
        """Whether a list before this folder named a video, and it did not wait for the search."""
        return bool(same) and same[0].n < place.first and not within(real, root)

    def _metadata(self, path: str, place: Place, root: str) -> None:
        first = self.mentions.count
        self._list(path, optional=True)
        for mention in self.mentions.between(first, self.mentions.count):
            if mention.key is not None:
                same = self.mentions.of(mention.key)
                late = self._is_given(same, real_path(mention.path), place, root)
                if late or self.mentions.given(mention.key) is not None:
                    self.skipped.add(TOO_LATE, f"{path}: {mention.path}")

    def _alias(self, path: str, first: str) -> None:
        if path != first and self.mentions.first_time("alias", path):
            self.skipped.add(ALIAS, path)

    # --- lists

    def _sidecar(self, video: str, path: str) -> list[Entry]:
        """v.txt is v.mp4's caption; v.json an object with it. Captions of several files are all kept."""
        try:
            with opened(path) as stream:
                data = stream.read(SIDECAR_BYTES + 1)
            if len(data) > SIDECAR_BYTES:
                raise ListError("too large for a caption")
            text = decoded(data).strip()
            content = json.loads(text) if path.endswith(".json") else {"caption": text}
        except (ListError, OSError, ValueError, RecursionError):
            self.skipped.add(UNREAD, path)
            return []
        entries = entries_of({**(content if isinstance(content, dict) else {"captions": content}), PATHS[0]: video})
        if any(entry.problem for entry in entries):
            self.skipped.add(UNREAD, path)
            return []
        for entry in entries:
            if entry.span:
                entry.span.where = json_safe(os.path.basename(path))
        return entries

    def _list(self, path: str, optional: bool = False) -> None:
        """Note the rows of a list. An unusable row is a refused input; if all are, raise InputError.

        optional: it may be the metadata of a VideoFolder, of the files beside it; other files of that name are skipped.
        """
        if (real := real_path(path)) in self._read:
            return
        self._read.add(real)
        good, bad = 0, 0
        first: tuple[int, str | None] = 0, None
        try:
            for number, row in enumerate(rows_of(path, is_path_column), 1):
                entries = [Entry(problem=row.reason)] if isinstance(row, BrokenRow) else entries_of(row)
                if entries[0].problem:
                    first, bad = first if bad else (number, entries[0].problem), bad + 1
                    if good or bad < 1000:  # else nothing of it is used, most likely
                        self._refuse_row(path, number, entries[0])
                    continue
                for entry in entries:
                    if entry.span:
                        entry.span.where = json_safe(f"{os.path.basename(path)}{ENTRY}{number}")
                    video = self._hold(entry, path) if entry.held else beside(path, entry.path or "")
                    self._tell_of_secrets(video)
                    self.mentions.add(key_of(real_path(video)), video, entry)
                good += 1
        except ListError as error:
            if optional and isinstance(error, NoPaths):
                self.skipped.add(NO_METADATA, path)
                return
            raise InputError(f"{shown(path)}: {error}") from None
        if bad and not good:
            if optional:
                self.skipped.add(NO_METADATA, path)
                return
            number, problem = first
            more = f" (and so for all of its {bad} entries)" if bad > 1 else ""
            raise InputError(f"{shown(path)}: entry {number}: {problem}{more}")
        self.lists.append(absolute(path))

    def _tell_of_secrets(self, path: str) -> None:
        if not self._told and shown(path) != path:
            self._told = True
            LOG.warning(
                "%s: its address has a query or a password, which the dataset records in video_path, as it cannot be read "
                "without: if that is a secret, use s3://, gs:// or az:// with credentials in the environment",
                shown(path),
            )

    def _refuse_row(self, path: str, number: int, entry: Entry) -> None:
        video = Video(f"{absolute(path)}{ENTRY}{number}", captions=entry.captions, columns=entry.columns)
        reason = f"list entry {number}: {entry.problem}"
        self.mentions.refuse(Unit(video, kind="entry").fail(json_safe(reason)))

    def _hold(self, entry: Entry, path: str) -> str:
        """Write the bytes of a video in a row to an object of the dataset."""
        if self.store is None:
            raise InputError(f"{shown(path)}: holds the videos themselves, which only `winnow annotate` can store")
        held, entry.held = entry.held or b"", None
        name = f"{HELD}/{hashlib.sha256(held).hexdigest()[:32]}{suffix_of(entry.path)}"
        if self._holding:
            self.store.put(name, held)
        else:
            self._to_hold[path] = None
        return self.store.where(name)


def nothing_found(sources: Sequence[str], passed: SkippedFiles) -> str:
    count = sum(passed.suffixes.values()) + sum(passed.others.values())
    return (
        f"no videos in {', '.join(map(shown, sources))}"
        + (f" ({count} {'file' if count == 1 else 'files'} there skipped: {skipped_text(passed)})" if count else "")
        + ": name files, folders, globs, or a list (.txt, .jsonl, .json, .csv, .tsv, .parquet)"
    )


def skipped_text(passed: SkippedFiles) -> str:
    """What was skipped, by kind: `3 .txt, 1 hidden (._x.mp4)`."""
    parts = [f"{count} {suffix}" for suffix, count in sorted(passed.suffixes.items())]
    parts += [
        f"{count} {kind} ({'e.g. ' if count > 1 else ''}{os.path.basename(passed.examples[kind])!r})"
        for kind, count in sorted(passed.others.items())
    ]
    return ", ".join(parts)


def _waits(mention: Mention, folders: Sequence[Place]) -> bool:
    real = real_path(mention.path)
    return any(within(real, real_path(folder.path)) for folder in folders)


def _entries(mentions: Sequence[Mention]) -> list[Entry]:
    return [mention.entry for mention in mentions if isinstance(mention.entry, Entry)]


def _stamp(item: FoundFile) -> dict[str, Any]:
    entry = item.entry
    return {} if entry is None else {"bytes": entry.bytes, "modified": entry.modified, "version": entry.version}
