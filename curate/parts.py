"""The lists of all parts of the pipeline, and what plugins add to them.

Everything else is derived from these lists: the config's schema, the columns of the tables, what a stage needs, pools,
`winnow models`, the documentation of scores. A new part is one file and one line here; a user's own part is one file
(`Parts.load`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from curate.base.section import Section
from curate.clip import Column
from curate.models.adapter import Adapter
from curate.models.embedded.conse import ConSE
from curate.models.embedded.facts import MeasuredFacts
from curate.models.embedded.smollm import SmolMerger
from curate.models.embedded.tags import ConceptTags
from curate.models.full.aesthetic import LaionAesthetic
from curate.models.full.clip import OpenClipEmbedder
from curate.models.full.coca import CoCaCaptioner
from curate.models.full.endpoint import EndpointMerger
from curate.models.full.merge import TransformersMerger
from curate.models.full.video_blip import VideoBlipCaptioner
from curate.models.full.video_chat import VideoChatCaptioner
from curate.models.quality import Brisque
from curate.models.safety import OpenNsfw
from curate.models.textboxes import Craft, RapidOcr
from curate.observers.motion import FlowMotion
from curate.observers.observer import Observer
from curate.observers.shots import Shots
from curate.observers.stills import Stills
from curate.part import Part
from curate.pipeline_part import PipelinePart, Role
from curate.selection.presets import PRESETS, Preset
from curate.stages.appearance import Appearance
from curate.stages.captions import Captions
from curate.stages.similarity import Similarity
from curate.stages.stage import Stage
from curate.stages.text import Text

# The pipeline, in the order it runs. Observers share the one decode.
STAGES: list[type[PipelinePart]] = [Shots, FlowMotion, Stills, Text, Appearance, Captions, Similarity]

# Models, by the role that they fill; messages list them in this order.
ADAPTERS: list[type[Adapter]] = [
    Craft,
    RapidOcr,
    ConSE,
    OpenClipEmbedder,
    LaionAesthetic,
    Brisque,
    OpenNsfw,
    ConceptTags,
    CoCaCaptioner,
    MeasuredFacts,
    VideoBlipCaptioner,
    VideoChatCaptioner,
    SmolMerger,
    TransformersMerger,
    EndpointMerger,
]

ENTRY_POINTS = "winnow.parts"  # group of entry points: a list of parts, or a module with a list PARTS
RESERVED = {  # what a config, a unit or an error has already under a name
    "decode", "execution", "export", "filters", "frames", "pack", "parts", "plugins", "prefilter", "recall", "selection",
    "version",
}  # fmt: skip
Kind = TypeVar("Kind", bound=type[Part])


class PluginError(Exception):
    """A plugin that cannot be used. One line: the file, the reason, the fix."""


@dataclass(frozen=True)
class Plugin:
    """Parts of a user. source: the file, or the package and its version. sha256: of the file."""

    source: str
    parts: tuple[Any, ...]
    sha256: str = ""


@dataclass(frozen=True)
class Parts:
    """The parts of one job: those of Winnow and of its plugins."""

    plugins: tuple[Plugin, ...] = ()

    @staticmethod
    def load(files: Sequence[str] = ()) -> Parts:
        """With the parts of installed packages (entry points `winnow.parts`) and of plugin files.

        A plugin is a Python file with a list PARTS: classes of stages, observers, adapters and other subclasses of Part;
        and parts of training. Its code is executed: load only what you trust. Raises PluginError.
        """
        return _load(tuple((name, _digest(name)) for name in files))

    def of(self, kind: Kind) -> list[Kind]:
        """The parts of plugins of one kind, e.g. `of(Adapter)`."""
        return [part for part in self._added if _is_a(part, kind)]

    @property
    def _added(self) -> list[Any]:
        return [part for plugin in self.plugins for part in plugin.parts]

    @property
    def training(self) -> list[Any]:
        """What plugins add to training: sections of a training config, and samplers, which are functions."""
        return [part for part in self._added if not (isinstance(part, Part) or _is_a(part, Part))]

    @property
    def presets(self) -> list[Preset]:
        """Selections with a name."""
        return [*PRESETS, *(part for part in self._added if isinstance(part, Preset))]

    @property
    def stages(self) -> dict[str, type[PipelinePart]]:
        """Name -> part, in the order they run: a plugin's part follows the last one that it needs."""
        order = list(STAGES)
        for part in self.of(PipelinePart):
            needed = [at for at, other in enumerate(order) if other.name in part.needs]
            at = max(needed, default=len(order) - 1) + 1
            if part.prefiltered:  # what a prefilter looks at comes before all that is prefiltered
                at = max(at, next(place for place, other in enumerate(order) if other.prefiltered))
            if issubclass(part, Observer):  # observers run before the first stage
                at = sum(issubclass(other, Observer) for other in order)
            order.insert(at, part)
        return {part.name: part for part in order}

    @property
    def observers(self) -> dict[str, type[Observer]]:
        return {name: part for name, part in self.stages.items() if issubclass(part, Observer)}

    @property
    def adapters(self) -> list[type[Adapter]]:
        return [*ADAPTERS, *self.of(Adapter)]

    def adapter_of(self, section: Any) -> type[Adapter]:
        """The adapter whose options a section of the config are."""
        return next(adapter for adapter in self.adapters if adapter.Options is type(section))

    def adapters_for(self, role: Role) -> list[type[Adapter]]:
        """The adapters that can fill a role."""
        return [adapter for adapter in self.adapters if role.key in (each.key for each in adapter.roles)]

    @property
    def roles(self) -> dict[str, Role]:
        """Key of the config -> role, of all stages."""
        return {role.key: role for part in reversed(self.stages.values()) for role in reversed(part.models)}

    @property
    def columns(self) -> list[Column]:
        """Columns of the clips table; those of plugins come last."""
        return [column for part in self._declared() for column in part.columns]

    @property
    def facts(self) -> list[Column]:
        """Columns of the videos table, beside those of the file."""
        return [column for part in self._declared() for column in part.facts]

    def with_needs(self, names: Iterable[str]) -> tuple[str, ...]:
        """These stages and all that they need, in the order they run."""
        wanted: set[str] = set()
        queue = list(names)
        while queue:
            name = queue.pop()
            if name not in wanted:
                wanted.add(name)
                queue += self.stages[name].needs
                if issubclass(self.stages[name], Observer):
                    queue.append(STAGES[0].name)  # which finds the clips
        return tuple(name for name in self.stages if name in wanted)

    def stage_of(self, key: str) -> str:
        """The stage of a column, or of a key of `Clip.errors`; the key itself if no stage has it."""
        for name, part in self.stages.items():
            if key in part.error_keys or key in (column.name for column in part.columns):
                return name
        return key

    def _declared(self) -> Iterable[type[PipelinePart]]:
        return [*STAGES, *self.of(PipelinePart)]


