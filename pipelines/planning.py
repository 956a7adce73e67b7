"""Files are looked at in a few child processes: what their content is, and which units they are worked on as.

A file that stalls holds one child for `decode.open_seconds` (planning one: longer by its size, as all its packets may be
read), and is tried once more after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from curate.clip import Unit, Video, path_to_text
from curate.identity import identify, stamp
from curate.isolation import LATE, Isolated, Lost, NotStarted, settle
from curate.units import plan
from pipelines.cluster import ExecutorError
from pipelines.config import Config
from pipelines.state import State, duplicate

PLANNERS = 8  # files looked at at a time; most of it is waiting for disks
WHOLE = 1e12  # seconds of a unit: the file is one
FILES_EACH = 4  # a child takes a second to start
BYTES_A_SECOND = 10_000_000  # of a file, that a slow disk gives to one of several readers

Item = TypeVar("Item")
Found = TypeVar("Found")
Identity = dict[str, Any]  # video_id (None: not readable), bytes, modified


class Planner:
    """With its child processes, which `with` ends. Its methods raise ExecutorError where none can be started."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.free: list[Isolated] = []

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

    def _plan(self, wanted: tuple[Video, list[str]]) -> list[Unit]:
        video, lost = wanted
        decode = self.config.decode
        # a span that a list names may lie anywhere: no bound of a unit may cut it
        unit_seconds = WHOLE if video.spans else decode.unit_seconds
        options = {"unit_seconds": unit_seconds, "max_pixels": decode.max_pixels}
        units = self._ask(
            lambda child, limit: child.plan(video, limit, lost, **options),
            lambda: plan(video, **options),
            self.limit(video.path),
        )
        if units[0].status != "ok":  # content that is no video says nothing: an empty file is no copy of another
            units = [replace(unit, video=replace(video, video_id="")) for unit in units]
        return units

    def limit(self, path: str) -> float:
        """Seconds that planning a file may take."""
        size = stamp(path)["bytes"] or 0
        return self.config.decode.open_seconds + size // BYTES_A_SECOND

    def _ask(self, there: Callable[[Isolated, float], Found], here: Callable[[], Found], limit: float) -> Found:
        decode = self.config.decode
        if not decode.isolate:
            return here()
        child = self.free.pop() if self.free else Isolated(memory_gb=decode.memory_gb)
        try:
            return there(child, limit)
        finally:
            self.free.append(child)


def plan_videos(
    videos: Sequence[Video], planner: Planner, seen: dict[str, Identity], state: State, progress: Callable
) -> Iterator[Unit]:
    """The units of the videos: those of second copies as duplicates. seen: what is known of their files."""
    owners: dict[str, str] = {}
    identified, missing = [], []
    for video in videos:
        path = path_to_text(video.path)
        if path not in seen:  # what was lost, or failed, and is asked for again
            missing.append(video.path)
    seen |= planner.identities(missing, progress)
    for video in videos:
        identified.append(replace(video, video_id=seen[path_to_text(video.path)]["video_id"] or ""))
    for units in planner.units(identified, progress):
        first = units[0]
        path = path_to_text(first.video.path)
        if first.status == "ok" and seen[path]["video_id"] is None:  # a file that stalled, and now does not
            seen |= planner.identities([first.video.path], lambda done, total: None)
            units = [replace(unit, video=replace(unit.video, video_id=seen[path]["video_id"] or "")) for unit in units]
            first = units[0]
        if first.status == "ok" and seen[path]["video_id"] is None:
            yield settle(Unit(first.video), Lost("could be opened, but its content not be read", LATE))
            continue
        stamps = {name: seen[path][name] for name in ("bytes", "modified")}
        units = [replace(unit, facts=unit.facts | stamps) for unit in units]
        if first.status == "ok":
            owner = owners.setdefault(first.video.video_id, state.owner(first.video.video_id) or path)
            if owner != path:
                copy = replace(first.video, video_id="")
                yield duplicate(Unit(copy, facts=units[0].facts), owner)
                continue
        yield from units
