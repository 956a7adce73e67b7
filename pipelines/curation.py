"""The list of stages, what each needs, which models a config puts into them, and how they are grouped into pools."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.appearance import Appearance
from curate.captions import Captions
from curate.clip import Unit
from curate.identity import stamp
from curate.isolation import CHANGED, Isolated, Lost, settle
from curate.models import MissingWeights, Weights
from curate.motion import FlowMotion
from curate.prefilter import Prefilter
from curate.rereading import captioner_frames
from curate.similarity import Similarity
from curate.stills import Stills
from curate.text import Text
from curate.watch import VIDEO_COLUMNS, watch
from pipelines.config import Config
from pipelines.dataset import Tables, read_unit
from pipelines.models import Shelf, adapter

BYTES_A_SECOND = 1_250_000  # of footage at a rate that is rarely exceeded
PASS = ("shots", "motion", "stills")
STAGES = (*PASS, "text", "appearance", "captions", "similarity")
NEEDS = {
    "motion": ("shots",),
    "stills": ("shots",),
    "text": ("stills",),
    "appearance": ("stills",),
    "captions": ("stills", "motion"),
    "similarity": ("stills", "captions"),
}
COLUMNS = {
    "motion": FlowMotion.columns,
    "stills": Stills.columns,
    "text": Text.columns,
    "appearance": Appearance.columns,
    "captions": Captions.columns,
    "similarity": Similarity.columns,
}
TABLES = Tables(scores=tuple(column for columns in COLUMNS.values() for column in columns), facts=VIDEO_COLUMNS)
CHEAP = [  # what a prefilter may look at: numbers of the stages before captions
    column.name
    for stage in ("motion", "text", "appearance")
    for column in COLUMNS[stage]
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
]


Step = Callable[[Sequence[Unit]], list[Unit]]


class StageError(Exception):
    """A stage that is not one, and those that are."""


@dataclass(frozen=True)
class Pool:
    """Consecutive stages that share one kind of worker. gpus: GPUs of one worker."""

    stages: tuple[str, ...]
    gpus: float = 0.0


def stage_of(name: str) -> str:
    """The stage that a column or a key of `Clip.errors` belongs to."""
    if name == "frames":  # those that a video captioner wanted
        return "captions"
    return next((stage for stage, columns in COLUMNS.items() if any(c.name == name for c in columns)), name)


def with_needs(names: Sequence[str], config: Config | None = None) -> tuple[str, ...]:
    """The named stages and all that they need, in the order they run in. The config's prefilter has needs too."""
    if not names:
        raise StageError(f"--stages: none named: choose from {', '.join(STAGES)}")
    needs = {name: list(found) for name, found in NEEDS.items()}
    for column in [*config.prefilter.min, *config.prefilter.max] if config else ():
        if column not in CHEAP:
            close = difflib.get_close_matches(column, CHEAP, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(CHEAP)}"
            raise StageError(f"prefilter: {column} is not a score that is known before captions: {hint}")
        needs["captions"].append(stage_of(column))
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in STAGES:
            raise StageError(f"--stages {name}: no such stage: choose from {', '.join(STAGES)}")
        if name not in wanted:
            wanted.add(name)
            queue += needs.get(name, ())
    return tuple(name for name in STAGES if name in wanted)


def pools_of(config: Config, stages: Sequence[str]) -> list[Pool]:
    """Without GPUs one pool, so that a unit stays in one process; with GPUs the decode has one, and every model stage."""
    if config.execution.gpus == 0:
        return [Pool(tuple(stages))]
    decode = tuple(name for name in stages if name in PASS)
    pools = [Pool(decode)] if decode else []
    return pools + [Pool((name,), config.execution.gpus) for name in stages if name not in PASS]


def build(config: Config, stages: Sequence[str]) -> list[Step]:
    """The callables of one worker: each maps units to units. Every model is loaded once, whichever stages share it."""
    shelf = Shelf(config)
    steps: list[Step] = [recall]
    if any(name in PASS for name in stages):
        steps.append(Pass(config))
    if "text" in stages:
        steps.append(Text(shelf.get(config.text)))
    if "appearance" in stages:
        chosen = config.appearance
        steps.append(
            Appearance(
                shelf.get(config.embedder),
                aesthetic=shelf.get(chosen.aesthetic),
                quality=shelf.get(chosen.quality),
                nsfw=shelf.get(chosen.nsfw),
            )
        )
    if "captions" in stages:
        chosen = config.captions
        if captioner_wants(config):
            steps.append(Frames(config))
        captions = Captions(shelf.get(chosen.frame), shelf.get(chosen.video), shelf.get(chosen.merge))
        steps.append(_filtered(captions, config))
    if "similarity" in stages:
        steps.append(_filtered(Similarity(shelf.get(config.embedder)), config))
    return steps


