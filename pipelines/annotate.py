"""`winnow annotate`: from sources to an annotated dataset, once, and from where it stopped the last time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from curate.clip import Unit, Video, path_to_text
from curate.isolation import Isolated
from curate.video import VideoError, fingerprint, plan
from pipelines.config import Config
from pipelines.curation import RECALL, STAGES, TABLES, check_weights, identity, with_needs
from pipelines.dataset import FORMAT, Dataset, DatasetError, Writer, read_about, sweep, write_json
from pipelines.executor import Place, run
from pipelines.folders import PassedOver
from pipelines.sources import HELD, Found, find_videos
from pipelines.state import State

PLANNERS = 8  # files looked at at a time
WHOLE = 1e12  # seconds of a unit: the file is one


class Watcher(Protocol):
    """What shows a person how far the job is."""

    def planning(self, done: int, total: int) -> None: ...
    def start(self, units: int, seconds: float, already: int) -> None: ...
    def unit(self, unit: Unit) -> None: ...


@dataclass
class Summary:
    """Counts of one run. already, failed_before: videos recorded before, and those of them that failed. footage: seconds."""

    videos: int = 0
    already: int = 0
    failed: int = 0
    failed_before: int = 0
    duplicates: int = 0
    warned: int = 0
    clips: int = 0
    clip_failures: int = 0
    footage: float = 0.0
    wall: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def anything_failed(self) -> bool:
        """Videos of these sources, now or earlier, or stages on clips of this run."""
        return bool(self.failed or self.failed_before or self.clip_failures)

    def count(self, unit: Unit) -> None:
        self.videos += unit.index == 0
        self.clips += len(unit.clips)
        self.footage += unit.footage if unit.status == "ok" else 0.0
        self.warned += bool(unit.warnings)
        self.duplicates += unit.status == "duplicate"
        self.clip_failures += sum(clip.failed for clip in unit.clips)
        if unit.status == "failed":
            self.failures.append((unit.video.path, unit.error or "no reason was recorded"))
            self.failed = len({path for path, _ in self.failures})


def annotate(
    sources: Sequence[str],
    out: str | os.PathLike[str],
    config: Config,
    *,
    place: Place,
    watcher: Watcher,
    stages: Sequence[str] | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Fill the dataset with rows for every video of the sources; without sources, for those it already holds.

    Everything that can be wrong with config, weights, sources or folder raises before any work is done.
    """
    began = time.perf_counter()
    root = Path(out)
    chosen = with_needs(STAGES if stages is None else stages, config)
    models = check_weights(config, chosen)
    _refuse_foreign(root)
    found = find_videos(sources, root) if sources else Found(State(Dataset(root), chosen, retry_failed).videos())
    summary = Summary(passed_over=found.passed_over)
    with claimed(root):
        open_dataset(root, config, chosen, models)
        writer = Writer(
            root,
            TABLES,
            models=models,
            shard_clips=config.execution.shard_clips,
            shard_seconds=config.execution.shard_seconds,
        )
        try:
            _work(found, root, config, chosen, place, watcher, retry_failed, writer, summary)
        finally:
            writer.flush()
        sweep(root)
    summary.wall = time.perf_counter() - began
    return summary


def _work(
    found: Found,
    root: Path,
    config: Config,
    stages: tuple[str, ...],
    place: Place,
    watcher: Watcher,
    retry_failed: bool,
    writer: Writer,
    summary: Summary,
) -> None:
    state = State(Dataset(root), stages, retry_failed)
    inputs = [*found.videos, *(unit.video for unit in found.refused)]
    wanted = {path_to_text(video.path) for video in inputs}
    listed = {path_to_text(v.path): v for v in found.videos if v.captions or v.columns or v.spans}
    again = [unit for unit in state.incomplete(listed) if path_to_text(unit.video.path) in wanted]
    fresh = [video for video in found.videos if not state.planned(video)]
    planned: list[Unit] = []
    for unit in chain(found.refused, _plan(fresh, config, state, watcher)):
        if unit.status == "ok":
            planned.append(unit)
        elif not state.recorded(unit):
            writer.add(unit, stages=stages, **state.succession(unit))
            summary.count(unit)
    units = [replace(unit, todo=list(stages)) for unit in planned if not state.recorded(unit)] + again
    summary.already = len(inputs) - len({unit.video.path for unit in units}) - summary.videos
    summary.failed_before = 0 if retry_failed else state.failed(wanted)
    watcher.start(len(units), sum(unit.footage for unit in units), summary.already)
    for unit in run(units, config, stages, place):
        again_only = unit.facts.pop(RECALL, None) is not None
        if unit.status == "ok" or not (again_only or state.holds(unit)):  # a failure never replaces good rows
            done = (*state.stages_of(unit), *stages)
            writer.add(unit, stages=with_needs(done), **state.succession(unit))
        summary.count(unit)
        watcher.unit(unit)


