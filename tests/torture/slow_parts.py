"""A plugin of the torture: parts that cost no CPU but take their time, so that a kill finds workers and decoders at work."""

import time

from curate.plugin import Column, Observer, Stage, types


class SlowLook(Observer):
    """Sleeps in the decoder's process."""

    name = "slow_look"
    needs = ("shots",)
    columns = (
        Column("level", types.float32(), formula="mean level of the first frame", unit="levels", range="0..255"),
    )

    def __init__(self):
        self.levels = {}

    def see(self, frame):
        self.levels[frame.index] = float(frame.thumb.mean())
        time.sleep(0.003)

    def finish(self, unit, timeline):
        for clip in unit.clips:
            clip.values["level"] = self.levels[clip.start_frame]


class SlowThought(Stage):
    """Sleeps in the worker's process."""

    name = "slow_thought"
    needs = ("slow_look",)
    columns = (Column("frames_squared", types.int64(), formula="(end_frame - start_frame) squared"),)

    def process(self, clips):
        for clip in clips:
            time.sleep(0.04)
            clip.values["frames_squared"] = (clip.end_frame - clip.start_frame) ** 2


PARTS = [SlowLook, SlowThought]
