"""A world with known answers: captioned videos of one shape that moves over a background, and ways to spoil them.

"a red circle moves left quickly over a grey background": every word of a caption can be measured in the video
(`world_reader`), so that what a generator learned, and what a curator removed, can be counted.

    python -m video_model.world OUT --clips 600 --seed 0 --contaminate 0.5

OUT/list.jsonl names the videos with their captions and the truth about each; it is a source list for `winnow annotate`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from video_model.pictures import write_frames

__all__ = ["BACKGROUNDS", "COLOURS", "DIRECTIONS", "KINDS", "PACES", "SHAPES", "Scene", "make_world", "parse", "render"]

SHAPES = {"circle": (0.36, 0.42), "square": (0.42, 0.46), "triangle": (0.44, 0.48)}  # extent, in widths of the picture
COLOURS = {"red": (225, 50, 45), "green": (45, 160, 60), "blue": (60, 110, 235), "yellow": (245, 205, 40)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x to the right, y down
PACES = {"slowly": (0.15, 0.18), "quickly": (0.32, 0.38)}  # widths of the picture a second
# Faint colours, none near one of a shape, neither in hue nor in lightness: flow is measured on grey pictures.
BACKGROUNDS = {
    "grey": (70, 70, 70),
    "white": (236, 236, 234),
    "black": (22, 22, 24),
    "brown": (90, 58, 34),
    "purple": (75, 45, 105),
}
LIBX264 = {"crf": "16", "preset": "veryfast", "threads": "1"}
KINDS = ("static", "text", "cut", "caption")  # of contamination

SIZE, FPS, SECONDS = 128, 24, 1.25
MARGIN = 0.015  # of the width, that always lies between a shape and the edge
LINES = (
    "SUBSCRIBE NOW", "LIKE AND SHARE", "EPISODE 12", "BREAKING NEWS", "FREE PREVIEW", "CLICK THE LINK", "WATCH PART 2",
    "BEST OF 2023", "NEW EVERY DAY", "COMING SOON", "SPECIAL OFFER", "STAY TUNED",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What a video shows. extent, x, y (centre in the first frame): widths of the picture; pace: widths a second.

    texture: seed of the background's gradient and grain.
    """

    shape: str
    colour: str
    direction: str
    speed: str
    background: str
    extent: float
    x: float
    y: float
    pace: float
    texture: int

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.direction} {self.speed} over a {self.background} background"

    @classmethod
    def draw(cls, rng: np.random.Generator, seconds: float = SECONDS) -> Scene:
        """A random scene in which the shape stays wholly inside the picture for `seconds`."""
        shape, colour, direction, speed, background = (
            str(rng.choice(list(names))) for names in (SHAPES, COLOURS, DIRECTIONS, PACES, BACKGROUNDS)
        )
        extent, pace = float(rng.uniform(*SHAPES[shape])), float(rng.uniform(*PACES[speed]))
        low, high = extent / 2 + MARGIN, 1 - extent / 2 - MARGIN
        place = []
        for step in DIRECTIONS[direction]:
            travel = step * pace * seconds
            if abs(travel) > high - low:
                raise ValueError(f"a {shape} that moves {speed} leaves the picture in {seconds:g} s: ask for less time")
            place.append(float(rng.uniform(low - min(travel, 0), high - max(travel, 0))))
        return cls(shape, colour, direction, speed, background, extent, *place, pace, int(rng.integers(1 << 31)))


def render(scene: Scene, *, size: int = SIZE, fps: float = FPS, seconds: float = SECONDS) -> np.ndarray:
    """Frames [T, size, size, 3] uint8 RGB of a scene, edges antialiased."""
    grid = (np.arange(size) + 0.5) / size
    x, y = grid[None, :], grid[:, None]
    back = np.array(BACKGROUNDS[scene.background], float) + backdrop(scene.texture, size)[..., None]
    colour = np.array(COLOURS[scene.colour], float)
    frames = []
    for i in range(round(seconds * fps)):
        moved = scene.pace * i / fps
        step = DIRECTIONS[scene.direction]
        outside = distance(scene.shape, x - scene.x - step[0] * moved, y - scene.y - step[1] * moved, scene.extent)
        cover = np.clip(0.5 - outside * size, 0, 1)[..., None]  # share of a pixel that the shape covers
        frames.append(back + cover * (colour - back))
    return np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8)


def parse(prompt: str) -> dict[str, str]:
    """What a caption of this world promises: a value for each of shape, colour, direction, speed, background it names."""
    named = {}
    words = prompt.lower().replace(",", " ").replace(".", " ").split()
    for i, word in enumerate(words):
        if word in BACKGROUNDS and words[i + 1 : i + 2] == ["background"]:
            named["background"] = word
        for name, known in (("shape", SHAPES), ("colour", COLOURS), ("direction", DIRECTIONS), ("speed", PACES)):
            if word in known:
                named[name] = word
    return named


