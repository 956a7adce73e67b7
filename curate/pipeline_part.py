"""The base class of observers and stages, and the places in a config where models are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from curate.base.section import Section
from curate.clip import Clip, Column
from curate.part import Part
from curate.weights import Weights


@dataclass(frozen=True)
class Role:
    """A place in the config where a model is chosen.

    key: where, e.g. "captions.frame"; "text" is a whole section. column: name under which the model is recorded, usually the
    column that it fills. argument: of the stage's constructor that takes the model; unset: the last word of `key`.
    default: `kind` of the default adapter; None: no model. optional: may be null.
    """

    key: str
    column: str
    argument: str = ""
    default: str | None = None
    optional: bool = True
    note: str | None = None

    @property
    def section(self) -> str:
        """The top-level key of the config that contains it."""
        return self.key.partition(".")[0]

    @property
    def field(self) -> str:
        """Its key within that section; "" if it is the whole section."""
        return self.key.partition(".")[2]

    @property
    def parameter(self) -> str:
        return self.argument or self.field or self.key

    def chosen(self, config: Any) -> Any:
        """The section of the model that a config chooses; None for none."""
        section = getattr(config, self.section)
        return getattr(section, self.field) if self.field and section is not None else section


class PipelinePart(Part):
    """Base class of observers and stages: one entry of the pipeline, which fills columns of clips.

    needs: names of the parts whose columns it reads. columns: of the clips table. facts: of the videos table. Options: its
    section of the config, under its name. models: the places in the config where its models are chosen.
    also: other keys of the config that its rows depend on, e.g. "decode.unit_seconds". error_keys: other keys of
    `Clip.errors` that it writes. prefiltered: expensive, and skipped for clips outside of the config's prefilter.
    version: increase it when the same input gives other results: rows of two versions are never mixed.
    gpu: it can run on a GPU itself (its models declare that themselves). memory: bytes of one worker, beside models.
    separable: keys of those of its models that depend on none of the others, and fill columns of their own, which name them
    in `models`: such a model that runs on a CPU does so before, and holds no GPU that the others need.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[Column, ...]] = ()
    facts: ClassVar[tuple[Column, ...]] = ()
    Options: ClassVar[type[Section]] = Section
    models: ClassVar[tuple[Role, ...]] = ()
    also: ClassVar[tuple[str, ...]] = ()
    error_keys: ClassVar[tuple[str, ...]] = ()
    prefiltered: ClassVar[bool] = False
    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = False
    memory: ClassVar[float] = 0.0
    separable: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def weights(cls, section: Any) -> Sequence[Weights]:
        """Weights that it loads itself, beside its models'. section: its own, of the config."""
        return ()

    @classmethod
    def kind(cls, section: Any) -> str:
        """Name under which `weights` are recorded."""
        return cls.name

    @classmethod
    def frames(cls, config: Any) -> int:
        """How many evenly spaced frames of each clip it needs in `Clip.frames`; 0: none."""
        return 0

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise ValueError, with key and fix, for a config whose sections are not consistent."""

    @classmethod
    def arguments(cls, section: Any) -> dict[str, Any]:
        """The options in its section of the config, as keyword arguments, without the models chosen there."""
        return {name: getattr(section, name) for name in cls.Options.model_fields}

    @classmethod
    def sections(cls) -> tuple[str, ...]:
        """Top-level keys of the config that its rows depend on."""
        own = [cls.name] if has_section(cls) else []
        return tuple(dict.fromkeys([*own, *(role.section for role in cls.models)]))


def has_section(part: type[PipelinePart]) -> bool:
    """Whether the config has a section under the part's own name."""
    return bool(part.Options.model_fields) or any(role.section == part.name for role in part.models)


def check_values(part: type[PipelinePart] | PipelinePart, clips: Sequence[Clip]) -> None:
    """Make null, with the reason, what a part wrote and a table cannot hold, and what it did not write although nothing
    failed."""
    keys = {part.name, *part.error_keys, *(column.name for column in part.columns)}
    for clip in clips:
        failed = bool(keys & clip.errors.keys())
        for column in part.columns:
            reason = column.problem(clip.values.get(column.name))
            if column.name not in clip.values and not failed:
                reason = f"{column.name}: no value was written"
            if reason:
                clip.values[column.name] = None
                clip.errors.setdefault(part.name, reason)
