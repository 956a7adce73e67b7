"""All videos of sources in memory: for few of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from curate.clip import Unit, Video
from pipelines.sources.folders import SkippedFiles
from pipelines.sources.stream import HELD, InputError, SourceStream, skipped_text

__all__ = ["HELD", "FoundVideos", "InputError", "find_videos", "skipped_text"]


@dataclass
class FoundVideos:
    """videos, refused, skipped, lists, folders: those of a `SourceStream`."""

    videos: list[Video] = field(default_factory=list)
    refused: list[Unit] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    lists: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    stream: SourceStream | None = None

    def accepts(self, path: str) -> bool:
        """See `SourceStream.accepts`."""
        return self.stream is not None and self.stream.accepts(path)


def find_videos(sources: Sequence[str], store: str | os.PathLike[str] | None = None) -> FoundVideos:
    """All videos of a `SourceStream`. Raises InputError."""
    stream = SourceStream(sources, store)
    if store is not None:
        stream.hold()
    items = list(stream)
    return FoundVideos(
        [item for item in items if isinstance(item, Video)],
        [item for item in items if isinstance(item, Unit)],
        stream.skipped,
        stream.lists,
        stream.folders,
        stream,
    )
