"""Identifies files and plans their units, in a few child processes.

A file that stalls blocks one child for `decode.open_seconds` (planning: longer by its size, as all its packets may be
read), and is retried once after all others.
"""

from __future__ import annotations

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

PLANNERS = 8  # files at a time; mostly waiting for disks
UNSPLIT_SECONDS = 1e12  # longer than any file: it becomes one unit
FILES_EACH = 4  # files for each child, which takes a second to start

Identity = dict[str, Any]  # video_id (None: not readable), bytes, modified; checksum, if it was needed
Item = TypeVar("Item")
Found = TypeVar("Found")


class Planner:
    """A pool of child processes, ended by `with`. Methods raise ExecutorError if none can be started."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.free: list[Isolated] = []
        self.sums: dict[str, str | None] = {}

    def __enter__(self) -> Planner:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.free:
            child.close()
        self.free = []

    def identities(self, paths: Sequence[str], progress: Callable[[int, int], None]) -> dict[str, Identity]:
        """Path, as in tables, -> its identity."""
        found = self._each(paths, self._identify)
        seen = {}
        for done, (path, identity) in enumerate(zip(paths, found, strict=True), 1):
            progress(done, len(paths))
            seen[path_to_text(path)] = identity
        return seen

    def checksum(self, path: str) -> str | None:
        """Checksum of a file, cached; None where it cannot be read."""
        if path not in self.sums:
            (self.sums[path],) = self._each([path], self._checksum)
        return self.sums[path]

    def units(self, videos: Sequence[Video], progress: Callable[[int, int], None]) -> Iterator[list[Unit]]:
        """The units of each video, in order; one that is failed or lost where it cannot be opened."""
        lost: list[tuple[Video, list[str]]] = []
        found = self._each([(video, []) for video in videos], self._plan)
        for done, (video, units) in enumerate(zip(videos, found, strict=True), 1):
            progress(done, len(videos))
            if units[0].status == "lost":
                lost.append((video, units[0].lost))
            else:
                yield units
        yield from self._each(lost, self._plan)

    def _each(self, items: Sequence[Item], look: Callable[[Item], Found]) -> Iterator[Found]:
        with ThreadPoolExecutor(min(PLANNERS, max(1, len(items) // FILES_EACH))) as pool:
            try:
                yield from pool.map(look, items)
            except NotStarted as error:
                raise ExecutorError(str(error)) from None

    def _identify(self, path: str) -> Identity:
        return self._ask(
            lambda child, limit: child.identify(path, limit), lambda: identify(path), self.config.decode.open_seconds
        )

    def _checksum(self, path: str) -> str | None:
        def here() -> str | None:
            with suppress(OSError):
                return checksum(path)

        return self._ask(lambda child, limit: child.checksum(path, limit), here, self.limit(path))

    def _plan(self, wanted: tuple[Video, list[str]]) -> list[Unit]:
        video, lost = wanted
        decode = self.config.decode
        # spans of a list may lie anywhere: no unit bound may cut them
        unit_seconds = UNSPLIT_SECONDS if video.spans else decode.unit_seconds
        options = {"unit_seconds": unit_seconds, "max_pixels": decode.max_pixels}
        units = self._ask(
            lambda child, limit: child.plan(video, limit, lost, **options),
            lambda: plan(video, **options),
            self.limit(video.path),
        )
        if units[0].status != "ok":  # files that are no videos are never duplicates of each other
            units = [replace(unit, video=replace(video, video_id="")) for unit in units]
        return units

    def limit(self, path: str) -> float:
        """Time limit of reading a whole file, s."""
        size = stamp(path)["bytes"] or 0
        return self.config.decode.open_seconds + size // READING

    def _ask(self, there: Callable[[Isolated, float], Found], here: Callable[[], Found], limit: float) -> Found:
        decode = self.config.decode
        if not decode.isolate:
            return here()
        child = self.free.pop() if self.free else Isolated(memory_gb=decode.memory_gb)
        try:
            return there(child, limit)
        finally:
            self.free.append(child)
