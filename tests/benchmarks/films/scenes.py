"""Single shots of 96 x 54: a camera over a picture, a drawing or a recording, with things that move in front of it.

Fast pans, shaking hands, moves between two holds, whips of the camera up to the very end of the shot, motion blur,
drawings that hold every second frame, water and speed lines that are new in every frame: none of it is a cut.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

WIDTH, HEIGHT = 96, 54
STILL = np.zeros(4)


@dataclass
class Bank:
    """pictures: [h, w, 3] uint8 RGB. sprites: [h, w, 4], with alpha. recordings: [N, h, w, 3], each of a single shot."""

    pictures: Sequence[np.ndarray]
    sprites: Sequence[np.ndarray]
    recordings: Sequence[np.ndarray]


def pick(rng: np.random.Generator, things: Sequence) -> np.ndarray:
    return things[rng.integers(len(things))]


def chance(rng: np.random.Generator, share: float) -> bool:
    return rng.random() < share


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def path(rng: np.random.Generator, frames: int, fast: float) -> np.ndarray:
    """Where the camera goes, [frames, 4]: x and y in widths of the view, logarithm of the zoom, turn. fast: 0..1."""
    t, out = np.arange(frames), np.zeros((frames, 4))
    if chance(rng, 0.8):
        for k, (share, scale) in enumerate(((0.8, 1), (0.6, 0.5), (0.5, 0.35), (0.25, 0.12))):
            if chance(rng, share):
                speed = rng.normal() * between(rng, 0.0006, 0.006 + 0.07 * fast**2) * scale
                bend = rng.normal() * abs(speed) / frames * 2 * chance(rng, 0.5)
                out[:, k] += speed * t + bend * t * t / 2
    if chance(rng, 0.5):  # a hand holds it
        slow, hand = between(rng, 1, 8), rng.normal(size=(frames, 4))
        for i in range(1, frames):
            hand[i] = hand[i - 1] * (1 - 1 / slow) + hand[i] * min(1, 1.5 / slow)
        out += hand * between(rng, 0.0005, 0.004 + 0.03 * fast) * [1, 0.8, 0.5, 0.3]
    if chance(rng, 0.1 + 0.2 * fast):  # an eased move between two holds
        share = np.clip((t - rng.uniform(-0.1, 1.1) * frames) / between(rng, 3, 40) + 0.5, 0, 1)
        goal = rng.normal(size=4) * between(rng, 0.05, 1.2) * [1, 0.5, 0.4, 0.15]
        out += (share * share * (3 - 2 * share))[:, None] * goal
    if chance(rng, 0.08 + 0.2 * fast):  # a whip, often at an end of the shot
        centre = rng.choice([0, frames - 1, rng.uniform(0, frames)]) + rng.normal() * 2
        whip = between(rng, 0.15, 2.5) * rng.choice([-1, 1])
        k = rng.choice([0, 0, 0, 1, 2])
        away = np.clip((centre - t) / between(rng, 1, 7) * 1.7, -30, 30)
        out[:, k] += whip * (1, 0.6, 0.24)[k] / (1 + np.exp(away))
    hold = rng.choice([1, 1, 1, 1, 1, 2, 2, 3])
    return out[(t // hold) * hold]


def drawing(rng: np.random.Generator) -> np.ndarray:
    """Flat areas of a few colours with outlines, as drawn animation has, or clouds of colours: [180, 320, 3] uint8."""
    height, width = 180, 320
    if chance(rng, 0.25):
        out = np.zeros((height, width, 3), np.float32)
        for cells, share in ((3, 0.6), (9, 0.3), (27, 0.1)):
            noise = rng.random((cells + 1, 2 * cells + 1, 3), dtype=np.float32)
            out += share * cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
        return (np.clip((out - 0.5) * 2.2 + 0.5, 0, 1) * 255 * rng.uniform(0.35, 1, 3)).astype(np.uint8)
    top, bottom = rng.uniform(0, 255, (2, 3))
    down = np.linspace(0, 1, height)[:, None, None]
    out = np.ascontiguousarray(np.broadcast_to(top * (1 - down) + bottom * down, (height, width, 3)), np.float32)
    colours = rng.uniform(0, 255, (rng.integers(2, 6), 3))
    for _ in range(rng.integers(3, 22)):
        colour = np.clip(pick(rng, colours) + rng.normal(size=3) * 25, 0, 255)
        corners = rng.integers(3, 9)
        angle, radius = (
            np.sort(rng.uniform(0, 2 * np.pi, corners)),
            between(rng, 8, 120) * rng.uniform(0.5, 1.2, corners),
        )
        shape = np.stack([np.cos(angle), np.sin(angle) * rng.uniform(0.4, 1)], 1) * radius[:, None]
        shape = (shape + rng.uniform([0, 0], [width, height])).astype(np.int32)
        cv2.fillPoly(out, [shape], tuple(map(float, colour)), cv2.LINE_AA)
        if chance(rng, 0.5):
            cv2.polylines(out, [shape], True, (20, 15, 15), int(rng.integers(1, 4)), cv2.LINE_AA)
    return np.clip(out, 0, 255).astype(np.uint8)


@dataclass
class Sprite:
    """A thing in front of the scene. size: of its height, in heights of the view. at: x, y of its middle, 0..1. every:
    above 0, it is drawn anew every so many frames, a little elsewhere, as in limited animation."""

    picture: np.ndarray
    size: float
    at: np.ndarray
    fast: float = 0.0
    every: int = 0

    def scaled(self, zoom: float) -> np.ndarray | None:
        height = self.size * HEIGHT * np.exp(0.5 * zoom)
        width = self.picture.shape[1] * height / self.picture.shape[0]
        if height > 200 or width > 300:
            return None
        size = max(2, int(width)), max(2, int(height))
        if getattr(self, "_size", None) != size:
            self._size, self._small = (
                size,
                cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA).astype(np.float32),
            )
        return self._small

    def paste(self, picture: np.ndarray, place: np.ndarray, lift: float = 0.0) -> None:
        small = self.scaled(place[2])
        if small is None:
            return
        height, width = small.shape[:2]
        left = int((self.at[0] + place[0]) * WIDTH - width / 2)
        top = int((self.at[1] + place[1] + lift) * HEIGHT - height / 2)
        x0, y0, x1, y1 = max(0, left), max(0, top), min(WIDTH, left + width), min(HEIGHT, top + height)
        if x0 < x1 and y0 < y1:
            part = small[y0 - top : y1 - top, x0 - left : x1 - left]
            alpha = part[..., 3:] / 255
            picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * alpha


def sprite(rng: np.random.Generator, bank: Bank) -> Sprite:
    if chance(rng, 0.5):
        picture = pick(rng, bank.sprites)
    else:  # a blob cut out of a picture
        source = pick(rng, bank.pictures) if chance(rng, 0.6) else drawing(rng)
        height, width = (int(x * between(rng, 0.2, 0.8)) for x in source.shape[:2])
        y, x = rng.integers(source.shape[0] - height), rng.integers(source.shape[1] - width)
        colours = cv2.resize(source[y : y + height, x : x + width], (72, 72), interpolation=cv2.INTER_AREA)
        wave = cv2.resize(rng.normal(size=(5, 5)).astype(np.float32), (72, 72), interpolation=cv2.INTER_CUBIC)
        y, x = np.mgrid[-1:1:72j, -1:1:72j]
        alpha = np.clip((wave * 0.25 + 0.75 - np.hypot(x, y)) * 8, 0, 1) * 255
        picture = np.dstack([colours, alpha.astype(np.uint8)])
    every = int(rng.integers(2, 12)) if chance(rng, 0.25) else 0
    return Sprite(picture, between(rng, 0.12, 1.3), rng.uniform([0, 0.2], [1, 0.9]), rng.random() ** 2, every)


class View:
    """A camera's place. aspect: below 1, the film is upright and thumbs squash it.

    kind: "picture", "drawing", "recording", "lines" or "blobs" (new in every frame) or "title"."""

    def __init__(self, rng: np.random.Generator, bank: Bank, aspect: float) -> None:
        self.rng, self.bank, self.aspect = rng, bank, aspect
        kinds = ["picture", "recording", "drawing", "lines", "blobs", "title"]
        self.kind = str(rng.choice(kinds, p=[0.56, 0.16, 0.2, 0.025, 0.015, 0.04]))
        if self.kind in ("picture", "drawing"):
            self.source = pick(rng, bank.pictures) if self.kind == "picture" else drawing(rng)
        elif self.kind == "recording":
            self.source = pick(rng, bank.recordings)
        self.mirrored = chance(rng, 0.5)
        self.channels = rng.permutation(3) if self.kind == "recording" and chance(rng, 0.4) else np.arange(3)
        self.colours = rng.uniform(0, 255, (3, 3))
        self.cover, self.turn = between(rng, 0.22, 1.0), rng.normal() * 0.05
        self.x, self.y, self.start = rng.random(3)
        count = rng.choice([0, 0, 0, 1] if self.kind == "recording" else [0, 0, 1, 1, 2, 3])
        self.sprites = [sprite(rng, bank) for _ in range(count)]
        self.sway = None  # a smooth field that bends the picture, as people do when they move
        if self.kind in ("picture", "drawing", "recording") and chance(rng, 0.3):
            self.sway = cv2.resize(
                rng.normal(size=(4, 5, 4)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
            )

    def nearby(self) -> View:
        """The same scene a moment later or from a step aside: what a jump cut shows."""
        rng, other, amount = self.rng, copy.copy(self), self.rng.random()
        how = rng.choice(["aside", "closer", "later"])
        zoom = (
            rng.choice([-1, 1]) * rng.uniform(0.12, 0.55) * (0.4 + amount) if how == "closer" else rng.normal() * 0.08
        )
        aside = (0.1 if how == "closer" else 0.5 * amount) * self.cover
        other.cover = self.cover * np.exp(zoom)
        other.x, other.y = self.x + rng.normal() * aside * 0.35, self.y + rng.normal() * aside * 0.2
        other.sprites = [
            replace(
                s,
                at=np.clip(s.at + rng.normal(size=2) * (0.12 + 0.3 * amount) * [1, 0.5], 0, 1),
                size=s.size * np.exp(rng.normal() * 0.2),
            )
            for s in self.sprites
        ]
        if how == "later":
            other.start = (self.start + rng.uniform(0.15, 0.7)) % 1
            if not other.sprites and self.kind != "recording":
                other.sprites = [sprite(rng, self.bank)]
            elif chance(rng, 0.3):
                other.sprites = other.sprites[1:]
        return other

    def elsewhere(self) -> View:
        """Another shot of the same picture or recording: the same colours, other shapes."""
        rng, other = self.rng, View(self.rng, self.bank, self.aspect)
        if self.kind not in ("picture", "drawing", "recording"):
            return other
        other.kind, other.source, other.channels = self.kind, self.source, self.channels
        if self.kind == "recording":
            other.mirrored, other.cover, other.sway = not self.mirrored, between(rng, 0.3, 0.6), None
            other.sprites = other.sprites[:1]
        else:
            other.mirrored, other.cover = self.mirrored != chance(rng, 0.3), between(rng, 0.15, 0.5)
            far, angle = rng.uniform(0.8, 2.0) * max(other.cover, self.cover), rng.uniform(0, 2 * np.pi)
            other.x, other.y = self.x + far * np.cos(angle), self.y + far * np.sin(angle)
            if chance(rng, 0.5):
                other.sprites = self.sprites + other.sprites[:1]
        return other

    def film(self, frames: int, fast: float) -> np.ndarray:
        """[frames, 54, 96, 3] float32, 0..255."""
        if self.kind == "title":
            return title(self.rng, frames, steady=True)[0]
        rng, camera = self.rng, path(self.rng, frames, fast)
        shutter, out = rng.random(), np.empty((frames, HEIGHT, WIDTH, 3), np.float32)
        speed = np.abs(np.gradient(camera, axis=0)) if frames > 1 else np.zeros((1, 4))
        moving = [
            (s, self._way(s, frames, fast), rng.uniform(0, 0.06) * chance(rng, 0.4), between(rng, 4, 30))
            for s in self.sprites
        ]
        if self.kind in ("lines", "blobs"):
            draw = self._restless()
        else:
            draw = self._camera(frames, camera * (0.5 if self.kind == "recording" else 1.0), fast)
        for i in range(frames):
            picture = draw(i)
            blur = int(1 + shutter * min(60, speed[i, 0] * WIDTH)), int(1 + shutter * min(40, speed[i, 1] * WIDTH))
            picture = (cv2.blur(picture, blur) if max(blur) > 1 else picture).astype(np.float32)
            for thing, way, bob, period in moving:
                thing.paste(picture, way[i], bob * np.sin(i / period * 2 * np.pi))
            out[i] = picture
        return out

    def _way(self, thing: Sprite, frames: int, fast: float) -> np.ndarray:
        way = path(self.rng, frames, max(fast, thing.fast))
        if not thing.every:
            return way
        places = (
            self.rng.normal(size=(frames // thing.every + 1, 4)) * between(self.rng, 0.005, 0.12) * [1, 0.6, 1.5, 0]
        )
        return 0.2 * way + places.repeat(thing.every, 0)[:frames]

    def _camera(self, frames: int, camera: np.ndarray, fast: float):
        rng, recorded = self.rng, self.kind == "recording"
        height, width = self.source.shape[1:3] if recorded else self.source.shape[:2]
        base = self.cover * min(height, width * HEIGHT / WIDTH) / HEIGHT  # points of the source for one of the view
        shrunk = min(1.0, 1 / base)
        size = max(8, round(width * shrunk)), max(8, round(height * shrunk))
        last = len(self.source) - 1
        times = self.start * last + rng.choice([0.5, 1, 1, 1, 1.5, 2]) * np.arange(frames)  # there and back again
        times = np.abs((times + last) % (2 * last) - last).astype(int) if recorded and last else np.zeros(frames, int)
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)

        def reduced(picture: np.ndarray) -> np.ndarray:
            picture = picture[:, ::-1] if self.mirrored else picture
            return cv2.resize(picture[..., self.channels], size, interpolation=cv2.INTER_AREA)

        still = None if recorded else reduced(self.source)

        def draw(i: int) -> np.ndarray:
            picture = reduced(self.source[times[i]]) if recorded else still
            scale = base * size[0] / width * np.exp(-camera[i, 2])
            cos, sin = np.cos(self.turn + camera[i, 3]), np.sin(self.turn + camera[i, 3])
            turn = np.array([[self.aspect * scale * cos, -scale * sin], [self.aspect * scale * sin, scale * cos]])
            centre = (np.array([self.x, self.y]) + camera[i, :2] * self.cover) * size
            matrix = np.float32(np.c_[turn, centre - turn @ [WIDTH / 2, HEIGHT / 2]])
            if self.sway is None:
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
            phase, much, d = i * 0.15 * (1 + 2 * fast), 1.5 + 2 * fast, self.sway
            u = x + much * (d[..., 0] * np.sin(phase) + d[..., 1] * np.cos(0.7 * phase))
            v = y + much * (d[..., 2] * np.sin(0.8 * phase) + d[..., 3] * np.cos(1.1 * phase))
            places = (
                (matrix @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)]))
                .astype(np.float32)
                .reshape(2, HEIGHT, WIDTH)
            )
            return cv2.remap(picture, places[0], places[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

        return draw

    def _restless(self):
        """Speed lines, fire, water: every frame is new."""
        rng, cloud = self.rng, np.full((HEIGHT, WIDTH), 0.5, np.float32)

        def draw(i: int) -> np.ndarray:
            nonlocal cloud
            if self.kind == "lines":
                picture = np.full((HEIGHT, WIDTH, 3), self.colours[0], np.float32)
                for _ in range(14):
                    y, x = int(rng.uniform(0, HEIGHT)), int(rng.uniform(-10, WIDTH * 0.6))
                    end = x + int(rng.uniform(10, WIDTH)), y + int(rng.normal() * 2)
                    cv2.line(picture, (x, y), end, tuple(self.colours[1 + rng.integers(2)]), int(rng.integers(1, 4)))
                return cv2.blur(picture, (5, 1))
            fresh = cv2.resize(rng.random((6, 9), dtype=np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            cloud = 0.6 * cloud + 0.4 * fresh
            share = cloud[..., None]
            return np.clip(self.colours[0] * (1 - share) + self.colours[1] * share + (share - 0.5) * 120, 0, 255)

        return draw


def title(rng: np.random.Generator, frames: int, steady: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Words on black, or another plain colour, that come and go, and [frames] bool: where they stand in full."""
    ground = rng.uniform(0, 12, 3) if chance(rng, 0.85) else rng.uniform(0, 255, 3)
    ink, mask = rng.uniform(120, 255, 3), words(rng, rng.integers(1, 4), 10, HEIGHT - 14)
    t, ramp = np.arange(frames), rng.integers(1, 14)
    begin, end = rng.uniform(0, 0.3) * frames, rng.uniform(0.7, 1) * frames
    seen = np.ones(frames) if steady else np.clip(np.minimum((t - begin) / ramp, (end - t) / ramp), 0, 1)
    grow, out = 1 + t * rng.uniform(0, 0.004), np.empty((frames, HEIGHT, WIDTH, 3), np.float32)
    for i, g in enumerate(grow):
        matrix = np.float32([[g, 0, WIDTH / 2 * (1 - g)], [0, g, HEIGHT / 2 * (1 - g)]])
        share = cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT))[..., None] * seen[i]
        out[i] = ground * (1 - share) + ink * share
    return out, seen > 0.999


def words(rng: np.random.Generator, lines: int, top: float, bottom: float) -> np.ndarray:
    """[54, 96] float32 0..1: rows of small bars."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for _ in range(lines):
        y = int(rng.uniform(top, bottom))
        for x in range(int(rng.uniform(3, WIDTH / 2)), int(rng.uniform(WIDTH / 2, WIDTH - 3)), 4):
            cv2.rectangle(mask, (x, y), (x + 2, y + int(rng.integers(2, 6))), 1.0, -1)
    return cv2.blur(mask, (2, 2))
