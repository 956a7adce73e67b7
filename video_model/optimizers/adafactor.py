"""Adafactor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from video_model.optimizers.base import OptimizerSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Adafactor(OptimizerSection):
    """Adafactor (Shazeer & Stern 2018), as torch has it: a row and a column of variances for a matrix, next to no memory.

    `lr` bounds the step relative to the size of a weight; `betas` are not used.
    """

    kind: Literal["adafactor"] = "adafactor"
    spreads: ClassVar[bool] = False

    def make(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
        import torch

        return torch.optim.Adafactor(groups, lr=lr)
