"""What the user names as sources: which are folders, lists and files, here or on a store."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import splitext

from curate.base.store import is_remote, locate, shown, storable, store_of
from pipelines.sources.folders import VIDEO_SUFFIXES, SkippedFiles
from pipelines.sources.lists import LIST_SUFFIXES

__all__ = ["InputError", "Place", "absolute", "beside", "places_of", "real_path", "within"]

MAGIC = re.compile(r"[*?[]")


class InputError(Exception):
    """One line: the source, what is wrong with it, and the fix."""


@dataclass
class Place:
    """kind: "folder", "list" or "file". first, last: mentions that came of it."""

    kind: str
    path: str
    first: int = 0
    last: int = 0


def places_of(sources: Sequence[str], skipped: SkippedFiles) -> list[Place]:
    """The places of all sources, in order. Raises InputError where there is none, StoreError."""
    return [place for source in sources for place in _places(source, skipped)]


def _places(source: str, skipped: SkippedFiles) -> Iterator[Place]:
    if is_remote(source):
        if not storable(source):
            raise InputError(
                f"{shown(source)}: is an address of no storage that Winnow knows: download it and name its path"
            )
        yield from _remote(source, skipped)
    elif os.path.isdir(source):
        yield Place("folder", source)
    elif splitext(source)[1].lower() in LIST_SUFFIXES and os.path.isfile(source):
        yield Place("list", source)
    elif _is_there(source):
        yield Place("file", source)
    else:
        yield from _of_glob(source, _matches(source), skipped)


def _remote(source: str, skipped: SkippedFiles) -> Iterator[Place]:
    web = source.lower().startswith("http")  # where ? and [ are part of an address, and nothing can be listed
    if MAGIC.search(source.partition("://")[2]) and not web:
        yield from _of_glob(source, _remote_matches(source), skipped)
        return
    source = absolute(source)
    folder, name = locate(source)
    kind = "list" if splitext(name)[1].lower() in LIST_SUFFIXES else "file"
    if name and store_of(folder).exists(name):
        yield Place(kind, source)
    elif not web and next(store_of(source).list(), None) is not None:
        yield Place("folder", source)
    else:
        raise InputError(f"{shown(source)}: no such object or folder: check the address")


def _of_glob(pattern: str, matches: Iterator[tuple[str, bool]], skipped: SkippedFiles) -> Iterator[Place]:
    asked, last = splitext(pattern)[1].lower(), posixpath.basename(pattern)
    found = False
    for match, is_folder in matches:
        found, suffix = True, splitext(match)[1].lower()
        if is_folder:
            yield Place("folder", match)
        elif suffix in LIST_SUFFIXES and asked == suffix:
            yield Place("list", match)
        # for a pattern such as *.dat all matches are taken
        elif suffix in VIDEO_SUFFIXES or (asked and asked == suffix) or last not in ("*", "**"):
            yield Place("file", match)
        else:
            skipped.suffixes[suffix or "(no suffix)"] += 1
    if not found:
        raise InputError(f"{pattern}: no such file, folder or glob match: check the path")


def _matches(pattern: str) -> Iterator[tuple[str, bool]]:
    yield from ((match, os.path.isdir(match)) for match in sorted(glob.glob(pattern, recursive=True)))


def _remote_matches(pattern: str) -> Iterator[tuple[str, bool]]:
    """Objects that match, and folders of them that do: * within a name, ** over any folders."""
    start = MAGIC.search(pattern, pattern.index("://") + 3)
    assert start is not None
    folder, begin = locate(pattern[: start.start()])
    wanted = re.compile(translated(pattern[len(folder) + 1 :]))
    last = None
    for entry in store_of(folder).list(begin):
        parts = entry.name.split("/")
        inside = next(
            (name for count in range(1, len(parts)) if wanted.fullmatch(name := "/".join(parts[:count]))), None
        )
        if inside is not None:
            if inside != last:
                yield f"{folder}/{inside}", True
            last = inside
        elif wanted.fullmatch(entry.name):
            yield f"{folder}/{entry.name}", False


def translated(pattern: str) -> str:
    """A glob as a regular expression: hidden names only where they are asked for."""
    parts = []
    names = pattern.split("/")
    for at, name in enumerate(names):
        if name == "**":
            parts.append(r"(?:(?!\.)[^/]+/)*" if at < len(names) - 1 else r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+")
            continue
        text = "".join(
            {"*": "[^/]*", "?": "[^/]"}.get(piece)
            or (f"[{piece[1:].replace('!', '^', 1)}" if len(piece) > 2 and piece[0] == "[" else re.escape(piece))
            for piece in re.findall(r"\[[^\]/]+\]|.", name)
        )
        parts.append(("" if name.startswith(".") else r"(?!\.)") + text + ("/" if at < len(names) - 1 else ""))
    return "".join(parts)


def absolute(path: str) -> str:
    """An absolute path, or a URL, without `.` and `..`."""
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    host, _, key = rest.partition("/")
    if scheme.lower() not in ("http", "https"):
        key = posixpath.normpath(key) if key else ""
    return f"{scheme.lower()}://{host}" + (f"/{key}" if key else "")


def beside(path: str, name: str) -> str:
    """The absolute path, or URL, of what a list names."""
    if is_remote(name) or os.path.isabs(name):
        return absolute(name)
    return absolute(f"{locate(path)[0]}/{name}" if is_remote(path) else os.path.join(os.path.dirname(path), name))


def real_path(path: str) -> str:
    """The absolute path with links resolved; folders are cached."""
    path = absolute(path)
    if is_remote(path):
        return path
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def within(path: str, folder: str) -> bool:
    """Whether a path lies below a folder, or is it; both absolute."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_there(source: str) -> bool:
    """Whether it exists, or access is denied: then opening it gives the reason."""
    try:
        os.lstat(source)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
