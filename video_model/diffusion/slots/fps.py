"""The frame rate."""

from __future__ import annotations

from typing import Any, ClassVar

from video_model.diffusion.slots.base import Models
from video_model.diffusion.slots.number import NumberSlot


class FpsSlot(NumberSlot):
    """Frames a second of the window that a sample is; null: not conditioned on it."""

    name: ClassVar[str] = "fps"
    default: ClassVar[bool] = True
    option: ClassVar[str] = "--fps"
    numbers: ClassVar[tuple[str, ...]] = ("fps",)

    def requested(self, request: Any, models: Models) -> dict[str, Any]:
        return {self.name: self.repeated(request.fps, len(request.prompts))}
