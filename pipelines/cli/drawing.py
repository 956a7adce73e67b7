"""What `winnow sample` was asked for, drawn from a run and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np


class SamplingError(Exception):
    """An option of `winnow sample` that cannot be. One line with the fix."""


@dataclass(frozen=True)
class Wish:
    """The options of the command line, as they came. numbers: fields of a request, and conditions; None: the default."""

    prompts: list[str]
    out: Path
    image: Path | None
    last_image: Path | None
    stage: str | None
    scale: int
    numbers: dict[str, Any]
    guidance: str | None
    size: str | None
    conditions: list[str]


def draw(run: str, wish: Wish, watcher: Any, schema: Any) -> list[Path]:
    """Draw a video for each prompt and write it; the paths. schema: the class of the run's config. Raises SamplingError, RunError."""
    import torch

    from video_model.diffusion.samplers import names_of
    from video_model.pictures import to_uint8, write_frames
    from video_model.training.sampler import Sampler

    if not wish.prompts and wish.image is None:
        raise SamplingError(
            '--prompt or --image: name what to draw, e.g. --prompt "a red circle moves left", or --image first.png for image to video'
        )
    chosen = wish.numbers.get("sampler")
    if chosen is not None and chosen not in names_of(schema.parts.samplers):
        raise SamplingError(f"--sampler {chosen}: choose from {', '.join(names_of(schema.parts.samplers))}")
    sampler = Sampler(run, wish.stage, "cuda" if torch.cuda.is_available() else "cpu", schema)
    if wish.prompts and all(slot.name != "text" for slot in sampler.conditioner.slots):
        raise SamplingError(f"--prompt: stage {sampler.name} is not conditioned on text: leave it out")
    given = conditions(wish.conditions) | wish.numbers
    given |= {"guidance": guidance(wish.guidance), "size": size(wish.size)}
    request = sampler.request(wish.prompts or [""], **given)
    if wish.image is not None:
        request = sampler.request(wish.prompts or [""], **given | pictured(sampler, wish, request.size))
    still = request.frames == 1
    suffix = wish.out.suffix.lower()
    if suffix != (".png" if still else ".mp4"):
        raise SamplingError(
            f"--out {wish.out}: {'one frame is written as .png' if still else 'videos are written as .mp4'}"
        )
    videos = sampler(request, lambda done, of: watcher.phase("drawing", done, of))
    written = []
    for i, video in enumerate(videos):
        path = wish.out if len(videos) == 1 else wish.out.with_stem(f"{wish.out.stem}-{i}")
        frames = np.repeat(np.repeat(to_uint8(video), wish.scale, 1), wish.scale, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        if still:
            write_still(path, frames[0])
        else:
            write_frames(path, frames, request.fps or 8.0)
        written.append(path)
    return written


def pictured(sampler: Any, wish: Wish, size: tuple[int, int]) -> dict[str, Any]:
    """What slots that take pictures are given, by their names. Raises SamplingError."""
    import torch

    from video_model.diffusion.slots import shown_to

    paths = [path for path in (wish.image, wish.last_image) if path is not None]
    takers = [slot for slot in sampler.conditioner.slots if slot.pictures]
    if not takers:
        raise SamplingError(f"--image: stage {sampler.name} was not trained to start from a picture: leave it out")
    for slot in takers:
        if slot.pictures < len(paths):
            raise SamplingError(f"--last-image: stage {sampler.name} does not interpolate: leave it out")
        if slot.pictures > len(paths):
            raise SamplingError(f"stage {sampler.name} is conditioned on {slot.name}: give {slot.option}")
    windows = torch.stack([picture(path, size) for path in paths])[None]
    return shown_to(takers, windows)


def write_still(path: Path, frame: np.ndarray) -> None:
    """[H, W, 3] uint8 as PNG. Raises SamplingError, OSError."""
    encoded, data = cv2.imencode(".png", frame[:, :, ::-1])
    if not encoded:
        height, width = frame.shape[:2]
        raise SamplingError(f"{path}: {height}x{width} px cannot be written as PNG: lower --scale or --size")
    path.write_bytes(data)


def guidance(text: str | None) -> tuple[float, float] | None:
    """`2.5`, or `1:2.5` from the first frame to the last."""
    if text is None:
        return None
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise SamplingError(f"--guidance {text}: write a number, or two for the first and the last frame, e.g. 1:2.5")
    return numbers[0], numbers[-1]


def conditions(texts: list[str]) -> dict[str, float]:
    """`NAME=NUMBER` of conditioning slots."""
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise SamplingError(f"--condition {text}: write NAME=NUMBER, e.g. motion=4") from None
    return found


def size(text: str | None) -> tuple[int, int] | None:
    """`HxW` in px."""
    if text is None:
        return None
    height, by, width = text.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise SamplingError(f"--size {text}: write HEIGHTxWIDTH in px, e.g. 64x96")
    return int(height), int(width)


def picture(path: Path, size: tuple[int, int]) -> Any:
    """[3, H, W] in [-1, 1] of a picture, or of a video's first frame. Raises SamplingError."""
    import torch

    from video_model.data.decoders import read_picture
    from video_model.errors import DataError

    try:
        found = read_picture(path, size)
    except DataError as error:
        raise SamplingError(f"--image {error}") from None
    return torch.from_numpy(found).permute(2, 0, 1).float() / 127.5 - 1
