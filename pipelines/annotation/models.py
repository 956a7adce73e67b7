"""The models that a config chooses, and the cache that loads them once for the stages of one worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curate.models.adapter import Adapter
from curate.weights import MissingWeights, Weights
from pipelines.config import Config


@dataclass(frozen=True)
class Use:
    """A model, or other trained weights, that a stage uses. column: name under which it is recorded.

    section: of the config, where an adapter is chosen; None for weights that a stage loads itself. gpu: it can run on one.
    memory: bytes of working memory, beside its weights.
    """

    column: str
    kind: str
    weights: tuple[Weights, ...]
    section: Any = None
    gpu: bool = False
    memory: float = 0.0


def memory_of(used: Iterable[Use]) -> float:
    """Bytes of one process that has loaded these, by the size of the files; each file and each model counts once."""
    models, files = {}, {}
    for use in used:
        models[use.section.model_dump_json() if use.section is not None else use.column] = use.memory
        for path in filter(None, (item.path for item in use.weights)):
            files |= {
                file: file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
            }
    return sum(models.values()) + sum(files.values())


def adapter(section: Any, config: Config) -> tuple[type[Adapter], dict[str, Any]]:
    """(class, keyword arguments) of the model that a section names. Nothing is loaded."""
    chosen = config.parts.adapter_of(section)
    return chosen, chosen.arguments(section, config.execution.threads)


def uses(config: Config, stages: Sequence[str]) -> Iterator[Use]:
    """The models and weights of these stages, in their order. Nothing is loaded."""
    for name in stages:
        part = config.parts.stages[name]
        own = getattr(config, name, None)
        if weights := tuple(part.weights(own)):
            yield Use(name, part.kind(own), weights)
        for role in part.models:
            if (section := role.chosen(config)) is not None:
                kind, arguments = adapter(section, config)
                weights = tuple(kind.weights(**arguments))
                yield Use(role.column, kind.kind(), weights, section, kind.gpu, kind.memory)


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