RECALL = "recall"  # a fact of units that are in the dataset already: [dataset, shard] to read their rows from


def recall(units: Sequence[Unit]) -> list[Unit]:
    """Reads the stored rows of units that come back for more stages, here in the worker: stills need not pass the driver."""
    for unit in units:
        if place := unit.facts.get(RECALL):
            root, shard = place
            stamps = {name: unit.facts[name] for name in ("bytes", "modified") if name in unit.facts}
            stored = read_unit(Path(root), shard, unit, TABLES)
            for name in ("video", "count", "start", "end", "status", "error", "warnings", "facts", "clips", "seconds"):
                setattr(unit, name, getattr(stored, name))
            unit.facts |= stamps
            for clip in unit.clips:  # what is done again speaks for itself
                clip.errors = {key: reason for key, reason in clip.errors.items() if not unit.wants(stage_of(key))}
    return list(units)


def _filtered(stage: Any, config: Config) -> Any:
    rule = config.prefilter
    return Prefilter(stage, minimum=rule.min, maximum=rule.max) if rule.min or rule.max else stage


def captioner_wants(config: Config) -> int:
    """How many decoded frames of each clip the video captioner wants."""
    return getattr(config.captions.video, "frames", 0)


MOVED_ON = Lost(
    "was written to while it was worked on: wait until it is whole, then run the same command again", CHANGED
)


def moved_on(unit: Unit, now: dict[str, int | None]) -> bool:
    """The file is there, and is not the one that the unit was planned of."""
    planned = {name: unit.facts.get(name) for name in now}
    return None not in planned.values() and None not in now.values() and planned != now


def limit_of(config: Config, unit: Unit) -> float:
    """Seconds that decoding a unit may take: by its footage, of which a file's size tells where its header is silent."""
    facts = unit.facts
    by_size = (facts.get("bytes") or 0) / unit.count / BYTES_A_SECOND
    pixels = (facts.get("width") or 0) * (facts.get("height") or 0)
    return config.decode.time_limit(max(unit.footage, by_size), pixels)


class Pass:
    """The single decode of a unit, in a child process if the config says so."""

    def __init__(self, config: Config) -> None:
        self.config, self.isolated = config, _child(config)

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            observers = [name for name in PASS if unit.wants(name)]
            if not observers:
                continue
            seen = self.watch(replace(unit, clips=[]))
            if seen.status == "lost":
                unit.lost = seen.lost
                unit.lose(seen.error)
                continue
            if unit.clips and seen.status != "ok":  # what earlier runs found stays
                for clip in unit.clips:
                    clip.errors |= dict.fromkeys(observers, seen.error)
                continue
            if unit.clips:
                _keep_stored(unit, seen, observers)
            for name in ("video", "status", "error", "warnings", "facts", "clips", "seconds"):
                setattr(unit, name, getattr(seen, name))
        return list(units)

    def watch(self, unit: Unit) -> Unit:
        """The unit after its decode; lost, where its file is not what was planned, or is not the same at the end."""
        before = stamp(unit.video.path)
        if moved_on(unit, before):
            return settle(unit, MOVED_ON)
        options = self.options(unit)
        if self.isolated:
            unit = self.isolated.watch(unit, limit_of(self.config, unit), **options)
        else:
            unit = watch(unit, **options)
        return settle(unit, MOVED_ON) if moved_on(unit, before) or stamp(unit.video.path) != before else unit

    def options(self, unit: Unit) -> dict[str, Any]:
        config = self.config
        shots = config.shots.model_dump()
        stills = config.stills.model_dump()
        stills["captioner_frames"] = captioner_wants(config) if unit.wants("captions") else 0
        return {
            "shots": shots,
            "motion": config.motion.model_dump() if unit.wants("motion") else None,
            "stills": stills if unit.wants("stills") else None,
            "decode": {"threads": config.decode.threads, "max_pixels": config.decode.max_pixels},
        }


