"""`dataset.json`: what a dataset's rows were made with, and whether this job would make the same."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curate.base.files import write_json
from curate.parts import Parts
from pipelines.annotation.stages import VERSION, identity
from pipelines.config import Config, ConfigError, recorded
from pipelines.dataset.claims import LOCK
from pipelines.dataset.dataset import FORMAT, DatasetError, read_about
from pipelines.sources.sources import HELD

__all__ = ["open_dataset", "refuse_foreign"]


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
    for sections in made["stages"].values():  # rows of stages that are not run now keep the config they were made with
        _put(resolved, sections, config.parts)
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
    sections = made["stages"][stage]
    tree = config.model_dump(mode="json")
    _put(tree, sections, config.parts)
    try:
        now = identity(recorded(tree, "dataset.json", config.parts), stage)
    except ConfigError:
        return sections
    version = {VERSION: sections[VERSION]} if VERSION in sections else {}
    return {name: part for name, part in now.items() if name != VERSION} | version


def _put(tree: dict[str, Any], sections: dict[str, Any], parts: Parts) -> None:
    """Write what `identity` took out of a config back into its tree of keys."""
    inside = {key.rpartition(".")[2]: key.split(".")[:-1] for part in parts.stages.values() for key in part.also}
    for name, value in sections.items():
        if name == VERSION:
            continue
        place = tree
        for key in inside.get(name, ()):
            place = place[key]
        place[name] = value


def refuse_foreign(root: Path) -> None:
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
