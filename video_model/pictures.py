"""Pixels in [-1, 1] as pictures and video files."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor


def to_uint8(video: Tensor) -> np.ndarray:
    """[T, 3, H, W] in [-1, 1] -> [T, H, W, 3] uint8."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def strip(video: Tensor, most: int = 8) -> np.ndarray:
    """[T, 3, H, W] in [-1, 1] -> [H, n W, 3] uint8: frames side by side, `most` at most, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(video) - 1, min(most, len(video))).round().astype(int))
    return np.concatenate(list(to_uint8(video[chosen])), axis=1)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """[H, W, 3] uint8 as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_video(path: Path, video: Tensor, fps: float) -> None:
    """[T, 3, H, W] in [-1, 1] as H.264 that is played everywhere."""
    write_frames(path, to_uint8(video), fps)


def write_frames(path: Path, frames: Iterable[np.ndarray], fps: float, **options: str) -> None:
    """Frames [H, W, 3] uint8 with even sides, as H.264 in an mp4. options: of libx264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = iter(frames)
    first = next(frames)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "14"} | options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
