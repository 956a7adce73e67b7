"""The motion score of the clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from video_model.diffusion.slots.base import Conditions, Models
from video_model.diffusion.slots.number import NumberSlot

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from video_model.diffusion.slots.base import Slot

USUAL_BUCKET = 127.0  # of the released model's pipeline


class MotionSlot(NumberSlot):
    """Motion score, percent of the shorter side per second, as curation measured it; null: not conditioned on it.

    buckets: motion buckets, 0 to 255, as Stable Video Diffusion is conditioned on. Its own formula is not published; ours
    is 255 times the share of the run's clips that move less: the score's place among `percentiles`, interpolated, so that
    half of the clips lie below the usual 127. A request names the bucket itself; where it names none, that is 127.
    """

    name: ClassVar[str] = "motion"
    default: ClassVar[bool] = True
    option: ClassVar[str] = "--motion"
    numbers: ClassVar[tuple[str, ...]] = ("motion",)
    column: ClassVar[str | None] = "motion_score"

    buckets: bool = Field(False, description="as motion buckets, 0 to 255; see percentiles")
    percentiles: tuple[float, ...] | None = Field(
        None,
        min_length=2,
        description="of buckets: evenly spaced quantiles of motion_score, the first is bucket 0 and the last 255; unset: "
        "those of the run's clips (0, 1, ... 100%), written into the run",
    )

    def fitted(self, values: np.ndarray) -> Slot:
        known = values[np.isfinite(values)]
        if not self.buckets or self.percentiles is not None or not len(known):
            return self
        found = np.quantile(known, np.linspace(0, 1, 101)).tolist()
        return self.model_copy(update={"percentiles": tuple(float(f"{value:.6g}") for value in found)})

    def cond(self, batch: Mapping[str, Any], drop: Tensor, draws: torch.Generator | None) -> Conditions:
        if not self.buckets:
            return super().cond(batch, drop, draws)
        if "motion_bucket" in batch:
            return super().cond({self.name: batch["motion_bucket"]}, drop, draws)
        if self.name not in batch:
            return Conditions()
        return super().cond({self.name: self.bucket(batch[self.name])}, drop, draws)

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        if not self.buckets:
            return super().requested(request, models)
        value = request.conditions.get(self.name)
        if value is not None and not 0 <= value <= 255:
            raise ValueError(f"--motion {value:g}: this run is conditioned on motion buckets: give 0 (still) to 255")
        bucket = USUAL_BUCKET if value is None else value
        return {"motion_bucket": self.repeated(bucket, len(request.prompts))}

    def bucket(self, scores: Tensor) -> Tensor:
        """[B] of motion scores [B]: whole numbers from 0 to 255; nan where a score is not finite. Raises ValueError
        for scores where there are no percentiles."""
        import torch

        if self.percentiles is None:
            if scores.isfinite().any():
                raise ValueError("conditioning.motion: buckets without percentiles: fit the slot to the clips first")
            return torch.full_like(scores, torch.nan, dtype=torch.float32)  # no clip of the run has one
        steps = np.linspace(0, 255, len(self.percentiles))
        values = scores.double().cpu().numpy()
        found = np.where(np.isfinite(values), np.round(np.interp(values, self.percentiles, steps)), np.nan)
        return torch.from_numpy(found).float().to(scores.device)
