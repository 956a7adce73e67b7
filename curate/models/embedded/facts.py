"""Video captions of the embedded pack: measured facts as one sentence, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np

from curate.base.section import Section
from curate.models import ClipView, Image
from curate.models.adapter import Adapter
from curate.models.roles import VIDEO_CAPTION
from curate.weights import Weights

# Names of colours by hue (OpenCV: 0..180, two degrees a step), for pixels with enough colour and light to have one.
HUES = ((8, "red"), (20, "orange"), (34, "yellow"), (80, "green"), (98, "turquoise"), (128, "blue"), (146, "purple"))
PINK, RED = 170, 180
LITTLE_COLOUR = 40  # of 255, saturation below which a pixel is black, grey or white
LITTLE_LIGHT, MUCH_LIGHT = 45, 190  # of 255, value below which a pixel is black; above which a colourless one is white
BROWN = 150  # of 255, value below which orange is called brown
SHARE = 0.2  # of the picture, that a colour must have to be named; two are named at most
DARK, BRIGHT = 60, 170  # mean luma of 255, below and above which a clip is called so
PAN = 3.0  # percent of the shorter side a second, above which the camera pans or tilts
ZOOM = 2.0  # percent a second, above which it zooms
# Percent of the shorter side a second, below which motion is called so.
MOTION = ((1.0, "hardly any motion"), (8.0, "little motion"), (25.0, "moderate motion"))
MUCH_MOTION = "a lot of motion"


class FactOptions(Section):
    kind: Literal["facts"] = "facts"


class MeasuredFacts(Adapter):
    """Captions such as "A dark scene, mostly blue and black; the camera pans right, with moderate motion."

    Colours and brightness come from the stills; camera and motion from the columns camera_pan_x, camera_pan_y,
    camera_zoom and motion_score. Null columns are left out. The thresholds are the constants of this module.
    """

    roles = (VIDEO_CAPTION,)
    cpu_seconds = 0.01
    Options = FactOptions
    memory = 0.0
    name = "measured facts"
    frames = 0

    @classmethod
    def weights(cls) -> list[Weights]:
        return []

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip; never None, since a still always has colours."""
        return [sentence(clip.stills, clip.facts) for clip in clips]


def sentence(stills: Sequence[Image], facts: dict[str, Any]) -> str:
    brightness = {-1: "A dark scene", 0: "A scene", 1: "A bright scene"}[light(stills)]
    named = colours(stills)
    look = f"{brightness}, mostly {' and '.join(named)}" if named else f"{brightness} of many colours"
    movement = " and ".join(camera(facts))
    motion = amount(facts.get("motion_score"))
    if movement and motion:
        return f"{look}; the camera {movement}, with {motion}."
    if motion:
        return f"{look}, with {motion}."
    return f"{look}; the camera {movement}." if movement else f"{look}."


def colours(stills: Sequence[Image]) -> list[str]:
    """Names of the colours that cover at least SHARE of the stills, most first, two at most."""
    shares: dict[str, float] = {}
    for still in stills:
        hue, saturation, value = cv2.split(cv2.cvtColor(small(still), cv2.COLOR_RGB2HSV))
        names = np.select(
            [hue < limit for limit, _ in HUES] + [hue < PINK], [name for _, name in HUES] + ["pink"], "red"
        )
        names = np.where((names == "orange") & (value < BROWN), "brown", names)
        pale = np.where(value > MUCH_LIGHT, "white", "grey")
        names = np.where(value < LITTLE_LIGHT, "black", np.where(saturation < LITTLE_COLOUR, pale, names))
        for name, count in zip(*np.unique(names, return_counts=True), strict=True):
            shares[str(name)] = shares.get(str(name), 0.0) + count / names.size / len(stills)
    ranked = sorted(shares, key=lambda name: (-shares[name], name))
    return [name for name in ranked if shares[name] >= SHARE][:2]


def light(stills: Sequence[Image]) -> int:
    """-1 dark, 1 bright, 0 neither: mean luma of the stills."""
    luma = float(np.mean([cv2.cvtColor(small(still), cv2.COLOR_RGB2GRAY).mean() for still in stills]))
    return -1 if luma < DARK else 1 if luma > BRIGHT else 0


def small(still: Image) -> Image:
    return cv2.resize(still, (64, 36), interpolation=cv2.INTER_AREA)


def camera(facts: dict[str, Any]) -> list[str]:
    """The stronger of pan and tilt, and the zoom; "is static" if neither; nothing where nothing was measured."""
    across, down, zoom = (facts.get(name) for name in ("camera_pan_x", "camera_pan_y", "camera_zoom"))
    if across is None and down is None and zoom is None:
        return []
    across, down, zoom = across or 0.0, down or 0.0, zoom or 0.0
    does = []
    if max(abs(across), abs(down)) >= PAN:
        if abs(across) >= abs(down):
            does.append("pans right" if across > 0 else "pans left")
        else:
            does.append("tilts down" if down > 0 else "tilts up")
    if abs(zoom) >= ZOOM:
        does.append("zooms in" if zoom > 0 else "zooms out")
    return does or ["is static"]


def amount(score: float | None) -> str | None:
    """The amount of motion in words; None for a score that is missing."""
    if score is None:
        return None
    return next((words for limit, words in MOTION if score < limit), MUCH_MOTION)
