"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from video_model.optimizers.base import OptimizerSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamW(OptimizerSection):
    """AdamW (Loshchilov & Hutter 2019), 8 bytes a trained weight."""

    kind: Literal["adamw"] = "adamw"
    fused: bool = Field(False, description="one kernel for the whole step: faster, and no longer the same to the bit")

    def make(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
        import torch

        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=self.fused or None)
