"""Skips an expensive stage for clips that cannot pass the selection, and records the reason on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curate.clip import SKIPPED, Clip
from curate.stages.stage import Stage

PREFILTER = f"{SKIPPED} by the prefilter"


class Prefilter(Stage):
    """Runs a stage only on clips within bounds. The others have null columns and the reason in `errors[stage]`.

    minimum, maximum: column -> bound, inclusive. A null score is outside of every bound.
    """

    def __init__(self, stage: Stage, *, minimum: Mapping[str, float], maximum: Mapping[str, float]) -> None:
        self.stage, self.minimum, self.maximum = stage, dict(minimum), dict(maximum)
        self.name, self.columns, self.error_keys = stage.name, stage.columns, stage.error_keys  # type: ignore[misc]

    def process(self, clips: Sequence[Clip]) -> None:
        kept = []
        for clip in clips:
            reason = self.reason(clip)
            if reason is None:
                kept.append(clip)
            else:
                clip.errors[self.name] = f"{PREFILTER}: {reason}"
        if kept:
            self.stage.process(kept)

    def reason(self, clip: Clip) -> str | None:
        """Why the clip is skipped; None if it is within the bounds."""
        for bounds, sign, word in ((self.minimum, 1, "below"), (self.maximum, -1, "above")):
            for column, bound in bounds.items():
                score = clip.values.get(column)
                if score is None:
                    return f"{column} is null"
                if sign * (score - bound) < 0:
                    return f"{column} {score:.4g} is {word} {bound:.4g}"
        return None
