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

from curate.thumbs import PLACE, POINTS, likeness, ramp, recolouring, robust_fit, shares, shrink, spread


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
    jump: float = 2.5
    still: float = 0.7
    same: float = 0.8
    blank: float = 0.2
    flash: float = 0.35
    longest: float = 3.2


@dataclass(frozen=True)
class Facts:
    """Of a span from picture A to B. change: levels. Relative to it, outside: what lies neither between A and B at its
    point, the most of any frame; beside: motion in 0.2 s before and after. bent: greatest departure of B's share from a
    straight line in time."""

    change: float
    outside: float
    bent: float
    beside: float


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
        motion = [side[0] for side in beside if len(side) == 2] or [0.0]
        ratio, calm = step / (max(motion) + 1), step / (min(motion) + 1)
        if step < max(self.steps[max(1, t - 2) : t + 3]):
            return False
        same = likeness(self.thumbs[t - 1], self.thumbs[t])
        if ratio < self.limits.jump:
            # One side may move wildly, if the other is calm and the pictures have little in common.
            unrelated = same < 0.5 or recolouring(self.thumbs[t - 1], self.thumbs[t]) > 0.4
            if ratio < 0.6 * self.limits.jump or calm < 2 * self.limits.jump or not unrelated:
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
        if same < 0.65 or (same < 0.5 + self.limits.same / 2 and ratio > 2 * self.limits.jump):
            return True
        # Even unrelated pictures can be alike somewhere; a light that is switched on leaves them alike everywhere.
        return same < 0.95 and calm > 4 * self.limits.jump and recolouring(*self.thumbs[t - 1 : t + 1]) > 0.4

    # ---- fades -----------------------------------------------------------------------------------------------

    def fades(self) -> list[Transition]:
        """Runs of blank pictures between pictures that are not, with the frames that fade to and from them.

        Blank: contrast, and brightness (or its complement, for white), a fraction of what they are 0.8 s around. A long
        even blank is so at its edges too; one frame of a fast fade may never be quite black.
        """
        found: list[Transition] = []
        c, n = self.contrast, len(self.contrast)
        light = self.small.mean(1)
        reach, near, after, done = self.frames(0.8), self.frames(0.16), 0, 0
        around = cv2.dilate(c[None].astype(np.float32), np.ones((1, 2 * (reach + near) + 1)))[0]
        lowest = cv2.erode(c[None].astype(np.float32), np.ones((1, 2 * near + 1)))[0]
        candidates = np.flatnonzero((c <= lowest) & ((c <= self.limits.blank * around) | (c < 2)) & (around >= 5))
        for t in map(int, candidates):
            if t < after:
                continue
            level = max(self._blank(c, t, t, done, reach), 1.0)
            first = last = t
            while first > done and c[first - 1] <= level:
                first -= 1
            while last < n - 1 and c[last + 1] <= level:
                last += 1
            bound = self._blank(c, first, last, done, reach)
            even = c[t] < 2 or any(x[t] <= self._blank(x, first, last, done, reach) for x in (light, 255 - light))
            if c[t] <= bound and even:
                start, end = self._free(first, -1) + 1, self._free(last, +1)
                if self._is_fade(start, first, last, end):
                    found.append(Transition(max(start, done), min(end, n), "fade"))
                    last = max(last, end - 1)
                    done = last + 1
            after = last + 1
        return found

    def _blank(self, x: np.ndarray, first: int, last: int, done: int, reach: int) -> float:
        """What x must not exceed in frames first..last, given its greatest values on both sides of them."""
        sides = [s.max() for s in (x[max(done, first - reach) : first], x[last + 1 : last + 1 + reach]) if len(s)]
        return self.limits.blank * float(min(sides)) if sides and min(sides) >= 5 else -1.0

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
        if end - start <= self.frames(0.5) or min(first - start, end - last) < 3:
            return False
        for free, half in ((start - 1, (start - 1 + first) // 2), (end, (end + last) // 2)):
            # Something that passes close to the camera blanks one point after another; a fade, all points alike.
            d = self.small[free] - self.small[(first + last) // 2]
            x = self.small[half] - self.small[(first + last) // 2]
            if np.abs(x - d * float(x @ d) / max(float(d @ d), 1.0)).mean() > 0.2 * np.abs(d).mean():
                return False
        return True

    # ---- dissolves and wipes ---------------------------------------------------------------------------------

    def gradual(self, start: int, end: int, wanted: np.ndarray) -> list[Transition]:
        """Dissolves and wipes among frames [start, end), which hold no cut and no fade, centred where `wanted`."""
        found: list[Transition] = []
        tried: list[tuple[int, int]] = []
        for span in self._likely(start, end, wanted):
            if any(overlap(span, q) > 0.6 for q in tried):
                continue
            tried.append(span)
            colours = recolouring(self.thumbs[span[0]], self.thumbs[span[1]])
            if colours < 0.1:
                continue
            if not self._facts(*span, start, end, loose=1.5):
                continue
            for kind, fit, holds in (("dissolve", self._mix, self._is_mix), ("wipe", self._front, self._is_wipe)):
                if kind == "wipe" and colours < 0.25:
                    continue
                fitted = fit(*span, start, end)
                if not fitted or any(fitted[0] < q.end - 1 and fitted[1] > q.start for q in found):
                    continue
                if holds(*fitted, start, end):
                    found.append(Transition(fitted[0] + 1, fitted[1], kind))
                    break
        return found

    def _likely(self, start: int, end: int, wanted: np.ndarray) -> list[tuple[int, int]]:
        """Spans (last frame of the old shot, first of the new), of many lengths, that pass cheap tests; best first."""
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

    def _mix(self, s: int, e: int, start: int, end: int) -> tuple[int, int] | None:
        """The span of a dissolve: where the share of the new picture, a straight line in time, reaches 0 and 1.

        Points count the less the more they move beside the span (Fisher's direction, with a diagonal covariance).
        """
        longest = 2 * self.frames(self.limits.longest)
        old, new = max(start, s - 4), min(end - 1, e + 4)
        noise = ((self.small[max(start, old - 5) : old + 3] - self.small[old]) ** 2).mean(0)
        noise += ((self.small[new - 2 : new + 6][: end - new + 2] - self.small[new]) ** 2).mean(0)
        weight = 1 / (noise + noise.mean() + 4)
        for _ in range(6):
            a, b = max(start, s - 2), min(end - 1, e + 2)
            zero, one = ramp(shares(self.small[a : b + 1], self.small[a], self.small[b], weight))
            if one - zero < 2 or one - zero > longest:
                return None
            moved = max(start, int(np.floor(a + zero + 0.05))), min(end - 1, int(np.ceil(a + one - 0.05)))
            if moved == (s, e):
                break
            s, e = moved
        return (s, e) if e - s >= 4 else None

    def _is_mix(self, s: int, e: int, start: int, end: int) -> bool:
        facts = self._facts(s, e, start, end)
        if not facts or facts.bent > 0.27:
            return False
        a, b, x = self.small[s], self.small[e], self.small[s + 1 : e]
        mixed = a + np.arange(1, e - s)[:, None] / (e - s) * (b - a)
        residual = np.abs(x - mixed).mean(1).max() / facts.change
        if residual > 0.65:
            return False
        middle = slice((e - s) // 3, max((e - s) // 3 + 1, 2 * (e - s) // 3))
        plain = spread(np.stack([a, b])).mean()
        expected, seen = 1 - spread(mixed[middle]).mean() / plain, 1 - self.contrast[s + 1 : e][middle].mean() / plain
        dips = expected > 0.1 and 0.45 < seen / expected < 1.7
        if residual > 0.35 and self._mixing(s, e) < 0.45:
            return False
        same = likeness(self.thumbs[s], self.thumbs[e])
        if same > 0.5 + self.limits.same / 2:
            return False
        colours = recolouring(self.thumbs[s], self.thumbs[e])
        if expected > 0.15 and 0.7 < seen / expected < 1.3 and residual < 0.3 and same < 0.6:
            return True
        if (dips and colours > (0.25 if residual < 0.42 else 0.5)) or (residual < 0.42 and colours > 0.7):
            return True
        return residual < 0.22 and facts.beside < 0.3 and colours > 0.35 and same < self.limits.same

    def _mixing(self, s: int, e: int) -> float:
        """0: every point shows A or B, as in a wipe; 1: half of each. Middle frames, points weighted by change."""
        a, d = self.small[s], self.small[e] - self.small[s]
        a, d = a.reshape(POINTS, 3), d.reshape(POINTS, 3)
        power = (d * d).sum(1)
        x = self.small[(s + e) // 2 - 1 : (s + e) // 2 + 2].reshape(-1, POINTS, 3)
        share = np.clip(((x - a) * d).sum(2) / (power + 1), 0, 1)
        return float((4 * share * (1 - share)).mean(0) @ power / (power.sum() + 1))

    def _is_wipe(self, s: int, e: int, start: int, end: int) -> bool:
        facts = self._facts(s, e, start, end)
        if not facts or facts.beside > 0.7 * self.limits.still or min(s - start, end - 1 - e) < 3:
            return False
        if recolouring(self.thumbs[s], self.thumbs[e]) < 0.5:
            return False
        # Something that passes close to the camera wipes the scene away, and back again.
        later = range(e, min(len(self.thumbs), e + self.frames(1.0)), self.frames(0.12, 3))
        earlier = range(s, max(-1, s - self.frames(1.0)), -self.frames(0.12, 3))
        for still, others in ((s, later), (e, earlier)):
            if any(likeness(self.thumbs[still], self.thumbs[t]) > 0.5 + self.limits.same / 2 for t in others):
                return False
        return True

    def _facts(self, s: int, e: int, start: int, end: int, loose: float = 1.0) -> Facts | None:
        """None where the span cannot be a gradual transition of either sort."""
        a, b, x = self.small[s], self.small[e], self.small[s + 1 : e]
        change, step = float(self.distance(s, e)), self.frames(0.2, 4)
        if change < self._least(s, e) / loose or not len(x):
            return None
        beside = max(self.distance(max(start, s - step), s), self.distance(e, min(end - 1, e + step))) / change
        if beside > self.limits.still * loose:
            return None
        bent = np.abs(shares(x, a, b) - np.arange(1, e - s) / (e - s)).max()
        if bent > 0.4 * loose:
            return None
        outside = (np.maximum(x - np.maximum(a, b), 0) + np.maximum(np.minimum(a, b) - x, 0)).mean(1).max() / change
        return Facts(change, outside, bent, beside) if outside < 0.28 * loose else None

    def _front(self, s: int, e: int, start: int, end: int) -> tuple[int, int] | None:
        """The span of a wipe: nearly every point switches once, at a time that is a smooth function of its place.

        The function is quadratic in place and fitted robustly: points that move, or look the same in both pictures,
        switch at any time. Its range over the picture is the span of the wipe.
        """
        for _ in range(4):
            margin = max(2, (e - s) // 6)
            first, last = max(start, s - margin), min(end - 1, e + margin)
            a, d = self.small[first].reshape(POINTS, 3), (self.small[last] - self.small[first]).reshape(POINTS, 3)
            power = (d * d).sum(1)
            frames = self.small[first : last + 1].reshape(-1, POINTS, 3)
            share = np.clip(np.einsum("tpc,pc->tp", frames - a, d) / (power + 1), 0, 1)
            time = first + (share < 0.5).sum(0)
            trust = np.minimum(power / max(float(np.median(power)), 1.0), 1.0)
            tight = max(1.0, 0.06 * (e - s))
            # Most fronts are straight lines, whose ends are known better than those of a curve.
            fitting, low, high = 0.0, 0.0, 0.0
            for place in (PLACE[:, :3], PLACE):
                fit, reach = robust_fit(place, time, trust, tight, (s, e))
                share_fitting = float(trust @ (np.abs(time - fit) < 2 * tight) / trust.sum())
                if share_fitting > fitting + 0.1:
                    fitting, (low, high) = share_fitting, reach
                if not 0.35 < fitting < 0.75:
                    break
            if fitting < 0.6 or not 4 <= high - low <= self.frames(self.limits.longest / 2):
                return None
            new = max(start, int(np.floor(low - 0.3))), min(end - 1, int(np.ceil(high - 0.7)))
            if new == (s, e):
                break
            s, e = new
            if e - s < 4:
                return None
        return s, e


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Intersection over union of two spans."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    return max(0, both) / (max(a[1], b[1]) - min(a[0], b[0]))
