"""Small pictures of frames, and how they compare: change, contrast, likeness, colours, and the progress of a transition.

A thumb is [27, 48, 3] uint8 RGB; a small picture is 9 x 16 points of it, flat, [432] float32 levels, coarse enough that
small motion counts little.
"""

from __future__ import annotations

import cv2
import numpy as np

ROWS, COLUMNS = 9, 16
POINTS = ROWS * COLUMNS
_Y, _X = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j].reshape(2, -1)
PLACE = np.stack([np.ones(POINTS), _X, _Y, _X * _X, _X * _Y, _Y * _Y], 1)  # [POINTS, 6]
_TURNS = np.arange(8) * np.pi / 4
FRONTS = np.outer(_X, np.cos(_TURNS)) + np.outer(_Y, np.sin(_TURNS))
FRONTS = (FRONTS - FRONTS.min(0)) / np.ptp(FRONTS, axis=0)  # [POINTS, 8], 0..1 in the order of switching
_X, _Y = _X * COLUMNS / (COLUMNS - 1), _Y * ROWS / (ROWS - 1)
BORDER = np.stack([np.ones(POINTS), _X, _Y, _X * _X, _X * _Y, _Y * _Y], 1)  # the same, out to the picture's edges


def shrink(thumbs: np.ndarray) -> np.ndarray:
    """[N, 27, 48, 3] uint8 to [N, 9 * 16 * 3] float32 by area averaging."""
    out = np.empty((len(thumbs), POINTS * 3), np.float32)
    block = 500  # OpenCV wants fewer than 32,768 rows
    for at in range(0, len(thumbs), block):
        part = thumbs[at : at + block]
        tall = np.ascontiguousarray(part).reshape(-1, part.shape[2], 3)
        small = cv2.resize(tall, (COLUMNS, ROWS * len(part)), interpolation=cv2.INTER_AREA)
        out[at : at + block] = small.reshape(len(part), -1)
    return out


def spread(pictures: np.ndarray) -> np.ndarray:
    """Spatial contrast of small pictures [N, 432]: root mean square departure from the mean colour, levels."""
    points = pictures.reshape(-1, POINTS, 3)
    return np.sqrt(np.maximum((points**2).mean(1) - points.mean(1) ** 2, 0).mean(1))


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Greatest correlation -1..1 of the luma of two thumbs over shifts of a fifth of the picture; blind to exposure."""
    a, b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b))
    h, w = a.shape
    inner = np.s_[h // 5 : h - h // 5, w // 5 : w - w // 5]
    best = -1.0
    for whole, part in ((a, b[inner]), (b, a[inner])):
        if part.std() > 1:
            found = cv2.matchTemplate(whole, np.ascontiguousarray(part), cv2.TM_CCOEFF_NORMED)
            best = max(best, float(found[np.isfinite(found)].max(initial=-1)))
    return best


def recolouring(a: np.ndarray, b: np.ndarray) -> float:
    """Share 0..1 of the picture that changed its colour, wherever it is: half the L1 distance of histograms of 8 x 8 x 8
    colours, after dark pictures are both made brighter. A camera that moves keeps most colours."""
    gain = min(255.0 / max(int(a.max()), int(b.max()), 1), 8.0)
    if gain > 1.2:
        a, b = cv2.convertScaleAbs(a, alpha=gain), cv2.convertScaleAbs(b, alpha=gain)
    histograms = [cv2.calcHist([x], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3) for x in (a, b)]
    return float(np.abs(histograms[0] - histograms[1]).sum() / histograms[0].sum() / 2)


def shares(pictures: np.ndarray, old: np.ndarray, new: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """How much of `new` there is in each of the pictures [T, D]: its place on the line from old (0) to new (1)."""
    d = new - old
    return (pictures - old) @ (d * weight) / max(float(d @ (d * weight)), 1e-6)


def ramp(share: np.ndarray) -> tuple[float, float]:
    """Where `share` leaves 0 and reaches 1, in positions of the array: by straight lines through its lower and its upper
    half, which differ when one of the pictures also grows brighter."""
    half = int(np.argmax(share >= 0.5))
    first, last = half, half - 1
    while first > 0 and share[first - 1] > 0.08:
        first -= 1
    while last + 1 < len(share) and share[last + 1] < 0.92:
        last += 1
    if half < 1 or last - first < 1:
        return half - 1.0, float(half)
    zero = _cross(share, first, max(half, first + 1), 0.0)
    one = _cross(share, min(half - 1, last - 1), last, 1.0)
    if zero is None or one is None:
        return half - 1.0, float(half)
    return zero, one


def _cross(share: np.ndarray, first: int, last: int, level: float) -> float | None:
    """Where the straight line through share[first : last + 1] is at `level`; None when it does not rise."""
    part = share[first : last + 1]
    times = np.arange(len(part)) - (len(part) - 1) / 2
    slope = float(times @ part) / float(times @ times)
    return (first + last) / 2 + (level - float(part.mean())) / slope if slope > 0 else None


def robust_fit(
    place: np.ndarray, time: np.ndarray, trust: np.ndarray, tight: float, span: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Fit of time [P] by functions of place [P, K], Cauchy weights of width `tight`; and its range over the picture.

    Starts from the best of eight straight fronts that cross the picture in the span: from least squares, the points
    that switch at any time would pull the front flat.
    """
    fronts = span[0] + FRONTS * (span[1] - span[0])  # [P, 8]
    off = time - fronts[:, int((trust @ (np.abs(time[:, None] - fronts) < 3 * tight)).argmax())]
    for _ in range(6):
        weight = trust / (1 + (off / tight) ** 2)
        normal = (place * weight[:, None]).T
        solution = np.linalg.solve(normal @ place + 1e-6 * np.eye(place.shape[1]), normal @ time)
        off = time - place @ solution
    corners = BORDER[:, : place.shape[1]] @ solution
    return time - off, (float(corners.min()), float(corners.max()))
