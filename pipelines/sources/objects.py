"""Search of a store for videos: one listing, in order, seen through a window, so that no object is asked for by itself."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from os.path import splitext

from curate.base.store import Entry, Store
from pipelines.sources.folders import METADATA, SIDECARS, VIDEO_SUFFIXES, FoundFile, SkippedFiles, no_input

__all__ = ["search_objects"]

AHEAD = 20_000  # objects of the window before the one that is looked at, and as many behind it


def search_objects(store: Store, skipped: SkippedFiles, own: str | None = None) -> Iterator[FoundFile]:
    """The videos below a URL, in order of their names, each with its size and version. What is no input is skipped and
    counted. A folder's metadata comes before its videos. own: URL of a folder to leave out. Raises StoreError."""
    window = Window(store)
    around: list[str] = [""]  # the folders that the last object was in, with a slash at the end
    yield from _metadata(store, window, "")
    passed_over: str | None = None  # a hidden folder
    for entry in window:
        url = store.where(entry.name)
        if (passed_over and entry.name.startswith(passed_over)) or (own and url.startswith(f"{own}/")):
            continue
        while not entry.name.startswith(around[-1]):
            around.pop()
        while (end := entry.name.find("/", len(around[-1]))) >= 0 and passed_over != entry.name[: end + 1]:
            folder = entry.name[: end + 1]
            if kind := no_input(folder[len(around[-1]) : -1], ""):
                skipped.add(kind, store.where(folder[:-1]))
                passed_over = folder
            else:
                around.append(folder)
                yield from _metadata(store, window, folder)
        if passed_over is None or not entry.name.startswith(passed_over):
            yield from _object(store, window, entry, skipped)


def _metadata(store: Store, window: Window, folder: str) -> Iterator[FoundFile]:
    yield from (
        FoundFile(store.where(folder + name), "metadata") for name in METADATA if window.has(folder + name, folder)
    )


def _object(store: Store, window: Window, entry: Entry, skipped: SkippedFiles) -> Iterator[FoundFile]:
    base = entry.name.rpartition("/")[2]
    stem, suffix = splitext(entry.name)[0], splitext(base)[1].lower()
    if not entry.bytes and not suffix and window.follows(f"{entry.name}/"):
        return  # a folder, as some tools mark it
    if kind := no_input(base, suffix, fetching=window.has(f"{entry.name}.aria2")):
        skipped.add(kind, store.where(entry.name))
    elif suffix in VIDEO_SUFFIXES:
        sidecars = tuple(store.where(stem + end) for end in SIDECARS if window.has(stem + end))
        yield FoundFile(store.where(entry.name), sidecars=sidecars, entry=entry)
    elif base not in METADATA and not (suffix in SIDECARS and window.stems[stem]):
        skipped.suffixes[suffix or "(no suffix)"] += 1


class Window:
    """The objects of a store in order of their names, and which others are near the one that was given last.

    stems: names of the videos in the window without their suffixes, counted."""

    def __init__(self, store: Store) -> None:
        self.store, self.listing = store, iter(store.list())
        self.before: deque[Entry] = deque()
        self.after: deque[Entry] = deque()
        self.names: set[str] = set()
        self.stems: Counter[str] = Counter()
        self.ended = False
        self._fill()

    def __iter__(self) -> Iterator[Entry]:
        while self.after:
            entry = self.after.popleft()
            self.before.append(entry)
            if len(self.before) > AHEAD:
                self._forget(self.before.popleft())
            if len(self.after) < AHEAD // 2:
                self._fill()
            yield entry

    def has(self, name: str, folder: str | None = None) -> bool:
        """Whether there is such an object: as the window shows, which the store is asked only where it does not reach.

        folder: the name lies in it, and it begins here: where it ends within the window nothing is asked."""
        if name in self.names:
            return True
        last = self.after[-1].name if self.after else ""
        first = self.before[0].name if self.before else ""
        if self.ended or (name <= last and (first <= name or folder is not None)):
            return False
        return self.store.exists(name)

    def follows(self, prefix: str) -> bool:
        """Whether an object of the window begins so."""
        return any(entry.name.startswith(prefix) for entry in islice(self.after, 1000))

    def _fill(self) -> None:
        for entry in islice(self.listing, AHEAD - len(self.after)):
            self.after.append(entry)
            self.names.add(entry.name)
            self._count(entry, 1)
        self.ended = self.ended or len(self.after) < AHEAD

    def _forget(self, entry: Entry) -> None:
        self.names.discard(entry.name)
        self._count(entry, -1)

    def _count(self, entry: Entry, by: int) -> None:
        stem, suffix = splitext(entry.name)
        if suffix.lower() in VIDEO_SUFFIXES:
            self.stems[stem] += by
            if not self.stems[stem]:
                del self.stems[stem]
