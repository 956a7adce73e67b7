"""The videos of sources as a stream, in a fixed order, whatever their number."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from curate.clip import Unit, Video
from pipelines.sources.folders import SkippedFiles
from pipelines.sources.sources import FoundVideos, find_videos

__all__ = ["SourceStream"]


class SourceStream:
    """Every video of the sources, once, and every refused input as a failed unit, in a fixed order. Iterate once.

    store: the dataset's folder or URL, see `find_videos`. Lists are read, and what is wrong with a source as a whole is
    raised as InputError, before the first item; a stream without any item ends with InputError. `close` (or `with`) deletes
    its temporary files.
    videos, refused: how many were given so far. Complete after the last item: skipped; lists, folders: absolute paths, or
    URLs, of what was read and searched; `accepts`.
    """

    def __init__(self, sources: Sequence[str], store: str | os.PathLike[str] | None = None) -> None:
        self.sources, self.store = list(sources), store
        self.videos = self.refused = 0
        self.skipped = SkippedFiles()
        self.lists: list[str] = []
        self.folders: list[str] = []
        self._found = FoundVideos()

    def __enter__(self) -> SourceStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Video | Unit]:
        self._found = found = find_videos(self.sources, self.store)
        self.skipped, self.lists, self.folders = found.skipped, found.lists, found.folders
        for unit in found.refused:
            self.refused += 1
            yield unit
        for video in found.videos:
            self.videos += 1
            yield video

    def accepts(self, path: str) -> bool:
        """Whether an input that was refused before (a folder, a link, or `LIST: entry 3`) was checked again and is accepted."""
        return self._found.accepts(path)

    def close(self) -> None:
        """Delete the temporary files."""
