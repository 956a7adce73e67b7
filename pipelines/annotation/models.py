"""The models that a config chooses, and the cache that loads them once for the stages of one worker."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.models.adapter import Adapter
from curate.weights import MissingWeights, Weights
from pipelines.config import Config

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Use:
    """A model, or other trained weights, that a stage uses. column: name under which it is recorded.

    section: of the config, where an adapter is chosen; None for weights that a stage loads itself. gpu: it can run on one.
    memory: bytes of working memory, beside its weights. parameters: where they are published; None: not known.
    """

    column: str
    kind: str
    weights: tuple[Weights, ...]
    section: Any = None
    gpu: bool = False
    memory: float = 0.0
    parameters: float | None = None

    @property
    def key(self) -> str:
        """The same for uses that share one loaded model."""
        return self.section.model_dump_json() if self.section is not None else self.column

    @property
    def weight_bytes(self) -> dict[str, float]:
        """Bytes in memory of its weights, by file or model: in the precision that the config asks for, whatever the file's."""
        size = ITEM_BYTES.get(getattr(self.section, "dtype", ""), 0)
        if not size:
            found = {str(item.path): _file_bytes(item.path) for item in self.weights if item.path}
            return found or {self.key: (self.parameters or 0.0) * ITEM_BYTES["float32"]}
        counted = sum(_parameters(item.path) for item in self.weights if item.path) or self.parameters
        if counted:
            return {self.key: counted * size}
        return {self.key: sum(_file_bytes(item.path) for item in self.weights if item.path)}

    @property
    def unknown(self) -> bool:
        """Nothing tells the size of its weights: the files are not here, and no number of parameters is published."""
        return bool(self.weights) and not sum(self.weight_bytes.values())


def memory_of(used: Iterable[Use]) -> float:
    """Bytes of one process that has loaded these: each file and each model counts once."""
    models: dict[str, float] = {}
    files: dict[str, float] = {}
    for use in used:
        models[use.key] = use.memory
        files |= use.weight_bytes
    return sum(models.values()) + sum(files.values())


def _files(path: Path) -> list[Path]:
    """The files that are loaded: of a folder that holds several formats of the same weights, the safe ones."""
    if path.is_file():
        return [path]
    files = [file for file in path.rglob("*") if file.is_file()]
    safe = [file for file in files if file.suffix == ".safetensors" and not file.name.startswith("consolidated")]
    return safe or [file for file in files if file.suffix in (".bin", ".pth", ".pt")] or files


def _file_bytes(path: Path) -> float:
    return float(sum(file.stat().st_size for file in _files(path)))


def _parameters(path: Path) -> float:
    """Weights in safetensors files, by their headers; 0 for other files."""
    count = 0.0
    for file in _files(path):
        if file.suffix != ".safetensors":
            return 0.0
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        count += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return count


def adapter(section: Any, config: Config) -> tuple[type[Adapter], dict[str, Any]]:
    """(class, keyword arguments) of the model that a section names. Nothing is loaded."""
    chosen = config.parts.adapter_of(section)
    return chosen, chosen.arguments(section, config.execution.threads)


def uses(config: Config, stages: Sequence[str], without: Collection[str] = ()) -> Iterator[Use]:
    """The models and weights of these stages, in their order. Nothing is loaded. without: keys of roles to leave out."""
    for name in stages:
        part = config.parts.stages[name]
        own = getattr(config, name, None)
        if weights := tuple(part.weights(own)):
            yield Use(name, part.kind(own), weights)
        for role in part.models:
            if role.key not in without and (section := role.chosen(config)) is not None:
                kind, arguments = adapter(section, config)
                weights = tuple(kind.weights(**arguments))
                working, parameters = kind.working_memory(section), kind.parameters(section)
                yield Use(role.column, kind.kind(), weights, section, kind.gpu, working, parameters)


def weights(config: Config, stages: Sequence[str]) -> list[tuple[str, Weights]]:
    """(column, weights) of every file that these stages load; nothing is loaded."""
    return [(use.column, item) for use in uses(config, stages) for item in use.weights]


def check_weights(config: Config, stages: Sequence[str]) -> dict[str, Any]:
    """Names and hashes of the models by column, for `dataset.json`. Raises MissingWeights."""
    recorded: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for use in uses(config, stages):
        for item in use.weights:
            if item.path is None and not getattr(use.section, "allow_download", False):
                raise MissingWeights(item)
            if str(item.path) not in digests:
                digests[str(item.path)] = item.digest()
        recorded[use.column] = {
            "kind": use.kind,
            "pack": config.pack,
            "weights": [
                {"model": item.model, "source": item.source, "sha256": digests[str(item.path)]} for item in use.weights
            ],
        }
    return recorded


class ModelCache:
    """The models of one worker, each loaded once, on first use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._loaded: dict[str, Any] = {}
        self._networks: dict[type, Any] = {}

    def get(self, section: Any) -> Any:
        """The model of a section; None for None."""
        if section is None:
            return None
        key = section.model_dump_json()
        if key not in self._loaded:
            kind, arguments = adapter(section, self.config)
            shared = {name: self._network(network) for name, network in kind.shares}
            self._loaded[key] = kind(**arguments, **shared)
        return self._loaded[key]

    def _network(self, kind: type) -> Any:
        if kind not in self._networks:
            self._networks[kind] = kind()
        return self._networks[kind]


__all__ = ["ModelCache", "Use", "adapter", "check_weights", "uses", "weights"]
