"""Search of folders for videos: links are followed, each real folder is searched once, and skipped files are counted.

Real folders are searched before linked ones, so that a video that both contain gets its own path. Hidden files, trash,
partial downloads and circular links are skipped and counted, with an example. A folder that cannot be read is a failed
input.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from curate.base.store import Entry

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".qt",
        ".mkv",
        ".webm",
        ".avi",
        ".divx",
        ".gif",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".m1v",
        ".m2v",
        ".mpv",
        ".ts",
        ".m2t",
        ".m2ts",
        ".mts",
        ".tp",
        ".trp",
        ".wmv",
        ".asf",
        ".flv",
        ".f4v",
        ".3gp",
        ".3g2",
        ".ogv",
        ".vob",
        ".mxf",
        ".y4m",
        ".264",
        ".h264",
        ".265",
        ".hevc",
        ".ivf",
        ".rm",
        ".rmvb",
        ".dv",
        ".mjpeg",
        ".mjpg",
        ".nut",
    ]
)
PARTIAL_SUFFIXES = frozenset(
    [
        ".part",
        ".partial",
        ".crdownload",
        ".download",
        ".opdownload",
        ".tmp",
        ".aria2",
        ".ytdl",
        ".filepart",
        ".!ut",
        ".!qb",
        ".bc!",
        ".dlpart",
    ]
)
TRASH = frozenset(
    [
        "$recycle.bin",
        "recycler",
        "#recycle",
        "@recycle",
        "@eadir",
        "#snapshot",
        "@recently-snapshot",
        "lost+found",
        "__macosx",
        "found.000",
        "system volume information",
    ]
)
SIDECARS = (".txt", ".json")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's VideoFolder

HIDDEN, IN_TRASH, PARTIAL = "hidden", "in a trash or system folder", "partial download"
CIRCLE, AGAIN, ALIAS = (
    "link that leads back (a circle)",
    "other name of a folder searched already",
    "other name of a file",
)


@dataclass
class SkippedFiles:
    """Files in folders that are no input. suffixes: counts of files that are no videos by name. others: counts by kind."""

    suffixes: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        self.others[kind] += 1
        self.examples.setdefault(kind, path)

    def __bool__(self) -> bool:
        return bool(self.suffixes or self.others)


@dataclass(frozen=True)
class Refused:
    """A failed input that is no video. path: its name in `videos/`. kind: "folder" or "link"."""

    path: str
    reason: str
    kind: str


@dataclass(frozen=True)
class FoundFile:
    """path: or URL. kind: "video", or "metadata" (the list of a VideoFolder). sidecars: files beside it that may hold captions.
    entry: what a listing of a store says of it."""

    path: str
    kind: str = "video"
    sidecars: tuple[str, ...] = ()
    entry: Entry | None = None


class Search:
    """Searches folders, each once, even for several sources.

    own: a folder to leave out: that of the dataset being made. skipped: is counted into.
    """

    def __init__(self, own: Path | None, skipped: SkippedFiles) -> None:
        self.skipped = skipped
        self.searched: set[tuple[int, int]] = set()
        self.own = own

    def __call__(self, folder: str) -> Iterator[FoundFile | Refused]:
        """The videos of a folder and of all folders in it, in a fixed order."""
        waiting, links = deque([os.path.abspath(folder)]), deque()
        named = True  # the folder that the user named is searched even if it is a link
        while waiting or links:
            path = waiting.popleft() if waiting else links.popleft()
            linked, named = not named and os.path.islink(path), False
            self._leave_out_own()
            try:
                facts = os.stat(path)
                if (facts.st_dev, facts.st_ino) in self.searched:
                    if linked:
                        self.skipped.add(AGAIN, path)
                    continue
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                yield Refused(path, unreadable(error), "folder")
                continue
            self.searched.add((facts.st_dev, facts.st_ino))
            inside: list[str] = []
            yield from self._files(path, entries, inside, links)
            waiting.extendleft(reversed(inside))

    def _leave_out_own(self) -> None:
        """It may be made during the search."""
        if self.own is not None and self.own.is_dir():
            facts, self.own = self.own.stat(), None
            self.searched.add((facts.st_dev, facts.st_ino))

    def _files(
        self, path: str, entries: list[os.DirEntry], inside: list[str], links: deque[str]
    ) -> Iterator[FoundFile | Refused]:
        """The videos of one folder. Its folders are added to `inside`, those behind links to `links`."""
        names = {entry.name for entry in entries}
        stems = {os.path.splitext(name)[0] for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES}
        entries = sorted(
            entries, key=lambda entry: entry.name.lower() not in METADATA
        )  # which say things of the others
        for entry in entries:
            name, suffix = entry.name, Path(entry.name).suffix.lower()
            if kind := no_input(name, suffix, fetching=f"{name}.aria2" in names):
                self.skipped.add(kind, entry.path)
                continue
            reached = _reached(entry)
            if reached == "circle" or (reached == "folder" and entry.is_symlink() and _leads_back(entry.path, path)):
                self.skipped.add(CIRCLE, entry.path)
                continue
            if reached == "folder":
                (links if entry.is_symlink() else inside).append(entry.path)
            if reached == "gone" and suffix not in VIDEO_SUFFIXES and not Path(os.readlink(entry.path)).suffix:
                yield Refused(
                    entry.path,
                    f"link to {os.readlink(entry.path)!r}, which is not there: is a disk not mounted?",
                    "link",
                )
            elif suffix in VIDEO_SUFFIXES:
                # A folder with the name of a video is an input too: it becomes a failed row.
                yield FoundFile(entry.path, sidecars=_sidecars(entry.path, names))
            elif name.lower() in METADATA:
                yield FoundFile(entry.path, "metadata")
            elif reached != "folder" and not (suffix in SIDECARS and os.path.splitext(name)[0] in stems):
                self.skipped.suffixes[suffix or "(no suffix)"] += 1


def no_input(name: str, suffix: str, fetching: bool = False) -> str | None:
    """Why a file or folder of this name is no input, or None. fetching: a downloader's file lies beside it."""
    if name.lower() in TRASH or name.lower().startswith((".trash", ".trashes")):
        return IN_TRASH
    if name.startswith("."):
        return HIDDEN
    if suffix in PARTIAL_SUFFIXES or ".part-Frag" in name or fetching:
        return PARTIAL
    return None


def unreadable(error: OSError) -> str:
    """Why a folder cannot be searched, with the fix."""
    why = (error.strerror or type(error).__name__).lower()
    fix = "give this user the right to read and enter it" if isinstance(error, PermissionError) else "check the disk"
    return f"folder may not be read ({why}), the videos in it are not looked at: {fix}, then run again"


def _reached(entry: os.DirEntry) -> str:
    """Target of an entry: "file", "folder", "gone" (a broken link) or "circle" (a link to itself)."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_symlink() and not os.path.exists(entry.path):
            os.stat(entry.path)
    except FileNotFoundError:
        return "gone"
    except OSError as error:
        return "circle" if error.errno == errno.ELOOP else "file"
    return "file"


def _leads_back(link: str, folder: str) -> bool:
    """Whether the link leads to the folder that contains it, or to one above."""
    target, here = os.path.realpath(link), os.path.realpath(folder)
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)


def _sidecars(path: str, names: set[str]) -> tuple[str, ...]:
    """v.txt and v.json beside v.mp4, which often hold captions."""
    stem, folder = os.path.splitext(os.path.basename(path))[0], os.path.dirname(path)
    return tuple(os.path.join(folder, stem + end) for end in SIDECARS if stem + end in names)
