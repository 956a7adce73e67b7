"""Where one shot ends and the next begins, decided from a small picture of every frame.

Two models of how a picture becomes another are tested on a span of frames between a picture A and a picture B:

    dissolve   X_t = (1 - a_t) A + a_t B, a_t linear in time (a fade is two of them, with a blank picture in between)
    wipe       every point of X_t is a point of A or of B, and the time of its switch is a smooth function of its place

against the null model, one scene that moves. They differ where motion cannot: mixing two unrelated pictures lowers the
spatial contrast by a known amount, a moving picture keeps it; points of a wipe switch once and in order, points of a
moving picture do not; the change across a transition is large against the change over as many frames beside it.

Distances are mean absolute differences in levels (0..255) between pictures of 9 x 16 points, coarse enough that small
motion counts little.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

ROWS, COLUMNS = 9, 16
POINTS = ROWS * COLUMNS


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) belong to no shot; kind: "cut" (end == start), "dissolve", "fade" or "wipe"."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Limits:
    """What counts as a transition. All are physical; none depends on the frame rate or the size of the picture.

    contrast: least difference across a transition, levels. jump: a cut's step over the largest of its neighbours'.
    still: greatest motion beside a gradual transition, as a share of the change across it. same: correlation, over
    small shifts, from which two pictures show the same scene. blank: contrast of a blank picture over that of its
    neighbours. flash, longest: seconds.
    """

    contrast: float = 10.0
    jump: float = 3.0
    still: float = 0.7
    same: float = 0.8
    blank: float = 0.2
    flash: float = 0.35
    longest: float = 3.2


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
    """Spatial contrast of small pictures [N, 432]: root mean square deviation from the picture's mean colour, levels."""
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


