"""The motion score of the clip."""

from __future__ import annotations

from typing import ClassVar

from video_model.diffusion.slots.number import NumberSlot


class MotionSlot(NumberSlot):
    """Motion score, percent of the shorter side per second, as curation measured it; null: not conditioned on it."""

    name: ClassVar[str] = "motion"
    default: ClassVar[bool] = True
    option: ClassVar[str] = "--motion"
    numbers: ClassVar[tuple[str, ...]] = ("motion",)
    column: ClassVar[str | None] = "motion_score"
