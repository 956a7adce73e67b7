"""Scores of shot boundaries, by three conventions. Spans are those of `cut_sets`: (start, end), frames from 0.

points      What PySceneDetect's own benchmark does and calls TRECVID's convention. A detection is one frame. Those within
            a gradual transition (its ends included) belong to it: the first is right, more are wrong. The rest are
            matched with the cuts, nearest pairs first, one to one, at most `tolerance` frames apart. Cuts and gradual
            transitions are scored apart. Its detections are the *ends* of all scenes, so that the end of the video is one
            (`points`): right in BBC and AutoShot, whose labels end there too, and wrong in ClipShots.
overlap     What TransNetV2 and AutoShot published (evaluation after Gygli 2018), TRECVID's rule for gradual transitions
            applied to all of them. A detection is a span; it is right where it overlaps a transition or lies at most
            `tolerance` frames from it, one to one, in order. Cuts and gradual transitions are scored together; the end
            of the video is no transition. Their figures allow 2 frames.
own truth   Three frames of tolerance, and what a clip is for: `Score`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.benchmarks.cut_sets import Labelled, Span, Transition, Truth

__all__ = ["Score", "Tally", "gaps_between", "overlap", "points", "points_of"]

TOLERANCE = 3  # frames
EDGE = 12  # frames at either end of a video in which a boundary is not held against anyone


@dataclass(frozen=True)
class Tally:
    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + self.missed)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, 2 * self.right + self.wrong + self.missed)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.right + other.right, self.wrong + other.wrong, self.missed + other.missed)


def gaps_between(shots: Sequence[Span], frames: int) -> list[Span]:
    """Where one shot ends and the next begins; frames in no shot at either end of the video are a transition too."""
    gaps = [(a[1], b[0]) for a, b in pairwise(shots)]
    if shots and shots[0][0] > 0:
        gaps.insert(0, (0, shots[0][0]))
    if shots and shots[-1][1] < frames:
        gaps.append((shots[-1][1], frames))
    return gaps


def points_of(gaps: Sequence[Span], frames: int) -> list[int]:
    """Detections as PySceneDetect's benchmark takes them: the middle of each gap and, if there is any, the video's end."""
    return [*((start + end) // 2 for start, end in gaps), frames] if gaps else []


def points(found: Sequence[int], labels: Labelled, tolerance: int) -> tuple[Tally, Tally]:
    """(cuts, gradual transitions) of one video."""
    rest, hit, extra = [], set(), 0
    for frame in found:
        inside = next((i for i, (first, last) in enumerate(labels.fades) if first <= frame <= last), None)
        if inside is None:
            rest.append(frame)
        elif inside in hit:
            extra += 1
        else:
            hit.add(inside)
    right = nearest(rest, labels.cuts, tolerance)
    fades = Tally(len(hit), extra, len(labels.fades) - len(hit))
    return Tally(right, len(rest) - right, len(labels.cuts) - right), fades


def nearest(found: Sequence[int], true: Sequence[int], tolerance: int) -> int:
    """How many pair up, one to one, nearest pairs first."""
    pairs = sorted(
        (abs(a - b), i, j) for i, a in enumerate(found) for j, b in enumerate(true) if abs(a - b) <= tolerance
    )
    taken: set[int] = set()
    matched: set[int] = set()
    for _, i, j in pairs:
        if i not in taken and j not in matched:
            taken.add(i)
            matched.add(j)
    return len(taken)


def overlap(found: Sequence[Span], true: Sequence[Span], tolerance: int) -> Tally:
    """Both in order. Of two that do not meet, the earlier one is wrong, or missed."""
    i = j = right = wrong = missed = 0
    while i < len(true) and j < len(found):
        if found[j][1] + tolerance < true[i][0]:
            wrong, j = wrong + 1, j + 1
        elif found[j][0] - tolerance > true[i][1]:
            missed, i = missed + 1, i + 1
        else:
            right, i, j = right + 1, i + 1, j + 1
    return Tally(right, wrong + len(found) - j, missed + len(true) - i)


class Score:
    """Counts over the videos of a truth file.

    tally: a boundary is right when it overlaps a transition, or lies at most three frames from it. Boundaries are the gaps
    between neighbouring shots (a shot is what clips that were only divided for length were), and where the first shot
    begins and the last ends, if that is within the video. Each is taken once; a gap of three frames or more, twice, since
    a shot too short to be exported may lie in it. A second boundary in one transition, one at a jump or an ambiguous
    place, one within 12 frames of either end of the video, and where the first shot begins are not counted as wrong.
    kinds, found: transitions by kind; jumps are counted here only.
    purity: share of clips that lie within one true shot but for three frames at each end.
    coverage: share of the frames of the true shots that lie in a clip.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.kinds: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.clips = self.pure = self.frames = self.kept = 0

    @property
    def purity(self) -> float:
        return self.pure / max(1, self.clips)

    @property
    def coverage(self) -> float:
        return self.kept / max(1, self.frames)

    def add(self, truth: Truth, shots: Sequence[Span], clips: Sequence[Span]) -> None:
        gaps = [(a[1], b[0]) for a, b in pairwise(shots)]
        beginning = shots[0][0] if shots else 0
        if beginning > 0:
            gaps.insert(0, (beginning, beginning))
        if shots and shots[-1][1] < truth.frames:
            gaps.append((shots[-1][1], shots[-1][1]))
        self._boundaries(truth, gaps, beginning)
        self._clips(truth, clips)

    def _boundaries(self, truth: Truth, gaps: list[Span], beginning: int) -> None:
        uses = [0] * len(gaps)
        right = 0
        for q in truth.transitions:
            free = [i for i, gap in enumerate(gaps) if near(gap, q) and uses[i] < (2 if gap[1] - gap[0] >= 3 else 1)]
            self.kinds[q.kind] += 1
            if free:
                best = min(free, key=lambda i: (uses[i], abs(gaps[i][0] - q.start) + abs(gaps[i][1] - q.end)))
                uses[best] += 1
                right += 1
                self.found[q.kind] += 1
        for q in truth.jumps:
            self.kinds["jump"] += 1
            self.found["jump"] += any(near(gap, q) for gap in gaps)
        excused = [*truth.transitions, *truth.jumps, *truth.ambiguous]
        wrong = 0
        for i, gap in enumerate(gaps):
            at_edge = gap[0] <= max(EDGE, beginning) or gap[1] >= truth.frames - EDGE
            wrong += not (uses[i] or at_edge or any(near(gap, q) for q in excused))
        self.tally += Tally(right, wrong, len(truth.transitions) - right)

    def _clips(self, truth: Truth, clips: Sequence[Span]) -> None:
        edges = [0, *(at for q in truth.transitions for at in (q.start, q.end)), truth.frames]
        whole = list(zip(edges[::2], edges[1::2], strict=True))
        self.clips += len(clips)
        self.pure += sum(any(a + TOLERANCE >= x and b - TOLERANCE <= y for x, y in whole) for a, b in clips)
        self.frames += sum(y - x for x, y in whole)
        self.kept += sum(max(0, min(b, y) - max(a, x)) for a, b in clips for x, y in whole)


def near(gap: Span, q: Transition) -> bool:
    return gap[1] >= q.start - TOLERANCE and gap[0] <= q.end + TOLERANCE
