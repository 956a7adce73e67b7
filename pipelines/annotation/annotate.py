"""`winnow annotate`: from sources to an annotated dataset, once, and from where it stopped the last time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from curate.base.child import CHANGED
from curate.base.files import write_json
from curate.clip import Unit, Video, path_to_text
from pipelines.annotation.changes import Changes, look
from pipelines.annotation.executor import run
from pipelines.annotation.models import check_weights
from pipelines.annotation.planning import Planner, plan_videos
from pipelines.annotation.pools import Place
from pipelines.annotation.stages import identity, tables_of, with_needs
from pipelines.annotation.state import State
from pipelines.config import Config, ConfigError, recorded
from pipelines.dataset.claims import LOCK, claimed
from pipelines.dataset.dataset import FORMAT, Dataset, DatasetError, Writer, forget, read_about, read_shards, sweep
from pipelines.sources.folders import PassedOver
from pipelines.sources.sources import HELD, FoundVideos, find_videos


class Watcher(Protocol):
    """What shows a person how far the job is."""

    def planning(self, done: int, total: int) -> None: ...
    def start(self, units: int, seconds: float, already: int) -> None: ...
    def unit(self, unit: Unit) -> None: ...


@dataclass
class Summary:
    """Counts of one run. already, failed_before: videos recorded before, and those of them that failed. footage: seconds.

    changed: videos whose file holds something else than what was recorded. moved: those found at another path. failures,
    earlier, lost: path and reason of what failed now, or before, and of what a machine kept from being done.
    """

    videos: int = 0
    already: int = 0
    failed: int = 0
    failed_before: int = 0
    duplicates: int = 0
    warned: int = 0
    clips: int = 0
    clip_failures: int = 0
    changed: int = 0
    moved: int = 0
    footage: float = 0.0
    wall: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)
    earlier: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def anything_failed(self) -> bool:
        """Videos of these sources, now or earlier, or stages on clips of this run; or something was lost."""
        return bool(self.failed or self.failed_before or self.clip_failures or self.lost)

    @property
    def nothing_to_do(self) -> bool:
        return not (self.videos or self.clips or self.failures or self.lost or self.moved or self.changed)

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
        elif unit.status == "lost":
            self.lost.append((unit.video.path, unit.error or "no reason was recorded"))


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
    chosen = with_needs(list(config.parts.stages) if stages is None else stages, config)
    models = check_weights(config, chosen)
    _refuse_foreign(root)
    found = (
        find_videos(sources, root)
        if sources
        else FoundVideos(State(Dataset(root), chosen, retry_failed, config.parts).videos())
    )
    summary = Summary(passed_over=found.passed_over)
    with claimed(root, "dataset", DatasetError):
        open_dataset(root, config, chosen, models)
        writer = Writer(
            root,
            tables_of(config.parts).with_stored(root, [shard.name for shard in read_shards(root)]),
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
    found: FoundVideos,
    root: Path,
    config: Config,
    stages: tuple[str, ...],
    place: Place,
    watcher: Watcher,
    retry_failed: bool,
    writer: Writer,
    summary: Summary,
) -> None:
    videos = found.videos
    for last in (False, True):  # again for the videos that were written to while they were worked on
        state = State(Dataset(root), stages, retry_failed, config.parts)
        if not last and (gone := state.repaired(found.accepts)):
            forget(root, gone)
            state = State(Dataset(root), stages, retry_failed, config.parts)
        with Planner(config) as planner:
            changes = look(videos, state, planner, watcher.planning)
            if changes.adopt(videos, state, writer):
                state = State(Dataset(root), stages, retry_failed, config.parts)
            state.changed = changes.changed
            if not last:
                summary.changed, summary.moved = len(changes.changed), len(changes.moved)
            units = []
            refused = [] if last else found.refused
            for unit in chain(refused, _to_do(videos, planner, changes, state, watcher)):
                if unit.status == "ok":
                    units.append(unit)
                elif not state.recorded(unit):
                    writer.add(unit, stages=stages, **state.succession(unit))
                    summary.count(unit)
        units = [replace(unit, todo=list(stages)) if unit.todo is None else unit for unit in units]
        units.sort(key=state.lost)  # stable: what was lost before comes last
        if not last:
            inputs = [*videos, *(unit.video for unit in found.refused)]
            wanted = {path_to_text(video.path) for video in inputs}
            summary.already = len(inputs) - len({unit.video.path for unit in units}) - summary.videos
            summary.earlier = [] if retry_failed else state.failures(wanted - changes.changed)
            summary.failed_before = len({path for path, _ in summary.earlier})
        watcher.start(len(units), sum(unit.footage for unit in units), summary.already)
        moving: set[str] = set()
        for unit in run(units, config, stages, place, before=state.done):
            if unit.lost[-1:] == [CHANGED] and not last:
                moving.add(unit.video.path)
                continue
            again_only = unit.stored is not None
            if unit.status == "ok" or not (again_only or state.holds(unit)):  # a failure never replaces good rows
                writer.add(unit, stages=_done(unit, stages, state), **state.succession(unit))
            summary.count(unit)
            watcher.unit(unit)
        videos = [video for video in videos if video.path in moving]
        if not videos:
            return
        writer.flush()


def _done(unit: Unit, stages: Sequence[str], state: State) -> list[str]:
    """All stages whose columns the rows of a unit have now, those of plugins that are not loaded today among them."""
    done = dict.fromkeys([*state.stages_of(unit), *stages])
    known = state.parts.stages
    return [*state.parts.with_needs(name for name in done if name in known), *(n for n in done if n not in known)]


def _to_do(
    videos: Sequence[Video], planner: Planner, changes: Changes, state: State, watcher: Watcher
) -> Iterator[Unit]:
    """Units to be worked on ("ok"), and those that are at their end already: failed, lost, duplicates."""
    wanted = {path_to_text(video.path) for video in videos}
    fresh = [video for video in videos if not state.planned(video)]
    for unit in plan_videos(fresh, planner, changes.seen, state, watcher.planning):
        if not state.recorded(unit):
            yield unit
    listed = {path_to_text(v.path): v for v in videos if v.captions or v.columns or v.spans}
    yield from (unit for unit in state.incomplete(listed) if path_to_text(unit.video.path) in wanted)


def open_dataset(root: Path, config: Config, stages: Sequence[str], models: dict[str, Any]) -> None:
    """Write or extend `dataset.json`. DatasetError if rows of these stages were made under another config or models."""
    made: dict[str, Any] = {"stages": {}, "models": {}}
    if (root / "dataset.json").exists():
        made = read_about(root)
    for stage in stages:
        if stage in made["stages"]:
            _same(root, _as_known(made, stage, config), identity(config, stage), "")
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
        "plugins": [*_others(made, config), *({"source": p.source, "sha256": p.sha256} for p in config.parts.plugins)],
    }
    if about != made:
        write_json(root / "dataset.json", about)


def _others(made: dict[str, Any], config: Config) -> list[dict[str, str]]:
    """Plugins that earlier jobs ran with, and this one does not."""
    now = {plugin.source for plugin in config.parts.plugins}
    return [plugin for plugin in made.get("plugins", ()) if plugin["source"] not in now]


def _as_known(made: dict[str, Any], stage: str, config: Config) -> dict[str, Any]:
    """What a stage was made with, in the keys of today: an older Winnow had some that are gone, and lacked others."""
    parts = made["stages"][stage]
    tree = config.model_dump(mode="json")
    for name, part in parts.items():
        (tree["decode"] if name == "unit_seconds" else tree)[name] = part
    try:
        return identity(recorded(tree, "dataset.json", config.parts), stage)
    except ConfigError:
        return parts


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
