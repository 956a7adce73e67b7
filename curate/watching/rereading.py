"""Pictures of recorded clips, decoded again: for a captioner that was added after the first decode."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np

from curate.clip import COUNTED, Clip, Unit
from curate.export.span import BACK, CLOSE, FIRST_MISSING, ExtractError, Span, frames_from, opened, plain, span_of
from curate.observers.stills import encode_jpeg
from curate.video.decode import aspect_of
from curate.video.frame import Frame
from curate.video.remote import trust

__all__ = ["captioner_frames", "pictures"]


def captioner_frames(unit: Unit, count: int, *, size: int = 360, quality: int = 90) -> None:
    """Fill `clip.frames` of a unit's clips with `count` evenly spaced JPEGs each, the first and last frame among them.

    A clip whose frames cannot be read has none, and the reason in `errors["frames"]`. Clips whose frames are located by
    counting are read in one pass.
    """
    if count < 1:
        return
    trust(unit.video.path, unit.facts)
    together = [clip for clip in unit.clips if clip.clock == COUNTED]
    for clips in [*([clip] for clip in unit.clips if clip.clock != COUNTED), together]:
        wanted = [_places(clip, count) for clip in clips]
        try:
            found = pictures(unit.video.path, [span_of(unit, clip) for clip in clips], wanted, size) if clips else []
        except (ExtractError, ValueError) as error:
            for clip in clips:
                clip.errors["frames"] = plain(error)
            continue
        for clip, places, images in zip(clips, wanted, found, strict=True):
            clip.frames = [encode_jpeg(images[place], quality) for place in places]


def _places(clip: Clip, count: int) -> list[int]:
    return np.linspace(0, clip.num_frames - 1, count).round().astype(int).tolist()


def pictures(
    path: str, spans: Sequence[Span], places: Sequence[Sequence[int]], size: int
) -> list[dict[int, np.ndarray]]:
    """For each span, by their position in it, its frames at `places`: [h, w, 3] uint8 RGB, shorter side at most `size`.

    Raises ExtractError, ValueError.
    """
    problem = FIRST_MISSING
    for back in BACK:
        try:
            found = _read(path, spans, places, size, back)
        except (av.FFmpegError, ValueError) as error:
            problem = plain(error)
            continue
        missing = sum(len(set(wanted) - got.keys()) for wanted, got in zip(places, found, strict=True))
        if not missing:
            return found
        problem = f"{missing} frames could not be decoded again"
    raise ValueError(problem)


def _read(
    path: str, spans: Sequence[Span], places: Sequence[Sequence[int]], size: int, back: float | None
) -> list[dict[int, np.ndarray]]:
    found: list[dict[int, np.ndarray]] = [{} for _ in spans]
    counts = [0] * len(spans)
    with opened(path) as (source, stream):
        aspect = aspect_of(stream)
        for index, frame, time, _ in frames_from(source, stream, list(spans), back):
            for i, span in enumerate(spans):
                if span.place(index, time):
                    continue
                if span.origin is None and not counts[i] and time > span.start_time + CLOSE:
                    return [{} for _ in spans]  # decoding began too late
                if counts[i] in places[i]:
                    found[i][counts[i]] = Frame(frame, index, time, aspect=aspect, picture=size).picture()
                counts[i] += 1
            if all(span.place(index, time) > 0 for span in spans):
                break
    return found