def make_world(
    folder: str | Path,
    clips: int,
    seed: int = 0,
    contaminate: float = 0.0,
    kinds: Sequence[str] = KINDS,
) -> Path:
    """Write `clips` videos of 1.25 seconds (128 x 128, 24 fps, H.264) and list.jsonl; the path of the list.

    contaminate: share of the clips that is spoiled, evenly by the kinds: `static` (the shape rests, the caption says that
    it moves), `text` (covered with writing), `cut` (a second scene follows in the same file), `caption` (that of another
    clip). The list has path, caption, and as the truth of the picture shape, colour, direction, speed, background, and
    contamination (a kind or "none"). The same arguments make the same files. Raises ValueError.
    """
    if not 0 <= contaminate <= 1 or not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"contaminate must lie in 0..1 (got {contaminate:g}), kinds be some of {', '.join(KINDS)}")
    if clips < 1:
        raise ValueError(f"clips must be at least 1 (got {clips})")
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, clips])
    spoiled = rng.permutation(clips)[: round(clips * contaminate)]
    fate = {int(clip): kinds[i % len(kinds)] for i, clip in enumerate(spoiled)}
    rows = []
    for i in range(clips):
        rng = np.random.default_rng([seed, clips, i])
        scene, kind = Scene.draw(rng), fate.get(i, "none")
        frames, caption = spoil(scene, kind, rng)
        path = f"videos/{i:05d}.mp4"
        write_frames(folder / path, frames, FPS, **LIBX264)
        truth = {name: value for name, value in asdict(scene).items() if isinstance(value, str)}
        rows.append({"path": path, "caption": caption, **truth, "contamination": kind})
    listed = folder / "list.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return listed


def spoil(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The frames of a scene, spoiled in one way or none, and the caption that goes with them."""
    other = Scene.draw(rng)
    while other.caption == scene.caption:
        other = Scene.draw(rng)
    if kind == "static":
        return render(replace(scene, pace=0.0)), scene.caption
    if kind == "caption":
        return render(scene), other.caption
    frames = render(scene)
    if kind == "text":
        frames = written_over(frames, rng)
    if kind == "cut":
        at = int(len(frames) * rng.uniform(0.35, 0.65))
        frames = np.concatenate([frames[:at], render(other)[at:]])
    return frames, scene.caption


def distance(shape: str, x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
    """Signed distance to the edge of a shape in the middle of (0, 0), negative inside; y points down."""
    half = extent / 2
    if shape == "circle":
        return np.hypot(x, y) - half
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - half
    if shape == "triangle":  # equilateral, a point on top; the middle is that of its bounding box
        height = extent * np.sqrt(3) / 2
        base, slope = y - height / 2, abs(x) * np.sqrt(3) / 2 - (y + height / 2) / 2
        return np.maximum(base, slope)
    raise ValueError(f"{shape}: no such shape: choose from {', '.join(SHAPES)}")


def backdrop(seed: int, size: int) -> np.ndarray:
    """[size, size]: levels to add to a background, within -15..15: a gradient and soft grain. The same at every size."""
    rng = np.random.default_rng(seed)
    turn, coarse = rng.uniform(0, 2 * np.pi), rng.uniform(-5, 5, (9, 9))
    grid = (np.arange(size) + 0.5) / size
    along = (grid[None, :] - 0.5) * np.cos(turn) + (grid[:, None] - 0.5) * np.sin(turn)
    weights = np.maximum(0, 1 - abs(grid[:, None] * 8 - np.arange(9)))  # linear interpolation
    return along / np.sqrt(0.5) * 10 + weights @ coarse @ weights.T


def written_over(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames under four lines of writing that stay where they are."""
    from PIL import Image, ImageDraw, ImageFont

    size = frames.shape[1]
    font = ImageFont.load_default(size * 0.13)
    layer = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(layer)
    for line, text in enumerate(rng.choice(LINES, 4, replace=False)):
        place = (size * rng.uniform(0.02, 0.06), size * (0.06 + 0.24 * line))
        draw.text(place, str(text), font=font, fill="white", stroke_width=1, stroke_fill="black")
    pixels = np.asarray(layer, float)
    cover = pixels[..., 3:] / 255
    return (frames * (1 - cover) + pixels[..., :3] * cover + 0.5).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m video_model.world", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contaminate", type=float, default=0.0, help="share of the clips that is spoiled")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args(arguments)
    print(make_world(options.out, options.clips, options.seed, options.contaminate, options.kinds))


if __name__ == "__main__":
    main()
