"""What happens within a shot and is no cut: light that leaps, things that appear, words, focus, a passer-by.

Every effect takes and gives back the frames [N, 54, 96, 3] float32, 0..255, of one shot.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tests.benchmarks.films.scenes import HEIGHT, STILL, WIDTH, Bank, Sprite, View, between, chance, pick, words

Effect = Callable[[np.random.Generator, np.ndarray, Bank], np.ndarray]


def effect(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """One of them, at random."""
    return np.clip(EFFECTS[rng.integers(len(EFFECTS))](rng, frames, bank), 0, 255).astype(np.float32)


def each(share: np.ndarray) -> np.ndarray:
    """[N] to [N, 1, 1, 1]."""
    return np.asarray(share, np.float32)[:, None, None, None]


def flash(rng: np.random.Generator, frames: np.ndarray, bank: Bank, most: int = 1) -> np.ndarray:
    """A camera's flash, which dies away; with `most` above 1, lightning."""
    t, light = np.arange(len(frames)), np.zeros(len(frames))
    centre = rng.uniform(0, len(frames))
    for _ in range(rng.integers(1, most + 1)):
        at = int(centre + rng.normal() * 6 * (most > 1))
        light = np.maximum(light, rng.uniform(0.3, 1) * np.where(t >= at, np.exp(-(t - at) / between(rng, 0.5, 6)), 0))
    colour = np.full(3, 255) if chance(rng, 0.7) else rng.uniform(100, 255, 3)
    if chance(rng, 0.5):
        return frames + (colour - frames) * each(light)
    return frames * (1 + 4 * each(light)) + 20 * each(light)


