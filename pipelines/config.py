"""The config of a job: typed, with defaults that work, and unknown keys as errors.

A config is a YAML file (`pipelines/configs/*.yaml`), or the name of one that ships with Winnow; `--set a.b=value` overrides
a key. Stages and models declare their sections in their own files. `dataset.json` records
the resolved config, independent of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator, model_validator

from curate.base.section import Section
from curate.parts import Parts, PluginError
from curate.pipeline_part import PipelinePart, Role
from curate.selection.filters import Filter, SelectionError, parse_filters
from curate.watching.facts import FILE_COLUMNS
from pipelines.dataset.tables import CLIP_IDENTITY, CLIP_TAIL, VIDEO_IDENTITY
from pipelines.formats.format import Format
from pipelines.formats.formats import FORMATS
from pipelines.formats.options import Export, export_section
from pipelines.typed_yaml import ConfigError, drop_unknown_keys, find, override, read_tree, validate

FULL_HD = 1920 * 1080


class DecodeOptions(Section):
    unit_seconds: float = Field(300.0, gt=0, description="long videos are split into units of about this length")
    open_seconds: float = Field(
        30.0,
        gt=0,
        description="a file that is not opened in this time, and a second for each 10 MB, is retried later",
    )
    timeout_seconds: float = Field(60.0, gt=0, description="time limit of a decode, beside that for its footage ...")
    timeout_per_second: float = Field(
        10.0,
        ge=0,
        description="... for each second of 1080p footage; more for larger pictures. Twice: recorded as failed",
    )
    memory_gb: float = Field(4.0, gt=0, description="a decode that needs more memory, twice, is recorded as failed")
    max_pixels: int = Field(8192 * 4320, gt=0, description="largest width x height that is opened")
    threads: int = Field(1, ge=1, description="FFmpeg threads of one decode")
    isolate: bool = Field(True, description="decode in a child process, so that a crash costs one unit")

    def time_limit(self, seconds: float, pixels: int = FULL_HD) -> float:
        """Time limit of decoding this many seconds of footage, s. pixels: width x height."""
        return self.timeout_seconds + self.timeout_per_second * seconds * max(1.0, pixels / FULL_HD)

    @property
    def cut_limits(self) -> dict[str, Any]:
        """Limits of cutting one clip, which may have to decode from a keyframe far before it."""
        seconds = max(self.timeout_seconds, self.time_limit(self.unit_seconds) / 2)
        return {"max_pixels": self.max_pixels, "timeout_seconds": seconds, "memory_gb": self.memory_gb}


class PrefilterOptions(Section):
    """Clips outside these bounds are not captioned. They stay, with the reason. Empty: every clip is captioned."""

    min: dict[str, float] = Field({}, description="column: lowest value of a clip that is captioned")
    max: dict[str, float] = Field({}, description="column: highest value")


class ExecutionOptions(Section):
    executor: Literal["ray", "inline"] = "ray"
    workers: int | None = Field(None, ge=1, description="processes; unset: one a core, as memory allows")
    threads: int = Field(1, ge=1, description="threads of the models in one worker")
    gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs of one worker of the stages whose models can use one; a share of one GPU is rounded to 1/n",
    )
    gpu_gb: float | None = Field(
        None, gt=0, description="memory of one GPU, GB: no more workers share one than it holds; unset: not known"
    )
    batch_clips: int = Field(
        64,
        ge=1,
        description="clips of one or more units that a worker on a GPU gets at a time, for its models to batch",
    )
    address: str | None = Field(None, description="Ray cluster, e.g. auto or ray://head:10001")
    shard_clips: int = Field(1000, ge=1, description="a shard is committed at this many clips")
    shard_seconds: float = Field(
        30.0, gt=0, description="... or after this time, whichever is first: what a kill can cost"
    )


class Config(Section):
    """The keys that belong to no part. `schema` makes the class in use, with the sections of the parts."""

    parts: ClassVar[Parts]

    pack: str = Field("embedded", description="name of the set of models, recorded with the scores")
    plugins: list[str] = Field(
        [], description="Python files with parts of your own; paths as seen from the config file"
    )
    decode: DecodeOptions = DecodeOptions()
    prefilter: PrefilterOptions = PrefilterOptions()
    selection: str | dict | list = Field({}, description="filters: a preset's name, a mapping, or a list of steps")
    export: Export = Export()
    execution: ExecutionOptions = ExecutionOptions()

    @field_validator("selection")
    @classmethod
    def _filters(cls, value: Any) -> Any:
        try:
            parse_filters(value, cls.parts.presets)
        except SelectionError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _check_parts(self) -> Config:
        for part in self.parts.stages.values():
            part.check(self)
        return self

    @property
    def filters(self) -> list[Filter]:
        return parse_filters(self.selection, self.parts.presets)


# --- the schema, derived from the parts


@lru_cache(maxsize=16)
def schema(parts: Parts) -> type[Config]:
    """The config class of a job with these parts: with a section for each part that has options or models."""
    taken = {column.name for column in (*CLIP_IDENTITY, *CLIP_TAIL, *VIDEO_IDENTITY, *FILE_COLUMNS)}
    taken |= {"label", "label_note", "video", "video_codec", "cut"}  # of labels, and of curated clips
    if clash := [c.name for part in parts.of(PipelinePart) for c in (*part.columns, *part.facts) if c.name in taken]:
        raise PluginError(f"plugin: the column {clash[0]} is in every table already: rename it")
    fields: dict[str, Any] = {}
    for part in parts.stages.values():
        for role in part.models:
            if not role.field:
                fields[role.section] = _choice(role, parts)
        own = [role for role in part.models if role.field and role.section == part.name]
        if own or part.Options.model_fields:
            models = {role.field: _choice(role, parts) for role in own}
            section = create_model(part.Options.__name__, __base__=part.Options, **models) if own else part.Options
            fields[part.name] = (section, section())
    if formats := parts.of(Format):
        section = export_section([*FORMATS, *formats])
        fields["export"] = (section, section())
    made = create_model("Config", __base__=Config, **fields)
    made.parts = parts
    return made


def _choice(role: Role, parts: Parts) -> tuple[Any, Any]:
    """Type and default of a key that chooses a model: any adapter that can fill the role, by its `kind`."""
    options = {adapter.kind(): adapter.Options for adapter in parts.adapters_for(role)}
    kinds: Any = reduce(or_, options.values())
    if len(options) > 1:
        kinds = Annotated[kinds, Field(discriminator="kind")]
    default = options[role.default]() if role.default else None
    return (kinds | None if role.optional else kinds), Field(default, description=role.note)


# --- loading


def load(name: str = "quickstart", overrides: tuple[str, ...] | list[str] = (), plugins: Sequence[str] = ()) -> Config:
    """A config by file name, or by the name of a shipped one. plugins: files in addition to those that it names.

    ConfigError names the key and the fix. Raises PluginError.
    """
    path = find(name)
    tree = read_tree(path, overrides)
    named = tree.get("plugins") or []
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise ConfigError(f"{path}: plugins must be a list of paths of Python files (got {named!r})")
    beside = [str((path.parent / Path(item).expanduser()).absolute()) for item in named]
    tree["plugins"] = list(dict.fromkeys([*beside, *(str(Path(item).expanduser().absolute()) for item in plugins)]))
    return resolve(tree, str(path))


def resolve(tree: dict, origin: str) -> Config:
    """The config of a tree of keys; loads its plugins."""
    return validate(schema(Parts.load(tree.get("plugins") or ())), tree, origin)


def load_recorded(tree: dict, origin: str, parts: Parts | None = None) -> Config:
    """The recorded config of a dataset, maybe of an older Winnow: unknown keys are ignored.

    Plugins that a dataset names are never executed; those of `parts` are loaded already.
    """
    kind = schema(parts or Parts.load())
    tree = _without_plugins(drop_unknown_keys(kind, tree | {"plugins": []}), kind.parts)
    export = tree.get("export") or {}
    if export.get("format") not in [format.name for format in (*FORMATS, *kind.parts.of(Format))]:  # a plugin's
        export.pop("format", None)
    return validate(kind, tree, origin)


def _without_plugins(tree: dict, parts: Parts) -> dict:
    """Less the models and the selection that are chosen by the name of a part that is not loaded: the defaults stand."""
    for role in parts.roles.values():
        section, kinds = tree.get(role.section), [adapter.kind() for adapter in parts.adapters_for(role)]
        place, key = (section, role.field) if role.field else (tree, role.section)
        chosen = place.get(key) if isinstance(place, dict) else None
        if isinstance(chosen, dict) and chosen.get("kind") not in (None, *kinds):
            del place[key]
    named = tree.get("selection")
    if isinstance(named, str) and named not in [preset.name for preset in parts.presets]:
        del tree["selection"]
    return tree


__all__ = ["Config", "ConfigError", "load", "load_recorded", "override", "resolve", "schema"]
