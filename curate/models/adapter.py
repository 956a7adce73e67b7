"""Base class of adapters around pretrained models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from curate.base.section import Section
from curate.part import Part
from curate.pipeline_part import Role
from curate.weights import Weights

Precision = Literal["float32", "bfloat16", "float16"]


class HubOptions(Section):
    """Options of a model whose weights are a local folder, or in the hub's cache."""

    folder: str | None = Field(None, description="local copy of the weights, looked in first")
    allow_download: bool = Field(False, description="fetch missing weights from the hub")
    device: str = Field("auto", description="auto: the GPU if there is one")


class Adapter(Part):
    """A pretrained model behind the protocol of its role (`curate.models`).

    roles: places in the config that it can fill. Options: its section there; `kind` is the adapter's name in configs, the
    rest are arguments of the constructor. shares: (argument, network) of networks that several adapters use; a worker
    loads each once. threaded: the constructor takes `threads`. gpu: it can run on a GPU. memory: bytes of working memory,
    beside its weights, at the default `batch`. sizes: parameters of published models, by their `model` in the config, for
    plans where the weights are not.

    For plans: cpu_seconds: of one core for a clip, measured (`tests.benchmarks.pipeline`); None: never. gpu_passes: through
    the network, one after the other, for a batch of clips, as a generated sentence takes. gpu_flops: for a clip.
    """

    roles: ClassVar[tuple[Role, ...]]
    Options: ClassVar[type[Section]]
    shares: ClassVar[tuple[tuple[str, type], ...]] = ()
    threaded: ClassVar[bool] = False
    gpu: ClassVar[bool] = False
    memory: ClassVar[float] = 0.05e9
    sizes: ClassVar[Mapping[str, float]] = {}
    cpu_seconds: ClassVar[float | None] = None
    gpu_passes: ClassVar[int] = 1
    gpu_flops: ClassVar[float] = 0.0

    @classmethod
    def kind(cls) -> str:
        """Its name in configs."""
        (kind,) = get_args(cls.Options.model_fields["kind"].annotation)
        return kind

    @classmethod
    def arguments(cls, section: Any, threads: int = 1) -> dict[str, Any]:
        """Keyword arguments of the constructor, and of `weights`, for a section of the config."""
        plain = section.model_dump(exclude={"kind"}, exclude_none=True)
        return plain | ({"threads": threads} if cls.threaded else {})

    @classmethod
    def parameters(cls, section: Any) -> float | None:
        """How many weights the chosen model has: published, or as its name says ("...-7B-..."); None: not known."""
        name = str(getattr(section, "model", ""))
        said = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", name.rpartition("/")[2].lower())
        return cls.sizes.get(name) or (float(said.group(1)) * 1e9 if said else None)

    @classmethod
    def working_memory(cls, section: Any) -> float:
        """`memory`, in proportion to the `batch` that the config asks for."""
        batch = cls.Options.model_fields.get("batch")
        return cls.memory * max(1.0, section.batch / batch.default) if batch else cls.memory

    @classmethod
    def weights(cls, **arguments: Any) -> Sequence[Weights]:
        """Files that it needs, and whether they exist; nothing is loaded."""
        return ()
