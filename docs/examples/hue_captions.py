"""A model of one's own behind a role of Winnow's: a captioner of clips that a config chooses by its `kind`."""

from typing import Literal

from curate.plugin import VIDEO_CAPTION, Adapter, Field, Section


class HueOptions(Section):
    kind: Literal["hue"] = "hue"
    word: str = Field("mostly", description="how a colour is introduced")


class HueCaptioner(Adapter):
    """Says which of red, green and blue a clip is; a real one would load its network in the constructor."""

    name = "hue"
    roles = (VIDEO_CAPTION,)
    Options = HueOptions
    frames = 0  # how many evenly spaced frames it wants beside the stills

    def __init__(self, *, word="mostly"):
        self.word = word

    def captions(self, clips):
        names = ("red", "green", "blue")
        means = [sum(still.mean((0, 1)) for still in clip.stills) for clip in clips]
        return [f"A clip, {self.word} {names[mean.argmax()]}." for mean in means]


PARTS = [HueCaptioner]