def _keep_stored(stored: Unit, seen: Unit, observers: Sequence[str]) -> None:
    """Add to a repeated pass what other stages had said of the same clips, and to its counts those of the first."""
    before = {(clip.start_frame, clip.end_frame): clip for clip in stored.clips}
    if before.keys() != {(clip.start_frame, clip.end_frame) for clip in seen.clips}:
        raise RuntimeError(
            "the clips found now are not those recorded: the file has changed, or Winnow has; annotate anew"
        )
    for clip in seen.clips:
        old = before[clip.start_frame, clip.end_frame]
        clip.values = old.values | clip.values
        clip.errors = {key: reason for key, reason in old.errors.items() if key not in observers} | clip.errors
    seen.facts["frames_decoded"] += stored.facts.get("frames_decoded") or 0
    seen.seconds = {
        **stored.seconds,
        **seen.seconds,
        "decode": seen.seconds["decode"] + stored.seconds.get("decode", 0.0),
    }


class Frames:
    """Reads the frames that a video captioner wants, for units whose pass was done in an earlier run."""

    def __init__(self, config: Config) -> None:
        self.config, self.isolated = config, _child(config)

    def __call__(self, units: Sequence[Unit]) -> list[Unit]:
        options = {"count": captioner_wants(self.config), "size": self.config.stills.size}
        for unit in units:
            if not unit.wants("captions") or any(clip.frames for clip in unit.clips):
                continue
            if moved_on(unit, stamp(unit.video.path)):
                settle(unit, MOVED_ON)
            elif self.isolated:
                self.isolated.frames(unit, limit_of(self.config, unit), **options)
            else:
                captioner_frames(unit, **options)
        return list(units)


def _child(config: Config) -> Isolated | None:
    decode = config.decode
    return Isolated(timeout=decode.timeout_seconds, memory_gb=decode.memory_gb) if decode.isolate else None


# --- what a config means for a dataset


def identity(config: Config, stage: str) -> dict[str, Any]:
    """The part of a config that a stage's columns depend on: rows made under another one must not be mixed."""
    parts: dict[str, Any] = {
        "shots": {"shots": config.shots, "unit_seconds": config.decode.unit_seconds},
        "motion": {"motion": config.motion},
        "stills": {"stills": config.stills},
        "text": {"text": config.text},
        "appearance": {"embedder": config.embedder, "appearance": config.appearance},
        "captions": {"captions": config.captions, "prefilter": config.prefilter},
        "similarity": {"embedder": config.embedder, "prefilter": config.prefilter},
    }[stage]
    return {name: part.model_dump(mode="json") if hasattr(part, "model_dump") else part for name, part in parts.items()}


def roles(config: Config, stages: Sequence[str]) -> list[tuple[str, Any]]:
    """(column, model section) of every model that these stages use."""
    appearance, captions = config.appearance, config.captions
    chosen: dict[str, list[tuple[str, Any]]] = {
        "shots": [("shots", config.shots)] if config.shots.detector == "transnetv2" else [],
        "text": [("text_area", config.text)],
        "appearance": [
            ("image_embedding", config.embedder),
            ("aesthetic_score", appearance.aesthetic),
            ("technical_quality", appearance.quality),
            ("nsfw_score", appearance.nsfw),
        ],
        "captions": [
            ("caption_frame", captions.frame),
            ("caption_video", captions.video),
            ("caption_merged", captions.merge),
        ],
        "similarity": [("similarity", config.embedder)],
    }
    return [(column, section) for stage in stages for column, section in chosen.get(stage, []) if section is not None]


def weights(config: Config, stages: Sequence[str]) -> list[tuple[str, Weights]]:
    """(column, weights) of every file that these stages load; nothing is loaded."""
    found = []
    for column, section in roles(config, stages):
        kind, arguments = adapter(section, config)
        found += [(column, item) for item in kind.weights(**arguments)]
    return found


def check_weights(config: Config, stages: Sequence[str]) -> dict[str, Any]:
    """Names and hashes of the models by column, to be recorded; MissingWeights before any work is done."""
    recorded: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for column, section in roles(config, stages):
        kind, arguments = adapter(section, config)
        files = kind.weights(**arguments)
        for item in files:
            if item.path is None and not getattr(section, "allow_download", False):
                raise MissingWeights(item)
            if str(item.path) not in digests:
                digests[str(item.path)] = item.digest()
        recorded[column] = {
            "kind": section.kind if hasattr(section, "kind") else section.detector,
            "pack": config.pack,
            "weights": [
                {"model": item.model, "source": item.source, "sha256": digests[str(item.path)]} for item in files
            ],
        }
    return recorded