@lru_cache(maxsize=16)
def _load(files: tuple[tuple[str, str], ...]) -> Parts:
    plugins = [_installed(point) for point in entry_points(group=ENTRY_POINTS)]
    plugins += [_file(name, digest) for name, digest in files]
    parts = Parts(tuple(plugins))
    _check(parts)
    return parts


def _installed(point: Any) -> Plugin:
    try:
        found = point.load()
    except Exception as error:
        raise PluginError(
            f"plugin {point.value}: cannot be imported ({type(error).__name__}: {error}): fix or uninstall its package"
        ) from error
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    return Plugin(package, _parts_of(getattr(found, "PARTS", found), package))


def _digest(name: str) -> str:
    """SHA-256 of a plugin file, so that one that has changed is loaded again."""
    try:
        return hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise PluginError(
            f"plugin {name}: {reason}: give the path of a Python file, on every machine of the job"
        ) from None


def _file(name: str, digest: str) -> Plugin:
    path = Path(name).expanduser().absolute()
    module = f"winnow_plugin_{path.stem}_{digest[:8]}"
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin {name}: is no Python file: its name must end in .py")
        loaded = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:  # as when a script is run: it may import what lies beside it
            sys.path.append(str(path.parent))
        sys.modules[module] = loaded
        try:
            spec.loader.exec_module(loaded)
        except Exception as error:
            del sys.modules[module]
            raise PluginError(f"plugin {name}: cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(sys.modules[module], "PARTS", None)
    if found is None:
        raise PluginError(f"plugin {name}: has no list PARTS: end the file with PARTS = [MyStage]")
    return Plugin(str(path), _parts_of(found, name), digest)


def _is_a(part: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(part, type) and issubclass(part, kind)


def _parts_of(found: Any, source: str) -> tuple[Any, ...]:
    parts = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    for part in parts:
        if not (isinstance(part, (Part, FunctionType)) or _is_a(part, (Part, Section))):
            kinds = "a Stage, Observer, Adapter, Format or Panel, or a Preset(...)"
            raise PluginError(f"plugin {source}: PARTS holds {part!r}, which is no part: list classes: {kinds}")
    return parts


def _check(parts: Parts) -> None:
    """Raise PluginError for a part with missing declarations, or with a name that is in use."""
    names = [part.name for part in STAGES]
    columns = {column.name: part.name for part in STAGES for column in (*part.columns, *part.facts)}
    for plugin in parts.plugins:
        for part in plugin.parts:
            if not _is_a(part, PipelinePart):
                continue
            where = f"plugin {plugin.source}: {part.__name__}"
            if not getattr(part, "name", ""):
                raise PluginError(f"{where}: has no name: set name = '...', as --stages shall call it")
            if not part.name.isidentifier() or part.name in RESERVED | {role.section for role in parts.roles.values()}:
                taken = (
                    "is a section of the config" if part.name.isidentifier() else "has other signs than letters and _"
                )
                raise PluginError(f"{where}: the name {part.name!r} {taken}: choose another")
            if part.name in names:
                raise PluginError(f"{where}: there is a stage named {part.name} already: choose another name")
            if not issubclass(part, (Stage, Observer)):
                raise PluginError(f"{where}: must be a Stage, with process(clips), or an Observer, with see and finish")
            if isinstance(part.needs, str) or not all(isinstance(column, Column) for column in part.columns):
                raise PluginError(f"{where}: needs is a tuple of names, columns a tuple of Column(...): mind the comma")
            if missing := [need for need in part.needs if need not in names]:
                raise PluginError(f"{where}: needs {missing[0]}, which is no stage: choose from {', '.join(names)}")
            if issubclass(part, Observer) and (late := [need for need in part.needs if need not in parts.observers]):
                raise PluginError(f"{where}: needs {late[0]}, which runs after the decode: make it a Stage")
            for column in (*part.columns, *part.facts):
                if column.name in columns:
                    raise PluginError(f"{where}: the column {column.name} is that of {columns[column.name]}: rename it")
                columns[column.name] = part.name
            names.append(part.name)
    presets = [preset.name for preset in parts.presets]
    if twice := [name for name in presets if presets.count(name) > 1]:
        raise PluginError(f"plugin: there are two presets named {twice[0]}: choose another name")
    for role in parts.roles.values():
        kinds = [adapter.kind() for adapter in parts.adapters_for(role)]
        if not kinds or (role.default is not None and role.default not in kinds):
            raise PluginError(
                f"{role.key}: no model {role.default or ''} can fill it: add an Adapter with this role to PARTS"
            )
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise PluginError(f"{role.key}: two models have the kind {kind!r}: give the plugin's another one")


__all__ = ["ADAPTERS", "ENTRY_POINTS", "STAGES", "Parts", "Plugin", "PluginError"]
