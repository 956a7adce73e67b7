"""The caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from video_model.diffusion.slots.base import Conditions, Models, Slot, rows_like

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TextSlot(Slot):
    """Token states for cross-attention: batch["text"] [B, L, D] or [B, T, L, D], and batch["text_mask"] if it is there.

    Text that is dropped out is zeros, which attention reads as one zero state. null: no text at all, where the network
    attends to the first frame instead (see image).
    """

    name: ClassVar[str] = "text"
    default: ClassVar[bool] = True
    videos_only: ClassVar[bool] = False
    option: ClassVar[str] = "--prompt"

    dropout: float = Field(
        0.15, ge=0, le=1, description="share of the samples trained without text; the paper's is 15%"
    )

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if "text" not in batch:
            return Conditions()
        text = batch["text"]
        given = {"text": text.masked_fill(rows_like(drop, text), 0)}
        if "text_mask" in batch:
            given["text_mask"] = batch["text_mask"]
        return Conditions(given)

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"text": cond["text"].new_zeros(cond["text"].shape)} if "text" in cond else {}

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        states, mask = models.encoder.encode(list(request.prompts))
        return {"text": states, "text_mask": mask}

    def guides(self, prompted: bool) -> bool:
        return True


def with_tokens(cond: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """`cond` with more tokens [B, L, D] after those of the text. Raises ValueError where their channels differ."""
    import torch

    if "text" not in cond:
        return cond | {"text": tokens}
    text, mask = cond["text"], cond.get("text_mask")
    if text.shape[-1] != tokens.shape[-1]:
        raise ValueError(
            f"conditioning: text has {text.shape[-1]} channels and image {tokens.shape[-1]}: choose a text encoder of as "
            "many, or set conditioning.text to null"
        )
    there = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    mask = text.new_ones(text.shape[:2], dtype=torch.bool) if mask is None else mask
    return cond | {"text": torch.cat([text, tokens.to(text)], 1), "text_mask": torch.cat([mask, there], 1)}
