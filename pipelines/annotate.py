"""`winnow annotate`: from sources to an annotated dataset, once, and from where it stopped the last time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import duckdb

from curate.clip import Unit, Video, path_to_text, text_to_path
from curate.isolation import Isolated
from curate.video import VideoError, fingerprint, plan
from pipelines.config import Config
from pipelines.curation import RECALL, TABLES, check_weights, identity, with_needs
from pipelines.dataset import FORMAT, Dataset, DatasetError, Writer, read_about, write_json
from pipelines.executor import Place, run
from pipelines.sources import Found, find_videos

PLANNERS = 8  # files looked at at a time


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
    passed_over: dict[str, int] = field(default_factory=dict)

    def count(self, unit: Unit) -> None:
        self.videos += unit.index == 0
        self.clips += len(unit.clips)
        self.footage += unit.footage
        self.warned += bool(unit.warnings)
        self.duplicates += unit.status == "duplicate"
        self.clip_failures += sum(bool(clip.errors) for clip in unit.clips)
        if unit.status == "failed":
            self.failed += 1
            self.failures.append((unit.video.path, unit.error or "no reason was recorded"))


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
    chosen = with_needs(stages) if stages else with_needs(("similarity", "text", "appearance"))
    models = check_weights(config, chosen)
    found = find_videos(sources) if sources else _recorded_videos(root)
    summary = Summary(passed_over=dict(found.passed_over))
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
    state = _State(Dataset(root), stages, retry_failed)
    wanted = {path_to_text(video.path) for video in found.videos}
    again = [unit for unit in state.incomplete() if path_to_text(unit.video.path) in wanted]
    fresh = [video for video in found.videos if not state.planned(video)]
    planned: list[Unit] = []
    for unit in _plan(fresh, config, state, watcher):
        if unit.status == "ok":
            planned.append(unit)
        elif not state.recorded(unit):
            writer.add(unit, stages=stages, **state.succession(unit))
            summary.count(unit)
    units = [replace(unit, todo=list(stages)) for unit in planned if not state.recorded(unit)] + again
    summary.already = len(found.videos) - len({unit.video.path for unit in units}) - summary.videos
    summary.failed_before = 0 if retry_failed else state.failed(wanted)
    watcher.start(len(units), sum(unit.footage for unit in units), summary.already)
    for unit in run(units, config, stages, place):
        unit.facts.pop(RECALL, None)
        done = (*state.stages_of(unit), *stages)
        writer.add(unit, stages=with_needs(done), **state.succession(unit))
        summary.count(unit)
        watcher.unit(unit)


class _State:
    """What the dataset already records, by path and by unit."""

    def __init__(self, dataset: Dataset, stages: Sequence[str], retry_failed: bool) -> None:
        self.dataset, self.wanted, self.retry_failed = dataset, stages, retry_failed
        self.rows: dict[str, dict[str, Any]] = {}
        self.paths: dict[str, list[dict[str, Any]]] = {}
        if dataset.newest:
            columns = "video_id, video_path, unit, units, unit_start, unit_end, status, duration"
            table = duckdb.sql(f"SELECT {columns} FROM {dataset.videos_sql}").to_arrow_table()
            for row in table.to_pylist():
                self.rows[f"{row['video_id']}-{row['unit']:04d}"] = row
                self.paths.setdefault(row["video_path"], []).append(row)

    def planned(self, video: Video) -> bool:
        """Every unit of this video is recorded, so that it need not be opened again."""
        rows = self.paths.get(path_to_text(video.path), [])
        if self.retry_failed and any(row["status"] == "failed" for row in rows):
            return False
        return bool(rows) and len(rows) >= rows[0]["units"]

    def failed(self, paths: set[str]) -> int:
        return sum(row["status"] == "failed" for path in paths for row in self.paths.get(path, ()))

    def recorded(self, unit: Unit) -> bool:
        row = self.rows.get(unit.id)
        return row is not None and not (self.retry_failed and row["status"] == "failed")

    def stages_of(self, unit: Unit) -> tuple[str, ...]:
        shard = self.dataset.newest.get(unit.id)
        return shard.stages if shard else ()

    def succession(self, unit: Unit) -> dict[str, Any]:
        """Which rows the new ones of a unit take the place of: arguments for `Writer.add`."""
        rows = self.paths.get(path_to_text(unit.video.path), [])
        old = {f"{row['video_id']}-{row['unit']:04d}" for row in rows}
        generations = [shard.generation for name in old | {unit.id} if (shard := self.dataset.newest.get(name))]
        gone = [f"{row['video_id']}-{row['unit']:04d}" for row in rows if row["video_id"] != unit.video.video_id]
        return {"generation": max(generations, default=-1) + 1, "replaces": gone}

    def owner(self, video_id: str) -> str | None:
        """Path of the recorded video that has this content."""
        row = self.rows.get(f"{video_id}-0000")
        return row["video_path"] if row and row["status"] != "duplicate" else None

    def incomplete(self) -> Iterator[Unit]:
        """Units whose rows lack a stage that is wanted now, as references into their shards."""
        for unit_id, row in self.rows.items():
            shard = self.dataset.newest[unit_id]
            missing = [name for name in self.wanted if name not in shard.stages]
            if missing and row["status"] == "ok":
                yield Unit(
                    Video(text_to_path(row["video_path"]), row["video_id"]),
                    index=row["unit"],
                    count=row["units"],
                    start=row["unit_start"],
                    end=row["unit_end"],
                    facts={RECALL: [str(self.dataset.root.absolute()), shard.name], "duration": row["duration"]},
                    todo=missing,
                )


def _plan(videos: list[Video], config: Config, state: _State, watcher: Watcher) -> Iterator[Unit]:
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
                    copy = Video(first.video.path, caption=first.video.caption, columns=first.video.columns)
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
        try:
            identified = replace(video, video_id=fingerprint(video.path))
        except (VideoError, OSError) as error:
            return [Unit(video).fail(getattr(error, "reason", None) or f"cannot be read ({error.strerror})")]
        options = {"unit_seconds": self.config.decode.unit_seconds, "max_pixels": self.config.decode.max_pixels}
        if not self.config.decode.isolate:
            units = plan(identified, **options)
        else:
            child = self.free.pop() if self.free else Isolated(timeout=60.0, memory_gb=self.config.decode.memory_gb)
            units = child.plan(identified, **options)
            self.free.append(child)
        if units[0].status != "ok":  # content that is no video says nothing: an empty file is not a copy of another
            units = [replace(unit, video=video) for unit in units]
        return units

    def close(self) -> None:
        for child in self.free:
            child.close()


def _recorded_videos(root: Path) -> Found:
    dataset = Dataset(root)
    rows = duckdb.sql(f"SELECT DISTINCT video_path FROM {dataset.videos_sql} ORDER BY 1").fetchall()
    return Found([Video(text_to_path(path)) for (path,) in rows])


def open_dataset(root: Path, config: Config, stages: Sequence[str], models: dict[str, Any]) -> None:
    """Write or extend `dataset.json`. DatasetError if rows of these stages were made under another config or models."""
    made: dict[str, Any] = {"stages": {}, "models": {}}
    if (root / "dataset.json").exists():
        made = read_about(root)
    elif any(path.name != LOCK for path in root.iterdir()):
        raise DatasetError(f"{root}: holds other files and no dataset: choose an empty or a new folder for --out")
    for stage in stages:
        if stage in made["stages"]:
            _same(root, made["stages"][stage], identity(config, stage), "")
    for column, model in models.items():
        if column in made["models"]:
            _same(root, made["models"][column], model, f"the model of {column}: ")
    about = {
        "format": FORMAT,
        "winnow": version("winnow"),
        "config": config.model_dump(mode="json"),
        "stages": made["stages"] | {stage: identity(config, stage) for stage in stages},
        "models": made["models"] | models,
    }
    if about != made:
        write_json(root / "dataset.json", about)


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
