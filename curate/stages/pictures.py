"""Pixels of stored stills."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from curate.clip import Clip
from curate.models import Image


def decode(jpeg: bytes) -> Image:
    """[h, w, 3] uint8 RGB. Raises ValueError for bytes that are no picture."""
    picture = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if picture is None:
        raise ValueError(f"still of {len(jpeg)} bytes is not a picture that OpenCV can read")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def stills(clip: Clip) -> list[Image]:
    """The pictures of a clip's stills, at least one. Raises ValueError where it has none."""
    found = [decode(still) for still in clip.stills()]
    if not found:
        raise ValueError("the clip has no stills; run the stills stage with, or before, this one")
    return found


def flattened(groups: Sequence[Sequence[Image]]) -> tuple[list[Image], list[slice]]:
    """All pictures in one list, and the slice of each group."""
    flat: list[Image] = []
    places: list[slice] = []
    for group in groups:
        places.append(slice(len(flat), len(flat) + len(group)))
        flat.extend(group)
    return flat, places


def batches(clips: Sequence[Clip], size: int) -> list[list[Clip]]:
    """Consecutive batches of at most `size` clips."""
    return [list(clips[at : at + size]) for at in range(0, len(clips), size)]
