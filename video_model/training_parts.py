"""The parts that a training config can choose from: the lists of ours, and a user's beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Union

from pydantic import Field

from curate.base.section import Section
from video_model.codecs import CODECS, CodecSection
from video_model.diffusion.parametrisations import PARAMETRISATIONS, Parametrisation
from video_model.diffusion.samplers import SAMPLERS
from video_model.diffusion.slots import SLOTS, Slot
from video_model.diffusion.weightings import WEIGHTINGS, Weighting
from video_model.encoders import ENCODERS, EncoderSection
from video_model.networks import NETWORKS, NetworkSection
from video_model.optimizers import OPTIMIZERS, OptimizerSection


@dataclass(frozen=True)
class TrainingParts:
    """All that a config can choose from. Ours are lists in the folders of the parts; a user's are added by `plus`."""

    codecs: Sequence[type[CodecSection]] = tuple(CODECS)
    encoders: Sequence[type[EncoderSection]] = tuple(ENCODERS)
    networks: Sequence[type[NetworkSection]] = tuple(NETWORKS)
    parametrisations: Sequence[type[Parametrisation]] = tuple(PARAMETRISATIONS)
    slots: Sequence[type[Slot]] = tuple(SLOTS)
    samplers: Sequence[Callable[..., Any]] = tuple(SAMPLERS)
    weightings: Sequence[type[Weighting]] = tuple(WEIGHTINGS)
    optimizers: Sequence[type[OptimizerSection]] = tuple(OPTIMIZERS)

    def plus(self, parts: Iterable[Any]) -> TrainingParts:
        """With more of them: classes of sections, each beside its like; any other function is a sampler. Raises TypeError."""
        grown = self
        for part in parts:
            kinds = [name for name, base in BASES.items() if isinstance(part, type) and issubclass(part, base)]
            if not kinds and (isinstance(part, type) or not callable(part)):
                known = ", ".join(base.__name__ for base in BASES.values())
                raise TypeError(
                    f"{part!r} is no part of a training config: subclass {known}, or write a sampler's function"
                )
            place = kinds[0] if kinds else "samplers"
            grown = replace(grown, **{place: (*getattr(grown, place), part)})
        return grown


BASES: dict[str, type[Section]] = {
    "codecs": CodecSection,
    "encoders": EncoderSection,
    "networks": NetworkSection,
    "parametrisations": Parametrisation,
    "slots": Slot,
    "weightings": Weighting,
    "optimizers": OptimizerSection,
}
PARTS = TrainingParts()


def one_of(parts: Sequence[type[Section]]) -> Any:
    """The type of a section that one of the parts is: its `kind` chooses."""
    return Annotated[Union[tuple(parts)], Field(discriminator="kind")] if len(parts) > 1 else parts[0]  # noqa: UP007