def lightning(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    return flash(rng, frames, bank, most=5)


def strobe(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    t, begin = np.arange(len(frames)), rng.uniform(-30, len(frames))
    dark = ((t // rng.integers(1, 6)) % 2 == 0) & (t >= begin) & (t < begin + rng.integers(8, 60))
    return frames * each(np.where(dark, rng.uniform(0.1, 0.6), 1))


def flicker(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    return frames * each(np.clip(1 + rng.normal(size=len(frames)) * rng.uniform(0.05, 0.3), 0.2, 1.6))


def faulty_lamp(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """Light, at times its colour too, that leaps between two states at any time."""
    on = np.cumsum(rng.random(len(frames)) < between(rng, 0.05, 0.5)) % 2
    frames = frames * each(np.where(on, rng.uniform(0.15, 0.8), 1))
    return frames * np.where(on[:, None], rng.uniform(0.6, 1, 3), 1)[:, None, None] if chance(rng, 0.5) else frames


def exposure(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    places = [0, rng.uniform(0, len(frames)), len(frames)]
    return frames * each(np.interp(np.arange(len(frames)), places, rng.uniform(0.4, 1.4, 3)))


def switch(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """A light is switched on, or off."""
    share = np.where(np.arange(len(frames)) < rng.uniform(0, len(frames)), rng.uniform(0.25, 0.7), 1)
    return frames * each(share if chance(rng, 0.5) else share[::-1])


def negative(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    at, takes = rng.integers(len(frames)), rng.integers(1, 4)
    return np.concatenate([frames[:at], 255 - frames[at : at + takes], frames[at + takes :]])


def window(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """A picture in the picture comes and goes."""
    at, out = rng.integers(len(frames)), frames.copy()
    end = min(len(frames), at + rng.integers(5, 120))
    height, width = int(HEIGHT * rng.uniform(0.15, 0.55)), int(WIDTH * rng.uniform(0.15, 0.6))
    y, x = rng.integers(HEIGHT - height), rng.integers(WIDTH - width)
    for i, picture in zip(range(at, end), View(rng, bank, 1.0).film(end - at, 0.0), strict=True):
        out[i, y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return out


def caption(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """Words, at times with a plate behind them, come and go at once or slowly."""
    at, t = rng.integers(len(frames)), np.arange(len(frames))
    end, ramp = min(len(frames), at + rng.integers(5, 120)), rng.choice([1, 1, 5, 15])
    mask = words(rng, rng.integers(1, 4), 4, HEIGHT - 6)
    if chance(rng, 0.3):
        y, x = rng.integers(HEIGHT // 2), rng.integers(WIDTH // 2)
        mask[y : y + rng.integers(8, HEIGHT // 2), x : x + rng.integers(14, WIDTH // 2)] = 1
    share = each(np.clip(np.minimum((t - at) / ramp, (end - t) / ramp), 0, 1)) * mask[..., None]
    return frames * (1 - share) + rng.uniform(180, 255, 3) * (1 if chance(rng, 0.8) else 0.1) * share


def sticker(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    out = frames.copy()
    for _ in range(rng.integers(1, 4)):
        thing = Sprite(pick(rng, bank.sprites), between(rng, 0.12, 0.6), rng.uniform(0.1, 0.9, 2))
        at = rng.integers(len(frames))
        for picture in out[at : at + rng.integers(4, 90)]:
            thing.paste(picture, STILL)
    return out


def passer_by(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    """Something crosses close to the camera."""
    dark = np.full((90, 160, 3), rng.uniform(5, 80), np.uint8)
    thing = cv2.resize(
        pick(rng, bank.pictures) if chance(rng, 0.5) else dark, (int(WIDTH * rng.uniform(0.4, 1.8)), HEIGHT)
    )
    thing = cv2.blur(thing, (9, 1)).astype(np.float32) * rng.uniform(0.2, 0.9)
    at, takes, width, out = rng.integers(len(frames)), rng.integers(4, 30), thing.shape[1], frames.copy()
    rightward = chance(rng, 0.5)
    for i in range(at, min(len(frames), at + takes)):
        left = int((i - at + 0.5) * (WIDTH + width) / takes) - width
        left = left if rightward else WIDTH - width - left
        a, b = max(0, left), min(WIDTH, left + width)
        if a < b:
            out[i, :, a:b] = thing[:, a - left : b - left]
    return out


def explosion(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    away = np.hypot(x - rng.uniform(0, WIDTH), y - rng.uniform(0, HEIGHT))
    colour = np.float32([255, rng.uniform(150, 230), rng.uniform(40, 160)])
    at, slow, reach, out = rng.integers(len(frames)), between(rng, 4, 40), between(rng, 15, 110), frames.copy()
    for i in range(at, min(len(frames), at + int(3 * slow))):
        age = (i - at) / slow
        share = np.clip((reach * min(1, 4 * age) ** 0.5 - away) / 8, 0, 1) * np.exp(-1.5 * max(0, age - 0.5))
        smoke = cv2.resize(rng.random((5, 8), dtype=np.float32), (WIDTH, HEIGHT)) * 0.4 + 0.7
        out[i] = out[i] * (1 - share[..., None]) + np.minimum(255, colour * smoke[..., None]) * share[..., None]
    return out


def focus(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    centre, slow, out = rng.uniform(0, len(frames)), between(rng, 3, 25), frames.copy()
    for i, picture in enumerate(frames):
        sigma = 7 * np.exp(-(((i - centre) / slow) ** 2))
        if sigma > 0.4:
            out[i] = cv2.GaussianBlur(picture, (0, 0), sigma)
    return out


def freeze(rng: np.random.Generator, frames: np.ndarray, bank: Bank) -> np.ndarray:
    at, out = rng.integers(len(frames)), frames.copy()
    out[at : at + rng.integers(3, 25)] = frames[at]
    return out


EFFECTS: tuple[Effect, ...] = (
    flash, lightning, strobe, flicker, faulty_lamp, exposure, switch, negative, window, caption, sticker, sticker,
    passer_by, explosion, focus, freeze,
)  # fmt: skip


# --- of a whole film: the same in all its shots


def graded(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """Colours, contrast, brightness and tint of a film."""
    if chance(rng, 0.7):
        frames = 255 * (np.clip(frames, 0, 255) / 255) ** np.exp(rng.normal() * 0.3) * np.exp(rng.normal(size=3) * 0.12)
    if chance(rng, 0.5):
        grey = frames.mean(3, keepdims=True)
        frames = grey + (frames - grey) * rng.uniform(0.1, 1.3)
    if chance(rng, 0.4):
        share = rng.uniform(0.25, 1.3)
        frames = rng.uniform(40, 140) * min(1, share + 0.2) + (frames - frames.mean()) * share
    if chance(rng, 0.15):
        frames = frames * rng.uniform(0.12, 0.5)
    if chance(rng, 0.25):
        share = rng.uniform(0.1, 0.5)
        frames = frames * (1 - share) + frames.mean(3, keepdims=True) / 128 * rng.uniform(0, 255, 3) * share
    return np.clip(frames, 0, 255).astype(np.float32)


def framed(rng: np.random.Generator, frames: np.ndarray, surround: np.ndarray) -> np.ndarray:
    """Black bars above and below or at the sides, sides filled with the blurred picture, or all within a still picture."""
    how = rng.random()
    top, left, out = 0, 0, np.full_like(frames, rng.uniform(0, 14))
    height, width = HEIGHT, WIDTH
    if how < 0.3:
        top = int(HEIGHT * rng.uniform(0.04, 0.2))
        height = HEIGHT - 2 * top
        if chance(rng, 0.5):
            out[:, top : top + height] = frames[:, top : top + height]
            return out
    elif how < 0.42:
        left = int(WIDTH * rng.uniform(0.1, 0.34))
        width = WIDTH - 2 * left
        if chance(rng, 0.4):
            out = np.stack([cv2.blur(picture, (25, 25)) * 0.7 for picture in frames])
    elif how < 0.46:
        height, width = int(HEIGHT * rng.uniform(0.5, 0.85)), int(WIDTH * rng.uniform(0.5, 0.85))
        top, left = rng.integers(HEIGHT - height), rng.integers(WIDTH - width)
        out[:] = cv2.resize(surround, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    else:
        return frames
    for picture, whole in zip(out, frames, strict=True):
        picture[top : top + height, left : left + width] = cv2.resize(
            whole, (width, height), interpolation=cv2.INTER_AREA
        )
    return out


def written(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """A station's mark, and subtitles that come and go without regard to the shots."""
    frames = frames.copy()
    if chance(rng, 0.2):
        y, x = rng.choice([2, HEIGHT - 12]), rng.choice([2, WIDTH - 16])
        frames[:, y : y + rng.integers(3, 9), x : x + rng.integers(4, 13)] = rng.uniform(0, 255, 3)
    if chance(rng, 0.25):
        y = int(HEIGHT * (rng.uniform(0.7, 0.88) if chance(rng, 0.85) else rng.uniform(0.05, 0.3)))
        ink, plate = rng.uniform(150, 255, 3), rng.uniform(0, 255, 3) if chance(rng, 0.4) else None
        at, height = rng.integers(40), int(rng.integers(3, 9))
        while at < len(frames):
            end, left = at + int(between(rng, 5, 70)), int(rng.uniform(3, WIDTH * 0.4))
            if plate is not None:
                frames[at:end, y : y + height + 2, left - 2 : WIDTH - left + 2] = plate
            for x in range(left, WIDTH - left, 3):
                if chance(rng, 0.85):
                    frames[at:end, y + 1 : y + rng.integers(2, height + 1), x : x + 2] = ink
            at = end + (0 if chance(rng, 0.5) else int(between(rng, 1, 50)))
    return frames


def aged(rng: np.random.Generator, thumbs: np.ndarray) -> np.ndarray:
    """Grain, and what a coarse encoder does: blocks that change their level at every keyframe. Some films are grey."""
    n = len(thumbs)
    thumbs = thumbs + between(rng, 0.2, 3.0) * rng.normal(size=thumbs.shape).astype(np.float32)
    if chance(rng, 0.3):
        every = rng.choice([12, 15, 25, 30, 48])
        blocks = rng.normal(size=(n // every + 1, 7, 12, 3)).astype(np.float32) * between(rng, 0.5, 2.5)
        blocks = np.stack([cv2.resize(x, (48, 27), interpolation=cv2.INTER_NEAREST) for x in blocks])
        thumbs = thumbs + blocks.repeat(every, 0)[:n]
    return thumbs.mean(3, keepdims=True).repeat(3, 3) if chance(rng, 0.06) else thumbs
