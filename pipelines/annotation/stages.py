"""The list of stages, what each needs, which models a config puts into them, and how they are grouped into pools."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.clip import Unit
from curate.models import MissingWeights, Weights
from curate.observers.motion import FlowMotion
from curate.observers.stills import Stills
from curate.observers.transitions import weights_file
from curate.stages.appearance import Appearance
from curate.stages.captions import Captions
from curate.stages.prefilter import Prefilter
from curate.stages.similarity import Similarity
from curate.stages.text import Text
from curate.watching.watch import VIDEO_COLUMNS
from pipelines.annotation.decoding import PASS, Frames, Pass, captioner_wants
from pipelines.annotation.models import Shelf, adapter
from pipelines.config import Config
from pipelines.dataset.dataset import Tables, read_unit
from pipelines.sources.listed import retell

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
            if unit.video.captions or unit.video.columns or unit.video.spans:  # what the list says now
                retell(stored, unit.video)
            for name in ("video", "count", "start", "end", "status", "error", "warnings", "facts", "clips", "seconds"):
                setattr(unit, name, getattr(stored, name))
            unit.facts |= stamps
            for clip in unit.clips:  # what is done again speaks for itself
                clip.errors = {key: reason for key, reason in clip.errors.items() if not unit.wants(stage_of(key))}
    return list(units)


def _filtered(stage: Any, config: Config) -> Any:
    rule = config.prefilter
    return Prefilter(stage, minimum=rule.min, maximum=rule.max) if rule.min or rule.max else stage


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
    if "shots" in stages and config.shots.detector == "cascade":
        judge = {
            "model": "judge of transitions",
            "source": "in the package",
            "sha256": sha256(weights_file()).hexdigest(),
        }
        recorded["shots"] = {"kind": "cascade", "pack": config.pack, "weights": [judge]}
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
