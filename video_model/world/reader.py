"""Reads what a video of the world shows: shape, colour, direction, speed and background, measured, not guessed.

Made for generated videos, which may be blurred, noisy or wrong: what cannot be measured is None, and counts as wrong.
The shape is what differs from the background of its frame: its colour is compared with those of the world, its outline
with the three shapes at the same place and size, and its path with a straight line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from video_model.world.world import BACKGROUNDS, COLOURS, DIRECTIONS, PACES, SHAPES, distance, parse

__all__ = ["ATTRIBUTES", "Reading", "read", "score"]

ATTRIBUTES = ("shape", "colour", "direction", "speed", "background")

CONTRAST = 0.12  # of 1 (black to white), the least distance of a shape from its background
AREA = (0.012, 0.25)  # shares of the picture that a shape can cover
FRAMES = 0.75  # share of the frames in which there must be a shape
LIKENESS = 0.8  # correlation with the outline of a shape, below which it is none of them
LEAST_PACE = 0.03  # widths a second, below which the shape rests
PACE_LIMIT = float(np.sqrt(PACES["slowly"][1] * PACES["quickly"][0]))
STRAY = 0.5  # of the way along its direction, the most that a shape may drift across it, or its path jump
TONE = 0.25  # of 1, the most that a colour may lie off the world's, in hue and strength
PATCH = 24  # px, side of the outlines that are compared
REACH = 1.4  # half side of such a patch, in square roots of the shape's area


@dataclass(frozen=True)
class Reading:
    """None: not readable. confidence: 0..1, the least of the margins by which shape and colour won; 0 without a shape."""

    shape: str | None = None
    colour: str | None = None
    direction: str | None = None
    speed: str | None = None
    background: str | None = None
    confidence: float = 0.0


def read(video: Any, fps: float) -> Reading:
    """What a video [T, 3, H, W] in [-1, 1] (tensor or array; at least 32 px a side) shows at fps frames a second.

    One frame has no direction and no speed. Raises ValueError for another shape.
    """
    pixels = np.asarray(video, dtype=np.float64)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels) or min(pixels.shape[2:]) < 32:
        raise ValueError(f"a video [T, 3, H, W] of at least 32 px a side is needed (got {list(pixels.shape)})")
    pixels = np.nan_to_num(np.clip(pixels, -1, 1)) / 2 + 0.5
    pixels = pixels.transpose(0, 2, 3, 1)
    back = np.median(pixels, axis=(0, 1, 2))
    background = nearest(back, BACKGROUNDS, chroma_only=False)[0]
    cover, tones = zip(*(find_shape(frame, np.median(frame, axis=(0, 1))) for frame in pixels), strict=True)
    seen = [i for i, found in enumerate(cover) if found is not None]
    if len(seen) < FRAMES * len(pixels):
        return Reading(background=background)
    colour, sure = nearest(np.median([tones[i] for i in seen], axis=0), COLOURS, chroma_only=True)
    if not steady(colour, [nearest(tones[i], COLOURS, chroma_only=True)[0] for i in seen]):
        colour, sure = None, 0.0
    places, size = np.array([centre(cover[i]) for i in seen]), pixels.shape[2]
    outlines = [outline(cover[i], place) for i, place in zip(seen, places, strict=True)]
    shape, alike = likeliest(outlines, size)
    if not steady(shape, [likeliest([form], size)[0] for form in outlines]):
        shape, alike = None, 0.0
    direction, speed = path(np.array(seen) / fps, places / size)
    return Reading(shape, colour, direction, speed, background, min(sure, alike))


def score(readings: Sequence[Reading], prompts: Sequence[str]) -> dict[str, float]:
    """Share of the readings, 0..1, that agree with their prompt in each attribute, and in `all` that the prompt names.

    An attribute that no prompt names is left out. Raises ValueError for a prompt that names nothing of this world.
    """
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    whole = []
    for reading, prompt in zip(readings, prompts, strict=True):
        named = parse(prompt)
        if not named:
            raise ValueError(f"{prompt!r} names nothing that can be read: a caption of the world is needed")
        hits = {name: getattr(reading, name) == value for name, value in named.items()}
        for name, hit in hits.items():
            right[name].append(hit)
        whole.append(all(hits.values()))
    shares = {name: float(np.mean(hits)) for name, hits in right.items() if hits}
    return shares | {"all": float(np.mean(whole)) if whole else 0.0}


def steady(value: str | None, by_frame: Sequence[str | None]) -> bool:
    """Whether what was read of all frames together is read of most of them alone: a shape that turns into another is none."""
    return np.mean([found == value for found in by_frame]) >= FRAMES


def find_shape(frame: np.ndarray, back: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """How much of each pixel [H, W] the shape covers, 0..1, and its colour [3]; None where there is no one shape.

    The shape is the connected area around the place that differs most from `back`, its colour that of its inner part.
    """
    smooth = blur(frame)
    off = np.sqrt(((smooth - back) ** 2).sum(-1))
    wide = blur(blur(off[..., None]))[..., 0]
    seed = np.unravel_index(wide.argmax(), wide.shape)
    peak = wide[seed]
    if peak < CONTRAST:
        return None, None
    inside = grown(off > peak / 2, seed)
    share = inside.mean()
    if not AREA[0] <= share <= AREA[1] or (off > peak / 2).mean() > 1.5 * share + 0.01:  # or much else differs too
        return None, None
    core = inside & (wide >= np.quantile(wide[inside], 0.5))
    tone = np.median(frame[core], axis=0)
    step = tone - back
    length = float(step @ step)
    if length < CONTRAST**2:
        return None, None
    cover = np.clip((smooth - back) @ step / length, 0, 1)
    near = blur(blur(inside[..., None].astype(float)))[..., 0] > 0.02
    return np.where(near, cover, 0.0), tone


def grown(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The part of a mask that hangs together with `seed`."""
    inside = np.zeros_like(mask)
    inside[seed] = True
    while True:
        wider = inside.copy()
        wider[1:] |= inside[:-1]
        wider[:-1] |= inside[1:]
        wider[:, 1:] |= inside[:, :-1]
        wider[:, :-1] |= inside[:, 1:]
        wider &= mask
        if (wider == inside).all():
            return inside
        inside = wider


