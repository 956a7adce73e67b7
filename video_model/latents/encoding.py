"""Frames to latents, as many at once as memory takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from video_model.codecs import Codec
from video_model.data.buckets import Size
from video_model.errors import DataError
from video_model.memory import ENCODING_HELP, memory_for

ENCODE_FRAMES, ENCODE_PIXELS = 32, 32 * 256 * 256  # at most, at once


def check_sizes(sizes: Sequence[Size], codec: Codec) -> None:
    """Raises DataError for sizes that the codec cannot encode."""
    if not sizes:
        raise DataError("sizes: none given; give [height, width] in px")
    for height, width in sizes:
        if height < 1 or width < 1 or height % codec.factor or width % codec.factor:
            raise DataError(f"size {height}x{width}: height and width must be multiples of {codec.factor}, the codec's")


def encode(codec: Codec, frames: np.ndarray) -> torch.Tensor:
    """Latents [B, T, C, h, w] float32 on the CPU, of [B, T, H, W, 3] uint8; a few frames at a time."""
    device, parts = getattr(codec, "device", "cpu"), []
    at_once = max(1, at_most(frames.shape[2:4]) // len(frames))
    clips, _, height, width, _ = frames.shape
    what = f"encoding latents, {clips} x {at_once} frames of {height}x{width} px, on {device}"
    with torch.no_grad(), memory_for(what, *ENCODING_HELP):
        for first in range(0, frames.shape[1], at_once):
            part = torch.from_numpy(frames[:, first : first + at_once]).to(device)
            parts.append(codec.encode(part.movedim(-1, -3).float() / 127.5 - 1).float().cpu())
    return torch.cat(parts, 1)


def at_most(size: Size) -> int:
    """How many frames of a size are encoded at once."""
    return max(1, min(ENCODE_FRAMES, ENCODE_PIXELS // (size[0] * size[1])))