def _plan(videos: list[Video], config: Config, state: State, watcher: Watcher) -> Iterator[Unit]:
    """The units of the videos, in order; files that cannot be opened as failed units, and second copies as duplicates."""
    owners: dict[str, str] = {}
    with ThreadPoolExecutor(min(PLANNERS, os.cpu_count() or 1, max(1, len(videos) // 4))) as pool:
        planner = _Planner(config)
        for done, units in enumerate(pool.map(planner, videos), 1):
            watcher.planning(done, len(videos))
            first = units[0]
            if first.status == "ok":
                path = path_to_text(first.video.path)
                owner = owners.setdefault(first.video.video_id, state.owner(first.video.video_id) or path)
                if owner != path:
                    copy = replace(first.video, video_id="")
                    yield Unit(copy, status="duplicate", error=f"same content as {owner}", facts=first.facts)
                    continue
            yield from units
        planner.close()


class _Planner:
    """Opens a video, in one of a few child processes, and says which units it is worked on as."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.free: list[Isolated] = []

    def __call__(self, video: Video) -> list[Unit]:
        identified = video
        with suppress(VideoError, OSError, ValueError):  # `plan` says it better why a file cannot be read
            identified = replace(video, video_id=fingerprint(video.path))
        options = {"unit_seconds": self.config.decode.unit_seconds, "max_pixels": self.config.decode.max_pixels}
        if video.spans:  # one of them may lie anywhere: no bound of a unit may cut it
            options["unit_seconds"] = WHOLE
        if not self.config.decode.isolate:
            units = plan(identified, **options)
        else:
            child = (
                self.free.pop()
                if self.free
                else Isolated(timeout=self.config.decode.timeout_seconds, memory_gb=self.config.decode.memory_gb)
            )
            units = child.plan(identified, **options)
            self.free.append(child)
        if units[0].status != "ok":  # content that is no video says nothing: an empty file is not a copy of another
            units = [replace(unit, video=video) for unit in units]
        return units

    def close(self) -> None:
        for child in self.free:
            child.close()


def open_dataset(root: Path, config: Config, stages: Sequence[str], models: dict[str, Any]) -> None:
    """Write or extend `dataset.json`. DatasetError if rows of these stages were made under another config or models."""
    made: dict[str, Any] = {"stages": {}, "models": {}}
    if (root / "dataset.json").exists():
        made = read_about(root)
    for stage in stages:
        if stage in made["stages"]:
            _same(root, made["stages"][stage], identity(config, stage), "")
    for column, model in models.items():
        if column in made["models"]:
            _same(root, made["models"][column], model, f"the model of {column}: ")
    resolved = config.model_dump(mode="json")
    for parts in made["stages"].values():  # rows of stages that are not run now keep the config they were made with
        for name, part in parts.items():
            (resolved["decode"] if name == "unit_seconds" else resolved)[name] = part
    about = {
        "format": FORMAT,
        "winnow": version("winnow"),
        "config": resolved,
        "stages": made["stages"] | {stage: identity(config, stage) for stage in stages},
        "models": made["models"] | models,
    }
    if about != made:
        write_json(root / "dataset.json", about)


def _refuse_foreign(root: Path) -> None:
    """A folder that holds something else is left as it is."""
    if (
        root.is_dir()
        and not (root / "dataset.json").exists()
        and any(path.name not in (LOCK, HELD) for path in root.iterdir())
    ):
        raise DatasetError(f"{root}: holds other files and no dataset: choose an empty or a new folder for --out")


def _same(root: Path, made: Any, now: Any, key: str) -> None:
    if isinstance(made, dict) and isinstance(now, dict):
        for name in made.keys() | now.keys():
            _same(
                root,
                made.get(name),
                now.get(name),
                f"{key}.{name}" if key and not key.endswith(": ") else f"{key}{name}",
            )
    elif made != now:
        raise DatasetError(
            f"{root}: was made with {key} = {made}, this job says {now}: choose another --out, or set it as it was"
        )


LOCK = ".lock"


@contextmanager
def claimed(root: Path) -> Iterator[None]:
    """One process writes a dataset at a time. The lock goes with the process, however it ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        stream = open(root / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise DatasetError(f"{root}: cannot be written to ({error.strerror}): choose another --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(
                f"{root}: another process is writing this dataset: wait for it, or choose another --out"
            ) from None
        yield
