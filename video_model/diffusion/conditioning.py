"""What the network is told, as named slots, each with its own dropout.

A batch goes in, the `cond` of a network comes out. A slot is left out of single samples, never of a whole batch, and
whether it is depends on the generator, the slot's name and the sample's place in the batch alone: adding a slot does
not change what the others draw.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextSlot:
    """Token states for cross-attention: batch[name] [B, L, D] or [B, T, L, D], and batch[name + "_mask"] if it is there.

    Text that is left out is zeros, which attention reads as one zero state. Stable Video Diffusion leaves out 15%.
    """

    dropout: float = 0.15
    name: str = "text"


@dataclass(frozen=True)
class VectorSlot:
    """A number for each sample, batch[name] [B] in its own unit. Not finite, or no such entry: not given."""

    name: str
    dropout: float = 0.1


@dataclass(frozen=True)
class FirstFrameSlot:
    """Image to video: the latent of the first frame beside every frame, and a channel of ones where it is given.

    Taken from batch["first_frame"] [B, C, h, w] with batch["frames"], or else from batch["latents"] [B, T, C, h, w].
    In training noise of ln(sigma) ~ N(noise_mean, noise_std^2) is added to it (Stable Video Diffusion, appendix D: -3
    and 0.5, there in pixels, here in latents); noise_mean None adds none. Outside training batch["augment"] [B] says
    how much, and 0 is the default. A VectorSlot named "augment" is told sigma. Left out, and in rows of images, it is
    zeros. Without `mask` there is no channel of ones, as in the released model.
    """

    dropout: float = 0.1
    noise_mean: float | None = -3.0
    noise_std: float = 0.5
    mask: bool = True
    name: str = "first_frame"


Slot = TextSlot | VectorSlot | FirstFrameSlot


class Conditioner:
    """`conditioner(batch, generator, train) -> cond`; the order of its VectorSlots is that of the network's `vectors`."""

    def __init__(self, slots: Sequence[Slot]):
        self.slots = tuple(slots)
        self.vectors = tuple(slot.name for slot in slots if isinstance(slot, VectorSlot))
        names = [slot.name for slot in slots]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two conditioning slots are named {name!r}: give each its own name")
        for slot in slots:
            if not 0 <= slot.dropout <= 1:
                raise ValueError(
                    f"dropout of the conditioning slot {slot.name!r} must be within 0 and 1 (got {slot.dropout})"
                )

    def __call__(
        self, batch: Mapping, generator: torch.Generator | None = None, train: bool = True
    ) -> dict[str, Tensor]:
        """The network's `cond` for a batch; in training slots are left out at random, else never.

        `generator` is a CPU generator; it is needed in training, and advances by one number whatever the slots are.
        """
        if train and generator is None:
            raise ValueError(
                "conditioning in training draws which slots to leave out: pass a torch.Generator, or train=False"
            )
        seed = int(torch.randint(2**62, (), generator=generator)) if train else None
        size = _size(batch)
        cond, vectors, told = {}, [], dict(batch)
        if "images" in batch:
            cond["images"] = batch["images"]
        for slot in sorted(
            self.slots, key=lambda slot: isinstance(slot, VectorSlot)
        ):  # the first frame tells "augment"
            draws = torch.Generator().manual_seed(_mixed(seed or 0, slot.name))
            drop = torch.rand(size, generator=draws) < (slot.dropout if train else 0.0)
            if isinstance(slot, TextSlot):
                cond.update(_text(slot, batch, drop))
            elif isinstance(slot, FirstFrameSlot):
                concat, told["augment"] = _first_frame(slot, batch, drop, draws if train else None)
                cond.update(concat)
            else:
                vectors.append(_vector(told.get(slot.name), drop))
        if vectors:
            values, masks = zip(*vectors, strict=True)
            cond["vectors"], cond["vectors_mask"] = torch.stack(values, 1), torch.stack(masks, 1)
        return cond

    def null(self, cond: Mapping[str, Tensor], keep: Collection[str] = ()) -> dict[str, Tensor]:
        """The unconditional version of `cond`, for guidance: without the slots that training left out at times.

        `keep` names slots to leave in. Raises ValueError if that is all of them, for guidance would then do nothing.
        """
        unknown = set(keep) - {slot.name for slot in self.slots}
        if unknown:
            raise ValueError(
                f"no conditioning slot is named {sorted(unknown)[0]!r} (there are {[s.name for s in self.slots]})"
            )
        dropped = {slot.name for slot in self.slots if slot.dropout > 0} - set(keep)
        if not dropped:
            raise ValueError(
                "guidance needs a conditioning slot that training leaves out at times: give one a dropout above 0"
            )
        cond = dict(cond)
        for slot in self.slots:
            if slot.name not in dropped:
                continue
            if isinstance(slot, TextSlot) and "text" in cond:
                cond["text"] = torch.zeros_like(cond["text"])
            elif isinstance(slot, FirstFrameSlot) and "concat" in cond:
                cond["concat"] = torch.zeros_like(cond["concat"])
                dropped.add("augment")  # which says nothing of a frame that is not there
        if "vectors_mask" in cond:
            kept = torch.tensor([name not in dropped for name in self.vectors], device=cond["vectors_mask"].device)
            cond["vectors_mask"] = cond["vectors_mask"] & kept
        return cond


