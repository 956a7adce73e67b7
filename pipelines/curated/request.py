"""What is asked of a curated dataset, how the work is done, and what a folder holds of it already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from curate.base.store.places import Store, store_of
from curate.selection.filters import Filter
from pipelines.curated.cutting import Cutters, MapFn
from pipelines.curated.plan.planned import SourceRoots
from pipelines.dataset import labels
from pipelines.dataset.dataset import Dataset
from pipelines.formats.format import Format
from pipelines.formats.formats import FORMATS

if TYPE_CHECKING:
    from pipelines.config import Config

__all__ = [
    "DONE",
    "PARTIAL",
    "REQUEST",
    "Cluster",
    "CuratedError",
    "CuratedRequest",
    "Progress",
    "State",
    "Work",
    "older_digest",
    "state_of",
]

PARTIAL = ".partial"  # folder of a curated dataset that is not finished
REQUEST, DONE = "request.json", "selection.json"  # what is asked for; what says that it is finished
CHILD_LIMITS = {"timeout": "timeout_seconds", "memory_gb": "memory_gb"}  # of Cutters: of a config's decode section
NAMES = {  # of a request's keys, in messages
    "dataset": "the dataset has changed since",
    "shard_bytes": "shard size",
    "labels": "clips were labelled since",
    "source_roots": "where the sources lie",
}

Progress = Callable[[int, int, int], None]  # clips done, clips in all, clips failed


class CuratedError(Exception):
    """A curated dataset that cannot be made. One line: the folder, the reason, the fix."""


@dataclass(frozen=True)
class CuratedRequest:
    """What decides the files of a curated dataset, beside the annotated one: the same request gives the same files.

    seed: the order of the clips is that of md5("seed:clip_id"). shard_bytes: about what a shard takes. options: of
    `curate.export.span.ClipForm` (snap, size, fps, codec, crf, trim ...). source_roots: old -> new beginning of the paths of
    sources that were moved since they were annotated.
    """

    filters: Sequence[Filter]
    seed: int = 0
    shard_bytes: int = 256_000_000
    options: Mapping[str, Any] = field(default_factory=dict)
    format: Format = field(default_factory=FORMATS[0])
    source_roots: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: Config, filters: Sequence[Filter] | None = None, source_roots: Mapping[str, str] | None = None
    ) -> CuratedRequest:
        """As a config's sections `selection` and `export` ask for it. filters: in place of the selection's."""
        export = config.export
        chosen = config.filters if filters is None else filters
        return cls(chosen, export.seed, export.shard_bytes, export.options, export.chosen, source_roots or {})

    @property
    def form(self) -> dict[str, Any]:
        """The options that say something, in order of their names."""
        return {name: value for name, value in sorted(self.options.items()) if value is not None}

    @property
    def roots(self) -> dict[str, str]:
        return {SourceRoots.absolute(old): SourceRoots.absolute(new) for old, new in self.source_roots.items()}

    def to_dict(self, dataset: Dataset | None = None) -> dict[str, Any]:
        """As JSON values, to tell whether another one is the same. dataset: None: only what is known before there is
        one."""
        found: dict[str, Any] = {
            "filters": [chosen.to_dict() for chosen in self.filters],
            "seed": self.seed,
            "shard_bytes": self.shard_bytes,
            "options": self.form,
        }
        if dataset is not None:
            found["dataset"] = _digest(dataset)
            if self.roots:
                found["source_roots"] = self.roots
            if any("label" in chosen.sql.lower() for chosen in self.filters):  # other clips, once more are labelled
                found["labels"] = labels.digest(dataset.store)
        written = self.format.to_dict()
        if written != FORMATS[0]().to_dict():  # older curated datasets name no format
            found["format"] = written
        return found


@dataclass(frozen=True)
class Cluster:
    """Ray's workers. address: of a cluster, None: this machine. config: of the job, as JSON: each worker makes the format
    of it."""

    address: str | None
    config: str


@dataclass(frozen=True)
class Work:
    """How a curated dataset is made. Nothing of this shows in its files, so a job may be resumed with other values.

    limits: of a decode, as in the config: max_pixels of a picture, timeout_seconds for a clip, memory_gb of a process; they
    say what can be cut and not what comes of it. workers: processes that cut. map_fn: in their place, anything that turns
    jobs into results in the same order. cluster: Ray's workers cut and write, not this machine's processes.
    note: is told what is waited for.
    """

    limits: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    map_fn: MapFn | None = None
    progress: Progress | None = None
    cluster: Cluster | None = None
    note: Callable[[str], None] = lambda _: None

    @property
    def form(self) -> dict[str, Any]:
        """The limits that are options of `curate.export.span.ClipForm`."""
        return {name: self.limits[name] for name in ("max_pixels",) if self.limits.get(name) is not None}

    @contextmanager
    def cutters(self) -> Iterator[MapFn]:
        if self.map_fn:
            yield self.map_fn
            return
        with Cutters(self.workers, **self.child) as cutters:
            yield cutters

    @property
    def child(self) -> dict[str, Any]:
        """The limits of a child process that cuts."""
        return {name: self.limits[key] for name, key in CHILD_LIMITS.items() if self.limits.get(key) is not None}


class State(Enum):
    """How much of a curated dataset a folder holds."""

    NEW = "new"
    STARTED = "started"
    DONE = "done"


def state_of(out: str | os.PathLike[str], request: Mapping[str, Any], older: str | None = None) -> State:
    """How far a folder or URL is with this request (`CuratedRequest.to_dict`). CuratedError where it holds something else.

    older: `older_digest` of the dataset."""
    store = store_of(out)
    if store.folder is not None and store.folder.exists() and not store.folder.is_dir():
        raise CuratedError(f"{out}: is a file; choose another --out")
    for name, state in ((DONE, State.DONE), (f"{PARTIAL}/{REQUEST}", State.STARTED)):
        try:
            found = json.loads(store.read(name))
            found = found["request"] if state is State.DONE else found
            if older and found.get("dataset") == older:
                found = found | {"dataset": request.get("dataset")}
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, OSError) as error:
            where = store.where(name)
            raise CuratedError(f"{where}: cannot be read ({error}); delete {out} or choose another --out") from None
        if other := _different(found, request):
            what = "another selection" if state is State.DONE else "another selection, not finished"
            differs = ", ".join(NAMES.get(key, key) for key in other)
            raise CuratedError(f"{out}: holds {what} (different: {differs}); choose another --out or delete it")
        return state
    if _holds_something(store):
        raise CuratedError(f"{out}: is not empty and not a curated dataset; choose another --out")
    return State.NEW


def _holds_something(store: Store) -> bool:
    """Beside what an interrupted job may have left."""
    if store.folder is not None:
        return store.folder.exists() and any(path.name != PARTIAL for path in store.folder.iterdir())
    return any(not entry.name.startswith(f"{PARTIAL}/") for entry in store.list())


def _different(found: Mapping[str, Any], request: Mapping[str, Any]) -> list[str]:
    """Keys of the request that the folder was not made with; those that may be left out are compared too, if all is known."""
    optional = ["format", "source_roots"] if "dataset" in request else ["format"]
    return [key for key in dict.fromkeys([*request, *optional]) if found.get(key) != request.get(key)]


def _digest(dataset: Dataset) -> str:
    """Of what decides its rows: its units, and how the stages were run; not of the shards, which compaction changes."""
    return _hashed(dataset, dataset.digest())


def older_digest(dataset: Dataset) -> str:
    """What an older Winnow recorded in its place: of the names of the shards."""
    return _hashed(dataset, [f"part-{name}.parquet" for name in dataset.shards])


def _hashed(dataset: Dataset, rows: Any) -> str:
    made = {key: dataset.about.get(key) for key in ("stages", "models", "winnow")}
    return hashlib.sha256(json.dumps([rows, made], sort_keys=True).encode()).hexdigest()[:16]
