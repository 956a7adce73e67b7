"""An observer of one's own: how bright a clip is, over all of its frames, measured during the one decode."""

import numpy as np

from curate.plugin import Column, Field, Observer, Section, types


class BrightnessOptions(Section):
    every: int = Field(5, ge=1, description="look at every so many frames")


class Brightness(Observer):
    name = "brightness"
    needs = ("shots",)
    columns = (
        Column(
            "brightness", types.float32(), formula="mean level of the frames looked at", unit="levels", range="0..255"
        ),
    )
    Options = BrightnessOptions

    def __init__(self, *, every=5):
        self.every, self.seen = every, {}

    def see(self, frame):
        if frame.index % self.every == 0:
            self.seen[frame.index] = float(frame.thumb.mean())

    def finish(self, unit, timeline):
        for clip in unit.clips:
            inside = [level for index, level in self.seen.items() if clip.start_frame <= index < clip.end_frame]
            clip.values["brightness"] = float(np.mean(inside)) if inside else None


PARTS = [Brightness]