def blur(picture: np.ndarray) -> np.ndarray:
    """[H, W, C] under the binomial kernel 1 2 1 in both directions, edges repeated."""
    wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    tall = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    return (tall[:, :-2] + 2 * tall[:, 1:-1] + tall[:, 2:]) / 16


def centre(cover: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of what is covered, px."""
    y, x = np.mgrid[: cover.shape[0], : cover.shape[1]]
    return np.array([(cover * x).sum(), (cover * y).sum()]) / cover.sum()


def outline(cover: np.ndarray, place: np.ndarray) -> np.ndarray:
    """[PATCH, PATCH]: the cover around its middle, at a scale at which every shape has the same area."""
    offsets = np.linspace(-REACH, REACH, PATCH) * np.sqrt(cover.sum())
    return sampled(cover, place[0] + offsets, place[1] + offsets)


def sampled(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Linear interpolation of [H, W] at the crossings of x and y, 0 outside of the picture."""
    wide = np.pad(picture, 1)
    parts = []
    for at, size in ((y + 1, wide.shape[0]), (x + 1, wide.shape[1])):
        at = np.clip(at, 0, size - 1.001)
        low = at.astype(int)
        weights = np.zeros((len(at), size))
        weights[np.arange(len(at)), low] = 1 - (at - low)
        weights[np.arange(len(at)), low + 1] = at - low
        parts.append(weights)
    return parts[0] @ wide @ parts[1].T


@lru_cache(maxsize=16)
def templates(size: int) -> dict[str, np.ndarray]:
    """The outlines of the shapes, drawn as those of frames `size` px wide: as large in px, and under the same blur.

    (Drawn larger they would have sharper corners than any square of a small frame, which then looks like a circle.)
    """
    made = {}
    grid = np.arange(size) - (size - 1) / 2
    for shape, extents in SHAPES.items():
        outside = distance(shape, grid[None, :], grid[:, None], size * sum(extents) / 2)
        cover = blur(blur(np.clip(0.5 - outside, 0, 1)[..., None]))[..., 0]
        made[shape] = outline(cover, centre(cover))
    return made


def likeliest(outlines: Sequence[np.ndarray], size: int) -> tuple[str | None, float]:
    """The shape whose outline correlates best with the mean of these, of frames of `size` px, and its margin to the next."""
    mean = np.mean(outlines, axis=0)
    ranked = sorted(
        ((float(np.corrcoef(mean.ravel(), form.ravel())[0, 1]), shape) for shape, form in templates(size).items()),
        reverse=True,
    )
    (best, shape), (second, _) = ranked[:2]
    if not best >= LIKENESS:
        return None, 0.0
    return shape, float(np.clip((best - second) / 0.05, 0, 1))


def nearest(tone: np.ndarray, known: dict[str, Any], chroma_only: bool) -> tuple[str | None, float]:
    """The name of the nearest colour, and its margin to the next as a confidence; None for one that is near none.

    chroma_only: lightness counts a quarter.
    """
    names = list(known)
    off = np.array([known[name] for name in names]) / 255 - tone
    light = off.mean(1, keepdims=True)
    off = off - 0.75 * light if chroma_only else off
    far = np.sqrt((off**2).sum(1))
    order = far.argsort()
    if far[order[0]] > (TONE if chroma_only else 0.8 * TONE):
        return None, 0.0
    return names[order[0]], float(1 - far[order[0]] / far[order[1]])


def path(times: np.ndarray, places: np.ndarray) -> tuple[str | None, str | None]:
    """Direction and speed of places [N, 2] (widths of the picture, x right, y down) at `times` seconds."""
    if len(times) < 3:
        return None, None
    i, j = np.triu_indices(len(times), 1)
    # The median over all pairs of frames: a few wrong places do not turn it.
    way = np.median((places[j] - places[i]) / (times[j] - times[i])[:, None], axis=0)
    pace = float(np.abs(way).max())
    if pace < LEAST_PACE:
        return None, None
    direction = max(DIRECTIONS, key=lambda name: float(np.dot(way, DIRECTIONS[name])))
    along = np.array(DIRECTIONS[direction], float)
    straight = places - places.mean(0) - np.outer(times - times.mean(), along * pace)
    if np.abs(np.median(np.abs(straight), axis=0)).max() > STRAY * pace * np.ptp(times) / 2:
        return None, None
    return direction, "slowly" if pace < PACE_LIMIT else "quickly"
