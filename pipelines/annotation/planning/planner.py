"""Identifies files and plans their units, in a few child processes.

A file that stalls blocks one child for `decode.open_seconds` (planning: longer by its size, as all its packets may be
read), and is retried once after all others of its batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from curate.base.child import NotStarted
from curate.clip import Unit, Video, path_to_text
from curate.video.identity import READING, checksum, identify, stamp
from curate.video.units import plan
from curate.watching.isolation import Isolated
from pipelines.cluster import ExecutorError
from pipelines.config import Config

PLANNERS = 8  # children at most, ...
PLANNERS_EACH = 2  # ... and for each processor: one waits for the disk while another reads
UNSPLIT_SECONDS = 1e12  # longer than any file: it becomes one unit
FILES_EACH = 4, 16  # files that a child is asked for at a time: it takes a second to start, and little for a file

Identity = dict[str, Any]  # video_id (None: not readable), bytes, modified; checksum, if it was needed
Wanted = tuple[Video, list[str]]  # a video, and the kinds of its losses so far
Item = TypeVar("Item")
Found = TypeVar("Found")


class Planner:
    """A pool of child processes, ended by `with`. Methods raise ExecutorError if none can be started."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.free: list[Isolated] = []
        self.sums: dict[str, str | None] = {}
        self.planners = min(PLANNERS, PLANNERS_EACH * len(os.sched_getaffinity(0)))
        self.threads = ThreadPoolExecutor(self.planners)

    def __enter__(self) -> Planner:
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(cancel_futures=True)
        for child in self.free:
            child.close()
        self.free = []

    def identities(self, paths: Sequence[str]) -> dict[str, Identity]:
        """Path, as in tables, -> its identity."""
        found = self._each(paths, self._identify)
        return {path_to_text(path): identity for path, identity in zip(paths, found, strict=True)}

    def checksum(self, path: str) -> str | None:
        """Checksum of a file, cached; None where it cannot be read."""
        if path not in self.sums:
            (self.sums[path],) = self._each([path], self._checksums)
        return self.sums[path]

    def units(self, videos: Sequence[Video]) -> list[list[Unit]]:
        """The units of each video; one that is failed or lost where it cannot be opened."""
        found = list(self._each([(video, []) for video in videos], self._plan))
        lost = [at for at, units in enumerate(found) if units[0].status == "lost"]
        again = self._each([(videos[at], found[at][0].lost) for at in lost], self._plan)
        for at, units in zip(lost, again, strict=True):
            found[at] = units
        return found

    def _each(self, items: Sequence[Item], look: Callable[[Sequence[Item]], list[Found]]) -> Iterator[Found]:
        """Each item looked at, some at a time, in order."""
        least, most = FILES_EACH
        size = min(most, max(least, -(-len(items) // self.planners)))
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        try:
            for found in self.threads.map(look, parts):
                yield from found
        except NotStarted as error:
            raise ExecutorError(str(error)) from None

    def _identify(self, paths: Sequence[str]) -> list[Identity]:
        limit = self.config.decode.open_seconds
        return self._ask(lambda child: child.identify_each(paths, limit), lambda: [identify(path) for path in paths])

    def _checksums(self, paths: Sequence[str]) -> list[str | None]:
        def here() -> list[str | None]:
            with suppress(OSError):
                return [checksum(path) for path in paths]
            return [None for _ in paths]

        return self._ask(lambda child: [child.checksum(path, self.limit(path)) for path in paths], here)

    def _plan(self, wanted: Sequence[Wanted]) -> list[list[Unit]]:
        found = self._ask(
            lambda child: child.plan_each(
                [(video, lost, self.limit(video.path), self._options(video)) for video, lost in wanted]
            ),
            lambda: [plan(video, **self._options(video)) for video, _ in wanted],
        )
        return [  # files that are no videos are never duplicates of each other
            [replace(unit, video=replace(video, video_id="")) for unit in units] if units[0].status != "ok" else units
            for (video, _), units in zip(wanted, found, strict=True)
        ]

    def _options(self, video: Video) -> dict[str, Any]:
        decode = self.config.decode
        # spans of a list may lie anywhere: no unit bound may cut them
        unit_seconds = UNSPLIT_SECONDS if video.spans else decode.unit_seconds
        return {"unit_seconds": unit_seconds, "max_pixels": decode.max_pixels}

    def limit(self, path: str) -> float:
        """Time limit of reading a whole file, s."""
        size = stamp(path)["bytes"] or 0
        return self.config.decode.open_seconds + size // READING

    def _ask(self, there: Callable[[Isolated], Found], here: Callable[[], Found]) -> Found:
        decode = self.config.decode
        if not decode.isolate:
            return here()
        child = self.free.pop() if self.free else Isolated(memory_gb=decode.memory_gb)
        try:
            return there(child)
        finally:
            self.free.append(child)
