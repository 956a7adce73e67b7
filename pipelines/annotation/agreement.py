"""`dataset.json`: the config and models of a dataset's rows, and whether this job is consistent with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow.parquet as pq

from curate.base.store import Store
from curate.base.store.files import opened
from curate.parts import Parts
from curate.pipeline_part import PipelinePart
from pipelines.annotation.stages import VERSION, short_key, stage_identity
from pipelines.config import Config, ConfigError, load_recorded
from pipelines.dataset.dataset import FORMAT, DatasetError, read_about
from pipelines.dataset.lock import LEASE_NAME, LOCK
from pipelines.sources.stream import HELD

__all__ = ["check_types", "open_dataset", "refuse_foreign"]

LOG = logging.getLogger("winnow")
OURS = (f"{HELD}/", "status.json", "events/")  # what there may be before there is a dataset


def open_dataset(root: Store, config: Config, stages: Sequence[str], models: dict[str, Any]) -> None:
    """Write or extend `dataset.json`. Raises DatasetError if rows of these stages were made with another config or models."""
    made: dict[str, Any] = {"stages": {}, "models": {}}
    if root.exists("dataset.json"):
        made = read_about(root)
    for stage in stages:
        if stage in made["stages"]:
            before, now = _in_current_keys(made, stage, config), stage_identity(config, stage)
            if before.get(VERSION) != now.get(VERSION):
                raise DatasetError(
                    f"{root}: its {stage} is of version {before.get(VERSION, 1)}, the plugin's of {now.get(VERSION, 1)}: "
                    "rows of two versions are never mixed: choose another --out"
                )
            _require_equal(root, before, now, "")
    for column, model in models.items():
        if column in made["models"]:
            _require_equal(root, made["models"][column], model, f"the model of {column}: ")
    resolved = config.model_dump(mode="json")
    for sections in made["stages"].values():  # keep the recorded config of stages that are not run now
        _write_sections(resolved, sections, config.parts)
    about = {
        "format": FORMAT,
        "winnow": version("winnow"),
        "config": resolved,
        "stages": made["stages"] | {stage: stage_identity(config, stage) for stage in stages},
        "models": made["models"] | models,
        "plugins": _all_plugins(root, made.get("plugins", []), config),
    }
    if about != made:
        root.replace("dataset.json", json.dumps(about, indent=1, ensure_ascii=False).encode())


def _all_plugins(root: Store, earlier: list[dict[str, str]], config: Config) -> list[dict[str, str]]:
    """Every plugin file that rows of the dataset may be of. Warns of one that has changed since."""
    now = [{"source": plugin.source, "sha256": plugin.sha256} for plugin in config.parts.plugins]
    known = {plugin["source"]: plugin["sha256"] for plugin in earlier}
    for plugin in now:
        if known.get(plugin["source"], plugin["sha256"]) != plugin["sha256"]:
            LOG.warning(
                "%s has changed since rows of %s were made with it: if its numbers are others now, raise the stage's "
                "version and choose another --out",
                plugin["source"],
                root,
            )
    return [*earlier, *(plugin for plugin in now if plugin not in earlier)]


def check_types(store: Store, config: Config, shards: Iterable[str]) -> None:
    """DatasetError where a plugin's column has another type than its rows in the dataset."""
    declared = {c.name: c.type for part in config.parts.of(PipelinePart) for c in (*part.columns, *part.facts)}
    for shard in shards if declared else ():
        for table in ("clips", "videos"):
            with opened(store.where(f"{table}/part-{shard}.parquet")) as stream:
                schema = pq.read_schema(stream)
            for field in schema:
                if declared.get(field.name, field.type) != field.type:
                    raise DatasetError(
                        f"{store}: its column {field.name} is {field.type}, the plugin's is {declared[field.name]}: give the "
                        "column another name, or choose another --out"
                    )


def _in_current_keys(made: dict[str, Any], stage: str, config: Config) -> dict[str, Any]:
    """The recorded identity of a stage with the current config keys: an older Winnow may have had others."""
    sections = made["stages"][stage]
    tree = config.model_dump(mode="json")
    _write_sections(tree, sections, config.parts)
    try:
        now = stage_identity(load_recorded(tree, "dataset.json", config.parts), stage)
    except ConfigError:
        return sections
    version = {VERSION: sections[VERSION]} if VERSION in sections else {}
    return {name: part for name, part in now.items() if name != VERSION} | version


def _write_sections(tree: dict[str, Any], sections: dict[str, Any], parts: Parts) -> None:
    """The inverse of `stage_identity`: write the sections back into a tree of config keys."""
    inside = {short_key(key, part.also): key for part in parts.stages.values() for key in part.also}
    for name, value in sections.items():
        if name == VERSION:
            continue
        *parents, last = inside.get(name, name).split(".")
        place = tree
        for key in parents:
            place = place[key]
        place[last] = value


def refuse_foreign(root: Store) -> None:
    """Raise DatasetError for a place that has other files and no dataset."""
    others = (
        entry for entry in root.list() if entry.name not in (LOCK, LEASE_NAME) and not entry.name.startswith(OURS)
    )
    if not root.exists("dataset.json") and next(others, None) is not None:
        raise DatasetError(f"{root}: holds other files and no dataset: choose an empty or a new folder for --out")


def _require_equal(root: Store, made: Any, now: Any, key: str) -> None:
    """Raise DatasetError that names the first key that differs."""
    if isinstance(made, dict) and isinstance(now, dict):
        for name in made.keys() | now.keys():
            _require_equal(
                root,
                made.get(name),
                now.get(name),
                f"{key}.{name}" if key and not key.endswith(": ") else f"{key}{name}",
            )
    elif made != now:
        raise DatasetError(
            f"{root}: was made with {key} = {made}, this job has {now}: choose another --out, or set it as before"
        )
