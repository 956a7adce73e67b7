"""Pictures with known answers, for tests."""

import cv2
import numpy as np


def texture(seed: int, height: int = 360, width: int = 640) -> np.ndarray:
    """[height, width, 3] uint8: smooth coloured noise, in which flow can be found everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def pan(frames: int, step: int, seed: int = 0, height: int = 360, width: int = 640) -> list[np.ndarray]:
    """A window that moves `step` px to the right each frame over a large texture."""
    wide = texture(seed, height, width + frames * step + 20)
    return [wide[:, i * step : i * step + width] for i in range(frames)]
