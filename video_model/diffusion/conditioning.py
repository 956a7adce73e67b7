"""A batch goes in, the `cond` of a network comes out, made by slots, each with its own dropout.

A slot is dropped out of single samples, never of a whole batch, and whether it is depends on the generator, the slot's name
and the sample's place in the batch alone: adding a slot does not change what the others draw.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from video_model.diffusion.slots import Models, Slot


class Conditioner:
    """`encoded(conditioner(batch, generator, train))` is a network's `cond`; `vectors`: the numbers in cond["vectors"], in
    order. models: for slots that need some, see `Slot.encoded`."""

    def __init__(self, slots: Sequence[Slot], models: Models = Models(None, None)):  # noqa: B008 - an immutable tuple
        self.slots, self.models = tuple(slots), models
        self.vectors = tuple(name for slot in slots for name in slot.numbers)
        names = [slot.name for slot in slots]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two conditioning slots are named {name!r}: give each its own name")
        appending = [slot.name for slot in slots if slot.concat_channels(1)]
        if len(appending) > 1:
            raise ValueError(f"conditioning slots {' and '.join(appending)} both append channels: leave one out")

    def __call__(
        self, batch: Mapping, generator: torch.Generator | None = None, train: bool = True
    ) -> dict[str, Tensor]:
        """What slots make of a batch, on the CPU; in training they are dropped out at random, else never.

        `generator` is a CPU generator; it is needed in training, and advances by one number whatever the slots are.
        """
        if train and generator is None:
            raise ValueError(
                "conditioning in training draws which slots to drop out: pass a torch.Generator, or train=False"
            )
        seed = int(torch.randint(2**62, (), generator=generator)) if train else 0
        size = _size(batch)
        cond = {"images": batch["images"]} if "images" in batch else {}
        numbers: dict[str, Tensor] = {}
        for slot in self.slots:
            draws = torch.Generator().manual_seed(_mixed(seed, slot.drops_with or slot.name))
            drop = torch.rand(size, generator=draws) < (slot.dropout if train else 0.0)
            made = slot.cond(batch, drop, draws if train else None)
            cond.update(made.tensors)
            numbers.update(made.numbers)
        if self.vectors:
            values = [numbers.get(name, torch.full((size,), torch.nan)) for name in self.vectors]
            known = [value.isfinite() for value in values]
            cond["vectors_mask"] = torch.stack(known, 1)
            values = [torch.where(given, value, 0.0) for value, given in zip(values, known, strict=True)]
            cond["vectors"] = torch.stack(values, 1)
        return cond

    def encoded(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`cond` as the network takes it, on the device that it is on."""
        made = dict(cond)
        for slot in self.slots:
            made = slot.encoded(made, self.models)
        return made

    def null(self, cond: Mapping[str, Tensor], keep: Collection[str] = ()) -> dict[str, Tensor]:
        """The unconditional version of a `cond` that is not encoded yet, for guidance: without the slots that training dropped out at times.

        `keep` names slots to leave in. Raises ValueError if that is all of them, for guidance would then do nothing.
        """
        unknown = set(keep) - {slot.name for slot in self.slots}
        if unknown:
            raise ValueError(
                f"no conditioning slot is named {sorted(unknown)[0]!r} (there are {[s.name for s in self.slots]})"
            )
        dropped = [slot for slot in self.slots if slot.dropout > 0 and slot.name not in keep]
        if not dropped:
            raise ValueError(
                "guidance needs a conditioning slot that training drops out at times: give one a dropout above 0"
            )
        cond = dict(cond)
        for slot in dropped:
            cond.update(slot.null(cond))
        if "vectors_mask" in cond:
            away = {name for slot in dropped for name in slot.numbers if name not in slot.kept_numbers}
            kept = torch.tensor([name not in away for name in self.vectors], device=cond["vectors_mask"].device)
            cond["vectors_mask"] = cond["vectors_mask"] & kept
        return cond


def _size(batch: Mapping) -> int:
    for name in ("latents", "first_frame", "pixels", "text"):
        if name in batch:
            return len(batch[name])
    for value in batch.values():
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError("a batch to condition on must hold a tensor with a row for each sample")


def _mixed(seed: int, name: str) -> int:
    """A seed for a slot: generators that differ by little are no longer alike."""
    return (seed ^ (zlib.crc32(name.encode()) * 0x9E3779B97F4A7C15)) % 2**63
