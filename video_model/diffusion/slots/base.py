"""What a conditioning slot is: everything that is to be known of one thing that a network is conditioned on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field, model_serializer, model_validator

from curate.base.section import Section

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Conditions(NamedTuple):
    """What a slot makes of a batch.

    tensors: entries of the network's `cond`. numbers: name -> [B], not finite where it is not given; a name that is missing
    is given for no sample.
    """

    tensors: Mapping[str, Tensor] = {}
    numbers: Mapping[str, Tensor] = {}


class Models(NamedTuple):
    """What requests and batches are encoded with."""

    codec: Any
    encoder: Any
    precision: torch.dtype | None = None  # of other frozen networks; None: float32 on a CPU, bfloat16 on a GPU


class Slot(Section):
    """A key of the config's `conditioning`; a plain number there is its dropout.

    What a batch must hold under `name`, or what `column` of the clips is read into it; what `cond` makes of that; what is
    asked of the network (`numbers` that it embeds, `concat_channels` beside its latents); and what a request for samples
    gives (`requested`).
    """

    name: ClassVar[str]
    default: ClassVar[bool] = (
        False  # whether a config that does not name it has it: old configs must keep their networks
    )
    optional: ClassVar[bool] = True  # whether a config may turn it off, with null
    videos_only: ClassVar[bool] = True  # image stages are trained without it
    strict: ClassVar[bool] = False  # asked for in a sample of a stage without it: an error, not nothing
    option: ClassVar[str] = "--condition"  # of `winnow sample`, that gives it
    numbers: ClassVar[tuple[str, ...]] = ()
    column: ClassVar[str | None] = None
    pictures: ClassVar[int] = 0  # how many a request gives it: see `shown`
    drops_with: ClassVar[str | None] = (
        None  # another slot, with whose draws it is dropped out: together, at equal rates
    )

    dropout: float = Field(0.1, ge=0, le=1, description="share of the samples that are trained without it")

    def concat_channels(self, latent_channels: int) -> int:
        """How many channels `cond` appends to the latents, as cond["concat"]; one slot at most does."""
        return 0

    @property
    def wants_pixels(self) -> bool:
        """Whether a training batch must hold `pixels` [B, 3, H, W] in [-1, 1], of the first frame of each sample."""
        return False

    @property
    def required(self) -> bool:
        """Whether nothing sensible can be drawn without it."""
        return False

    @property
    def context_dim(self) -> int | None:
        """Channels of the tokens that it adds to those which the network attends to; None: it adds none."""
        return None

    @property
    def frozen_parameters(self) -> int:
        """Of networks of its own, which stay beside the one that is trained."""
        return 0

    def fitted(self, values: np.ndarray) -> Slot:
        """The slot as a run keeps it, with what it learns from `column` of the run's clips."""
        return self

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        """drop [B] bool: the samples to leave it out of. draws: the slot's own generator; None outside of training."""
        raise NotImplementedError

    def encoded(self, cond: dict[str, Tensor], models: Models) -> dict[str, Tensor]:
        """`cond` with what models make of the slot's entries in place of these; on the network's device, a whole batch."""
        return cond

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries of `cond`, before it is encoded, that differ where the slot is left out of every sample; its numbers
        are not among them."""
        return {}

    @property
    def kept_numbers(self) -> tuple[str, ...]:
        """Those of `numbers` that are given where the slot is left out, in training as for guidance."""
        return ()

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        """Entries of the batch for a request (see generate.Request); its own value is request.conditions[name]."""
        raise NotImplementedError

    def shown(self, windows: Tensor) -> Tensor | None:
        """Its value in a request, out of windows [N, T >= pictures, 3, H, W] in [-1, 1]; None: it takes no pictures."""
        return None

    def guides(self, prompted: bool) -> bool:
        """Whether guidance leads towards it; prompted: whether the request has a prompt."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return {"dropout": value} if isinstance(value, (int, float)) else value

    @model_serializer(mode="wrap")
    def _short(self, handler: Any) -> Any:
        tree = handler(self)
        return tree["dropout"] if [*tree] == ["dropout"] else tree


def shown_to(slots: Iterable[Slot], windows: Tensor) -> dict[str, Tensor]:
    """What the slots that take pictures are given in a request, by their names; windows: see `Slot.shown`."""
    return {slot.name: shown for slot in slots if (shown := slot.shown(windows)) is not None}


def rows_like(rows: Tensor, value: Tensor) -> Tensor:
    """[B] in a shape that broadcasts over value [B, ...], on its device."""
    return rows.to(value.device).view(-1, *[1] * (value.ndim - 1))