class Transitions:
    """All that is asked of one sequence of thumbs [N, 27, 48, 3] uint8 RGB at `fps` frames a second."""

    def __init__(self, thumbs: np.ndarray, fps: float, limits: Limits) -> None:
        self.thumbs, self.fps, self.limits = thumbs, fps, limits
        self.small = shrink(thumbs)
        self.contrast = spread(self.small)
        self.steps = np.r_[0, np.abs(np.diff(self.small, axis=0)).mean(1)] if len(thumbs) else np.zeros(0)

    def frames(self, seconds: float, least: int = 1) -> int:
        return max(least, round(seconds * self.fps))

    def distance(self, i: int | np.ndarray, j: int | np.ndarray) -> np.ndarray:
        return np.abs(self.small[i] - self.small[j]).mean(-1)

    # ---- hard cuts -------------------------------------------------------------------------------------------

    def is_cut(self, t: int) -> bool:
        """Does frame t begin another shot? Its step stands out from the steps of both sides, and the old picture
        does not come back at once, as it does after a camera's flash."""
        step, n = self.steps[t], len(self.steps)
        if step < self.limits.contrast * 0.6:
            return False
        reach = self.frames(0.3, 8)
        beside = [np.sort(side)[-2:] for side in (self.steps[max(1, t - reach) : t], self.steps[t + 1 : t + 1 + reach])]
        # The second largest of a side: another cut may lie near, and footage of a low true rate jumps every few frames.
        motion = max((side[0] for side in beside if len(side) == 2), default=0.0)
        ratio = step / (motion + 1)
        if ratio < self.limits.jump or step < max(self.steps[max(1, t - 2) : t + 3]):
            return False
        back = self.frames(self.limits.flash)
        after = np.arange(t + 1, min(n, t + 1 + back))
        before = np.arange(max(0, t - 1 - back), t - 1)
        for still, others in ((t - 1, after), (t, before)):
            if len(others):
                nearest = others[self.distance(others, still).argmin()]
                if self.distance(nearest, still) < 0.4 * step:
                    return False
                if likeness(self.thumbs[nearest], self.thumbs[still]) > 0.5 + self.limits.same / 2:
                    return False
        same = likeness(self.thumbs[t - 1], self.thumbs[t])
        return same < self.limits.same or (same < 0.5 + self.limits.same / 2 and ratio > 2 * self.limits.jump)

    # ---- fades -----------------------------------------------------------------------------------------------

    def fades(self) -> list[Transition]:
        """Runs of blank pictures between pictures that are not, with the frames that fade to and from them."""
        found, c, n = [], self.contrast, len(self.contrast)
        reach, t = self.frames(self.limits.longest / 2), 0
        near = self.frames(0.16)
        while t < n:
            if c[t] > c[max(0, t - near) : t + near + 1].min():
                t += 1
                continue
            sides = [s.max() for s in (c[max(0, t - reach) : t], c[t + 1 : t + 1 + reach]) if len(s)]
            level = max(self.limits.blank * min(sides, default=0), 1.0)
            first = last = t
            while first > 0 and c[first - 1] <= level:
                first -= 1
            while last < n - 1 and c[last + 1] <= level:
                last += 1
            sides = [s.max() for s in (c[max(0, first - reach) : first], c[last + 1 : last + 1 + reach]) if len(s)]
            if sides and c[t] <= self.limits.blank * min(sides) and min(sides) >= 5:
                start, end = self._free(first, -1) + 1, self._free(last, +1)
                if self._is_fade(start, first, last, end):
                    found.append(Transition(max(start, 0), min(end, n), "fade"))
                    last = max(last, end - 1)
            t = last + 1
        return found

    def _free(self, blank: int, way: int) -> int:
        """The nearest frame, back (way -1) or forward (+1), that holds nothing of the blank picture any more.

        Looks at the share of the picture that is visible; when a frame further out shows more of it, in a straight
        line, the fade reaches at least there.
        """
        n, j = len(self.small), 1
        for _ in range(self.frames(self.limits.longest / 2)):
            out = blank + way * (j + 2)
            if not 0 <= out < n:
                out = n - 1 if way > 0 else 0
            path = np.arange(blank, out + way, way)
            if len(path) < 2:
                break
            further = int(np.ceil(ramp(shares(self.small[path], self.small[blank], self.small[out]))[1] - 0.05))
            if further <= j:
                break
            j = min(further, abs(out - blank))
            if j == abs(out - blank) and out in (0, n - 1):
                return n if way > 0 else -1  # the file ends within the fade
        return blank + way * j

    def _is_fade(self, start: int, first: int, last: int, end: int) -> bool:
        """A flash or a strobe also blanks the picture, but briefly, and the same scene is there before and after."""
        if start <= 0 or end >= len(self.thumbs):
            return True
        if likeness(self.thumbs[start - 1], self.thumbs[end]) < self.limits.same:
            return True
        return end - start > self.frames(0.5) and first - start >= 3 and end - last >= 3

    # ---- dissolves and wipes ---------------------------------------------------------------------------------

    def gradual(self, start: int, end: int, wanted: np.ndarray) -> list[Transition]:
        """Dissolves and wipes among frames [start, end), which hold no cut and no fade, centred where `wanted`."""
        found: list[Transition] = []
        tried: list[tuple[int, int]] = []
        for s, e in self._likely(start, end, wanted):
            if any(s < q.end and e > q.start for q in found) or any(overlap((s, e), q) > 0.7 for q in tried):
                continue
            tried.append((s, e))
            kind = None
            delimited = self._delimit(s, e, start, end)
            if delimited and not any(overlap(delimited, q) > 0.95 for q in tried[:-1]):
                tried.append(delimited)
                s, e, kind = self._kind(*delimited, start, end)
            if kind and not any(s < q.end and e > q.start for q in found):
                found.append(Transition(s + 1, e, kind))
        return found

    def _likely(self, start: int, end: int, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Spans (last frame of the old shot, first of the new) that pass cheap tests at one of many lengths, best first."""
        spans, scores = [], []
        length, step = self.frames(0.2, 5), self.frames(0.2, 4)
        while length <= min(self.frames(self.limits.longest), end - start - 1):
            s = np.arange(start, end - length, max(1, length // 6))
            s = s[wanted[s + length // 2]]
            if len(s):
                change = self.distance(s, s + length)
                keep = change >= self._least(s, s + length)
                s, change = s[keep], change[keep]
            if len(s):
                before, after = np.maximum(s - step, start), np.minimum(s + length + step, end - 1)
                beside = np.maximum(self.distance(before, s), self.distance(s + length, after)) / change
                keep = beside <= self.limits.still
                s, change, beside = s[keep], change[keep], beside[keep]
            if len(s):
                a, b = self.small[s], self.small[s + length]
                low, high, d = np.minimum(a, b), np.maximum(a, b), b - a
                power = (d * d).sum(1)
                bad = np.zeros(len(s))
                for part in (0.5, 0.25, 0.75):
                    x = self.small[s + round(part * length)]
                    out = (np.maximum(x - high, 0) + np.maximum(low - x, 0)).mean(1) / change
                    off = np.abs(((x - a) * d).sum(1) / power - round(part * length) / length)
                    bad = np.maximum(bad, np.maximum(out / 0.3, off / 0.4))
                keep = bad < 1
                spans += [(int(x), int(x) + length) for x in s[keep]]
                scores += list((1 - bad[keep] / 2) * (1 - beside[keep]))
            length = max(length + 1, round(length * 1.3))
        return [spans[i] for i in np.argsort(scores)[::-1]]

    def _least(self, s: np.ndarray | int, e: np.ndarray | int) -> np.ndarray:
        """Least change between unrelated pictures: they differ by about as much as each varies within itself."""
        return np.maximum(self.limits.contrast / 2, 0.4 * (self.contrast[s] + self.contrast[e]) / 2)

    def _delimit(self, s: int, e: int, start: int, end: int) -> tuple[int, int] | None:
        """Move s and e to where the share of the new picture, a straight line in time, reaches 0 and 1."""
        for _ in range(6):
            a, b = max(start, s - 2), min(end - 1, e + 2)
            zero, one = ramp(shares(self.small[a : b + 1], self.small[a], self.small[b]))
            if one - zero < 2 or one - zero > 2 * self.frames(self.limits.longest):
                return None
            new = max(start, int(np.floor(a + zero + 0.05))), min(end - 1, int(np.ceil(a + one - 0.05)))
            if new == (s, e):
                break
            s, e = new
        return (s, e) if e - s >= 4 else None

    def _kind(self, s: int, e: int, start: int, end: int) -> tuple[int, int, str | None]:
        """Which model explains the frames between s and e, if any does; a wipe's front may correct s and e."""
        a, b, x = self.small[s], self.small[e], self.small[s + 1 : e]
        change, limits = float(self.distance(s, e)), self.limits
        if change < self._least(s, e):
            return s, e, None
        times = np.arange(1, e - s)[:, None] / (e - s)
        outside = (np.maximum(x - np.maximum(a, b), 0) + np.maximum(np.minimum(a, b) - x, 0)).mean(1).max() / change
        bent = np.abs(shares(x, a, b) - times[:, 0]).max()
        step = self.frames(0.2, 4)
        beside = max(self.distance(max(start, s - step), s), self.distance(e, min(end - 1, e + step))) / change
        if outside > 0.22 or bent > 0.36 or beside > limits.still:
            return s, e, None
        colours, same = recolouring(self.thumbs[s], self.thumbs[e]), likeness(self.thumbs[s], self.thumbs[e])
        mixed = a + times * (b - a)
        residual = np.abs(x - mixed).mean(1).max() / change
        middle = slice((e - s) // 3, max((e - s) // 3 + 1, 2 * (e - s) // 3))
        plain = spread(np.stack([a, b])).mean()
        expected, seen = 1 - spread(mixed[middle]).mean() / plain, 1 - self.contrast[s + 1 : e][middle].mean() / plain
        if residual < 0.42 and bent < 0.27:
            dips = expected > 0.1 and 0.45 < seen / expected < 1.7 and colours > 0.25
            if dips or colours > 0.7 or (residual < 0.22 and beside < 0.3 and colours > 0.35 and same < limits.same):
                return s, e, "dissolve"
        if beside < 0.4 and colours > 0.4 and same < limits.same:
            front = self._front(s, e)
            if front:
                return max(start, front[0]), min(end - 1, front[1]), "wipe"
        return s, e, None

    def _front(self, s: int, e: int) -> tuple[int, int] | None:
        """The span of a wipe: every point switches once, at a time that is a smooth function of its place."""
        a, d = self.small[s].reshape(POINTS, 3), (self.small[e] - self.small[s]).reshape(POINTS, 3)
        power = (d * d).sum(1)
        frames = self.small[s : e + 1].reshape(-1, POINTS, 3)
        share = np.clip(((frames - a) * d).sum(2) / (power + 1), 0, 1)  # [T, POINTS]
        time = (1 - share).sum(0) / (e - s)
        y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j].reshape(2, -1)
        place = np.stack([np.ones(POINTS), x, y, x * x, x * y, y * y], 1)
        weight = np.sqrt(np.minimum(power, np.median(power)))[:, None]
        fit = place @ np.linalg.lstsq(place * weight, time * weight[:, 0], rcond=None)[0]
        w = weight[:, 0] ** 2 / (weight**2).sum()
        mean = (w * time).sum()
        explained = 1 - (w * (time - fit) ** 2).sum() / (w * (time - mean) ** 2).sum()
        return (s, e) if explained > 0.7 and float(np.ptp(fit)) > 0.5 else None


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Intersection over union of two spans."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    return max(0, both) / (max(a[1], b[1]) - min(a[0], b[0]))


def recolouring(a: np.ndarray, b: np.ndarray) -> float:
    """Share 0..1 of the picture that changed its colour, wherever it is: half the L1 distance of histograms of 8 x 8 x 8
    colours. A camera that moves keeps most colours."""
    histograms = [cv2.calcHist([x], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3) for x in (a, b)]
    return float(np.abs(histograms[0] - histograms[1]).sum() / histograms[0].sum() / 2)


def shares(pictures: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """How much of `new` there is in each of the pictures [T, D]: its place on the line from old (0) to new (1)."""
    d = new - old
    return (pictures - old) @ d / max(float(d @ d), 1e-6)


def ramp(share: np.ndarray) -> tuple[float, float]:
    """Where a straight line through the rising middle of `share` is 0 and 1, in positions of the array."""
    half = int(np.argmax(share >= 0.5))
    first, last = half, half - 1
    while first > 0 and share[first - 1] > 0.15:
        first -= 1
    while last + 1 < len(share) and share[last + 1] < 0.85:
        last += 1
    if last - first < 1:
        return half - 1.0, float(half)
    slope, offset = np.polyfit(np.arange(first, last + 1), share[first : last + 1], 1)
    if slope <= 0:
        return half - 1.0, float(half)
    return -offset / slope, (1 - offset) / slope
