"""When each frame of a unit is shown, and where no shot can continue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.video.clock import interruptions

__all__ = ["Timeline", "frame_ends"]


class Timeline:
    """times, ends [N]: presentation seconds when each frame appears and disappears. sizes [N, 2]: width, height, px.

    breaks: position -> why no shot continues there: "gap", "size" or "clock". gaps: positions after missing pictures.
    first: frames of the file before the unit's first. end_time: of the last frame.
    """

    def __init__(
        self,
        times: np.ndarray,
        shown: np.ndarray,
        sizes: np.ndarray,
        *,
        turns: Sequence[int],
        end_time: float,
        first: int = 0,
    ) -> None:
        """shown [N]: duration of each frame by the file, s. turns: positions where the file's clock steps back."""
        self.times, self.sizes, self.end_time, self.first = times, sizes, end_time, first
        self.gaps = interruptions(times, shown)
        self.changes = np.flatnonzero((np.diff(sizes, axis=0) != 0).any(1)) + 1
        kinds = ((self.changes, "size"), (turns, "clock"), (self.gaps, "gap"))
        self.breaks = {int(at): kind for places, kind in kinds for at in places}
        self.ends = frame_ends(times, self.gaps, end_time)

    @property
    def seconds(self) -> float:
        return float((self.ends - self.times).sum())

    def warnings(self) -> list[str]:
        found = []
        if len(self.gaps):
            places = ", ".join(
                f"{self.times[at] - self.ends[at - 1]:.2f} s at {self.ends[at - 1]:.2f} s" for at in self.gaps[:3]
            )
            more = f", and {len(self.gaps) - 3} more" if len(self.gaps) > 3 else ""
            found.append(f"no new picture comes for {places}{more}: no shot goes across")
        if len(self.changes):
            first = self.times[self.changes[0]]
            found.append(f"the size of the pictures changes: {len(self.changes)} times, first at {first:.2f} s")
        return found


def frame_ends(times: np.ndarray, gaps: np.ndarray, end_time: float) -> np.ndarray:
    """When each frame disappears, s [N]: when the next one appears, or after the usual step where pictures are missing.

    times [N]: presentation seconds. gaps: positions of the frames after an interruption. end_time: of the last frame.
    """
    ends = np.r_[times[1:], end_time]
    if len(gaps):
        ends[gaps - 1] = times[gaps - 1] + float(np.median(np.delete(np.diff(times), gaps - 1)))
    return ends