def _text(slot: TextSlot, batch: Mapping, drop: Tensor) -> dict[str, Tensor]:
    if slot.name not in batch:
        return {}
    text = batch[slot.name]
    given = {"text": text.masked_fill(_like(drop, text), 0)}
    if f"{slot.name}_mask" in batch:
        given["text_mask"] = batch[f"{slot.name}_mask"]
    return given


def _vector(values: Tensor | None, drop: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B], 0 where not given, and whether they are given."""
    if values is None:
        return torch.zeros(len(drop)), torch.zeros(len(drop), dtype=torch.bool)
    known = values.isfinite() & ~drop.to(values.device)
    return torch.where(known, values.float(), 0.0), known


def _first_frame(
    slot: FirstFrameSlot, batch: Mapping, drop: Tensor, draws: torch.Generator | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """{"concat": [B, T, C (+ 1), h, w]}, and sigma [B] of the noise on it (nan: no frame); draws None: not in training."""
    if "first_frame" in batch:
        frame, frames = batch["first_frame"], batch["frames"]
    elif "latents" in batch:
        frame, frames = batch["latents"][:, 0], batch["latents"].shape[1]
    else:
        return {}, None
    drop = drop.to(frame.device)
    if "images" in batch:
        drop = drop | batch["images"].to(frame.device)
    if draws is None:
        sigma = batch.get("augment", torch.zeros(len(frame))).cpu().float()
    elif slot.noise_mean is None:
        sigma = torch.zeros(len(frame))
    else:
        sigma = torch.exp(slot.noise_mean + slot.noise_std * torch.randn(len(frame), generator=draws))
    if sigma.any():
        noise = torch.randn(frame.shape, generator=draws or torch.Generator().manual_seed(0))
        frame = frame + (sigma[:, None, None, None] * noise).to(frame)
    if slot.mask:
        frame = torch.cat([frame, torch.ones_like(frame[:, :1])], 1)
    concat = frame.masked_fill(_like(drop, frame), 0)[:, None].expand(-1, frames, -1, -1, -1)
    return {"concat": concat}, sigma.to(frame.device).masked_fill(drop, torch.nan)


def _size(batch: Mapping) -> int:
    for name in ("latents", "first_frame", "text"):
        if name in batch:
            return len(batch[name])
    for value in batch.values():
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError("a batch to condition on must hold a tensor with a row for each sample")


def _mixed(seed: int, name: str) -> int:
    """A seed for a slot: generators that differ by little are no longer alike."""
    return (seed ^ (zlib.crc32(name.encode()) * 0x9E3779B97F4A7C15)) % 2**63


def _like(rows: Tensor, value: Tensor) -> Tensor:
    return rows.to(value.device).view(-1, *[1] * (value.ndim - 1))
