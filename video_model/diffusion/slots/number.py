"""What slots of one number a sample share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from video_model.diffusion.slots.base import Conditions, Models, Slot

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class NumberSlot(Slot):
    """batch[name] [B] in its own unit, which the network embeds. Not finite, or no such entry: not given."""

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if self.name not in batch:
            return Conditions()
        values = batch[self.name].float()
        return Conditions(numbers={self.name: values.masked_fill(drop.to(values.device), float("nan"))})

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        return {self.name: self.repeated(request.conditions.get(self.name), len(request.prompts))}

    @staticmethod
    def repeated(value: float | None, count: int) -> Tensor:
        """[count]; nan for None."""
        import torch

        return torch.full((count,), torch.nan if value is None else float(value))
