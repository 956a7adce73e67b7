"""Tables of the cut benchmark over video files: one of a folder and its truth file, two of a public set."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.cut_finders import Found, Unreadable, ours, theirs
from tests.benchmarks.cut_scores import Score, Tally, gaps_between, overlap, points, points_of
from tests.benchmarks.cut_sets import Labelled, truths

__all__ = ["footage_table", "markdown", "set_tables"]

SHORTEST = 1e-6  # s: all shots, since the conventions of the public sets ask for every boundary
OVERLAPS = (0, 1, 2)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def found_in(path: Path, min_seconds: float | None, transnet: bool) -> dict[str, Found]:
    """By name of the detector. PySceneDetect's share one decoding of its own; ours and TransNetV2 have Winnow's."""
    found = {"Winnow": ours(path, min_seconds=min_seconds)}
    found |= {f"PySceneDetect {name}": one for name, one in theirs(path, min_seconds).items()}
    if transnet:
        found["TransNetV2 0.5"] = ours(path, "transnetv2", min_seconds)
    return found


def each(paths: Sequence[Path], min_seconds: float | None, transnet: bool) -> Iterator[tuple[int, dict[str, Found]]]:
    """(position, shots by detector) of every video that can be read; the others are told on stderr."""
    for i, path in enumerate(paths):
        print(f"{i + 1}/{len(paths)} {path.name}", file=sys.stderr, flush=True)
        try:
            yield i, found_in(path, min_seconds, transnet)
        except Unreadable as error:
            print(f"{error}: left out of every row", file=sys.stderr)


class Cost:
    """CPU milliseconds a frame, by detector."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.frames: dict[str, int] = defaultdict(int)

    def add(self, name: str, found: Found) -> None:
        self.seconds[name] += found.seconds
        self.frames[name] += found.frames

    def of(self, name: str) -> str:
        return f"{1000 * self.seconds[name] / max(1, self.frames[name]):.2f}"


def footage_table(folder: Path, labels: Path, *, transnet: bool = False) -> str:
    """Markdown: a row a detector, scored as `cut_scores.Score`."""
    known, scores, cost = truths(folder, labels), defaultdict(Score), Cost()
    for i, found in each([truth.path for truth in known], None, transnet):
        if lengths := {one.frames for one in found.values()} - {known[i].frames}:
            print(f"{known[i].path}: {known[i].frames} frames labelled, {lengths} decoded", file=sys.stderr)
        for name, one in found.items():
            scores[name].add(known[i], one.shots, one.clips)
            cost.add(name, one)
    kinds = sorted({q.kind for truth in known for q in (*truth.transitions, *truth.jumps)})
    head = ["detector", "F1", "precision", "recall", "purity", "coverage", "CPU ms a frame", *kinds]
    rows = []
    for name, score in scores.items():
        tally = score.tally
        shares = (tally.f1, tally.precision, tally.recall, score.purity, score.coverage)
        by_kind = (f"{score.found[kind]}/{score.kinds[kind]}" for kind in kinds)
        rows.append([name, *(f"{share:.3f}" for share in shares), cost.of(name), *by_kind])
    return markdown(head, rows)


def set_tables(labelled: Sequence[Labelled], *, tolerances: Sequence[int] = (0, 1), transnet: bool = False) -> str:
    """Markdown, two tables with percentages: `cut_scores`'s points at each tolerance, and overlap at 0, 1 and 2."""
    cuts: dict[tuple[str, int], Tally] = defaultdict(Tally)
    spans: dict[tuple[str, int], Tally] = defaultdict(Tally)
    fades: dict[str, Tally] = defaultdict(Tally)
    cost = Cost()
    for i, found in each([video.path for video in labelled], SHORTEST, transnet):
        for name, one in found.items():
            cost.add(name, one)
            gaps = gaps_between(one.shots, one.frames)
            frames = points_of(gaps, one.frames)
            for tolerance in tolerances:
                abrupt, gradual = points(frames, labelled[i], tolerance)
                cuts[name, tolerance] += abrupt
            fades[name] += gradual
            for tolerance in OVERLAPS:
                spans[name, tolerance] += overlap(gaps, labelled[i].spans, tolerance)
    graduals = fades if any(video.fades for video in labelled) else {}
    return "\n\n".join(
        [
            f"As PySceneDetect's benchmark scores, detections are frames ({len(labelled)} videos, percent):",
            _by_tolerance("cuts", cuts, tolerances, graduals, cost),
            "As TransNetV2 and AutoShot score, detections are spans, cuts and gradual transitions alike:",
            _by_tolerance("all", spans, OVERLAPS, {}, cost),
        ]
    )


def _by_tolerance(
    label: str,
    tallies: dict[tuple[str, int], Tally],
    tolerances: Sequence[int],
    graduals: dict[str, Tally],
    cost: Cost,
) -> str:
    head = ["detector"]
    for tolerance in tolerances:
        head += [f"F1 {label} ±{tolerance}", "precision", "recall"]
    head += ["F1 gradual", "precision", "recall"] * bool(graduals) + ["CPU ms a frame"]
    rows = []
    for name in dict.fromkeys(name for name, _ in tallies):
        shown = [tallies[name, tolerance] for tolerance in tolerances] + ([graduals[name]] if graduals else [])
        shares = [share for tally in shown for share in (tally.f1, tally.precision, tally.recall)]
        rows.append([name, *(f"{100 * share:.2f}" for share in shares), cost.of(name)])
    return markdown(head, rows)
