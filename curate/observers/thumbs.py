"""Features of thumbs for detecting transitions: how much changed, and whether motion or light explains it.

A thumb is [27, 48, 3] uint8 RGB. `transition_features` compares, around every frame, pairs of thumbs 1 to 32 frames apart: pointwise
differences, colour histograms, correlation independent of exposure, and the change left after motion compensation. The
features hold no picture content, so that a network trained on them generalises to any footage.

Points that are black in both pictures (borders, fades) are ignored: they would make all pictures of a film similar.
"""

from __future__ import annotations

import cv2
import numpy as np

ROWS, COLUMNS = 9, 16  # of the reduced pictures for most differences
POINTS = ROWS * COLUMNS
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # frames between the two of a pair; the pair lies around its frame
MOVED = (1, 2, 4)  # lags with motion compensation
MIXED = (4, 8, 16, 32)  # lags at which the middle frame is compared with a mix of the two
FEATURES = 5 * len(LAGS) + 3 * len(MOVED) + 2 * len(MIXED) + 5
SHIFTS = [(dy, dx) for dy in range(-3, 4) for dx in range(-6, 7)]  # of 18 x 32 points: a fifth of the picture
BLACK = 20  # levels: largest channel of a black point
LUMA = np.float32([0.299, 0.587, 0.114])


def shrink(thumbs: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[N, 27, 48, 3] uint8 to [N, rows, columns, 3] by area averaging."""
    out = []
    for at in range(0, len(thumbs), 500):  # OpenCV wants fewer than 32,768 rows
        part = np.ascontiguousarray(thumbs[at : at + 500])
        tall = part.reshape(-1, *part.shape[2:])
        small = cv2.resize(tall, (columns, rows * len(part)), interpolation=cv2.INTER_AREA)
        out.append(small.reshape(len(part), rows, columns, 3))
    return np.concatenate(out)


def pair_around(frames: int, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the pair around every frame t: at lag 1, (t - 1, t). Clamped to the sequence."""
    t = np.arange(frames)
    return np.maximum(t - (lag + 1) // 2, 0), np.minimum(t + lag // 2, frames - 1)


def transition_features(thumbs: np.ndarray) -> np.ndarray:
    """[N, FEATURES] float32 of [N, 27, 48, 3] uint8: the features of every frame."""
    n = len(thumbs)
    small = shrink(thumbs, ROWS, COLUMNS).reshape(n, POINTS, 3).astype(np.float32)
    luma, lit = small @ LUMA, (small.max(2) > BLACK).astype(np.float32)
    contrast = np.sqrt(np.maximum((small**2).mean(1) - small.mean(1) ** 2, 0).mean(1))
    light, tone = histograms(thumbs)
    columns = []
    for lag in LAGS:
        i, j = pair_around(n, lag)
        counts = np.maximum(lit[i], lit[j])
        share = np.maximum(counts.mean(1), 0.15)
        change = (np.abs(small[i] - small[j]).mean(2) * counts).mean(1) / share
        columns += [
            np.log1p(change / 2),
            np.log1p(4 * change / (contrast[i] + contrast[j] + 4)),
            decorrelation(luma[i], luma[j], counts + 1e-3),
            np.abs(light[i] - light[j]).sum(1) / 4 / share,
            np.abs(tone[i] - tone[j]).sum(1) / 2 / share,
        ]
    flat = small.reshape(n, -1)
    for lag in MIXED:
        i, j = pair_around(n, lag)
        old, new = flat[i], flat[j]
        change = np.abs(old - new).mean(1) + 2
        columns.append(np.abs(flat - (old + new) / 2).mean(1) / change)  # small in a dissolve
        columns.append(np.minimum(np.abs(flat - old), np.abs(flat - new)).mean(1) / change)  # small in a wipe
    grid = cv2.cvtColor(shrink(thumbs, 18, 32).reshape(n * 18, 32, 3), cv2.COLOR_RGB2GRAY).reshape(n, 18, 32)
    for lag in MOVED:
        columns += motion_compensated_change(grid, lag)
    sharp = np.abs(np.diff(thumbs[..., 1].astype(np.int16), axis=2)).mean((1, 2), dtype=np.float32)
    columns += [luma.mean(1) / 64, np.log1p(contrast / 2), np.log1p(sharp / 2), 1 - lit.mean(1), sharp / (contrast + 2)]
    return np.stack(columns, 1).astype(np.float32)


def histograms(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative histogram of luma [N, 24] and histogram of chroma [N, 100], as shares of the picture."""
    light, tone = np.empty((len(thumbs), 24), np.float32), np.empty((len(thumbs), 100), np.float32)
    for i, thumb in enumerate(thumbs):
        picture = [cv2.cvtColor(thumb, cv2.COLOR_RGB2YCrCb)]
        light[i] = cv2.calcHist(picture, [0], None, [24], [0, 256])[:, 0]
        tone[i] = cv2.calcHist(picture, [1, 2], None, [10, 10], [48, 208, 48, 208]).ravel()
    size = thumbs[0, ..., 0].size
    return np.cumsum(light, 1) / size, tone / size


def decorrelation(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[N] 0..2: one minus the weighted correlation of pictures [N, P]; independent of exposure."""
    total = weight.sum(1, keepdims=True)
    a, b = (x - (x * weight).sum(1, keepdims=True) / total for x in (a, b))
    both, one, other = ((x * weight).sum(1) / total[:, 0] + 2 for x in (a * b, a * a, b * b))
    return 1 - both / np.sqrt(one * other)


def motion_compensated_change(grid: np.ndarray, lag: int) -> list[np.ndarray]:
    """Three columns [N]: change of luma [N, 18, 32] after motion compensation by block, and of the whole picture (the
    worse direction of time); and the first over the uncompensated change."""
    n = len(grid)
    i, j = pair_around(n, lag)
    blocks, whole = np.full((2, n * 3, 5), 255, np.float32), np.full((2, n), 255, np.float32)
    still = whole[0]
    for way, (a, b) in enumerate(((grid[i], grid[j]), (grid[j], grid[i]))):
        inner = np.ascontiguousarray(a[:, 3:15, 6:26]).reshape(n * 12, 20)
        for dy, dx in SHIFTS:
            other = np.ascontiguousarray(b[:, 3 + dy : 15 + dy, 6 + dx : 26 + dx]).reshape(n * 12, 20)
            left = block_means(cv2.absdiff(inner, other), n)
            np.minimum(blocks[way], left, out=blocks[way])
            mean = left.reshape(n, 15).mean(1)
            np.minimum(whole[way], mean, out=whole[way])
            if dy == dx == way == 0:
                still = mean
    best = blocks.reshape(2, n, 15).mean(2).max(0)
    return [np.log1p(best / 2), np.log1p(whole.min(0) / 2), (best + 0.5) / (still + 1)]


def block_means(tall: np.ndarray, frames: int) -> np.ndarray:
    """[frames * 12, 20] uint8 to the means of blocks of 4 x 4, [frames * 3, 5] float32."""
    out = [
        cv2.resize(tall[at * 12 : (at + 2000) * 12], (5, 3 * min(2000, frames - at)), interpolation=cv2.INTER_AREA)
        for at in range(0, frames, 2000)
    ]
    return np.concatenate(out).astype(np.float32)
