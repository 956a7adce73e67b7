"""Readers of shot boundaries that people labelled: one's own truth file, BBC Planet Earth, AutoShot and ClipShots.

A transition is a span (start, end) of frames counted from 0: from the first frame that shows anything of the new shot to
the first that shows nothing of the old. A cut has start == end, the first frame of the new shot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.sources.folders import VIDEO_SUFFIXES

__all__ = ["SETS", "Labelled", "Span", "Transition", "Truth", "autoshot", "bbc", "clipshots", "truths"]

Span = tuple[int, int]


@dataclass(frozen=True)
class Transition:
    """kind: "cut", "fade" ... as the labels name it; "jump": a cut within a scene, which is counted apart."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Truth:
    """Labels of one video in a truth file. transitions: in order, without jumps. ambiguous: they count neither way."""

    path: Path
    fps: float
    frames: int
    transitions: list[Transition]
    jumps: list[Transition]
    ambiguous: list[Transition]


@dataclass(frozen=True)
class Labelled:
    """A video of a public set.

    spans: its transitions. cuts, fades: the same as PySceneDetect's benchmark reads them: the first frame of the new
    shot; first and last frame of a gradual transition, both included. In BBC and AutoShot every transition is a cut to it,
    and the end of the video is one as well.
    """

    path: Path
    spans: list[Span]
    cuts: list[int]
    fades: list[Span] = field(default_factory=list)


def truths(folder: Path, labels: Path) -> list[Truth]:
    """The videos of a folder that a truth file labels: `{name: {"fps", "frames", "transitions": [{"kind", "start",
    "end"}], "ambiguous": [{"start", "end"}]}}`; a name has no suffix. Exits with the reason where the two do not fit."""
    try:
        entries = json.loads(labels.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{labels}: cannot be read as JSON: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise SystemExit(f"{labels}: an object with one entry a video is needed")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES}
    if missing := [name for name in entries if name not in files]:
        raise SystemExit(f"{folder}: no video for {', '.join(missing)}, which {labels.name} labels")
    return [_truth(files[name], entry, f"{labels}: {name}") for name, entry in entries.items()]


def _truth(path: Path, entry: dict[str, Any], where: str) -> Truth:
    try:
        found = [Transition(str(q["kind"]), int(q["start"]), int(q["end"])) for q in entry["transitions"]]
        doubtful = [Transition("ambiguous", int(q["start"]), int(q["end"])) for q in entry.get("ambiguous", [])]
        fps, frames = float(entry["fps"]), int(entry["frames"])
    except (KeyError, TypeError, ValueError) as error:
        raise SystemExit(
            f"{where}: fps, frames and transitions of kind, start and end are needed ({error!r})"
        ) from None
    found.sort(key=lambda q: (q.start, q.end))
    asked = [q for q in found if q.kind != "jump"]
    for q in found + doubtful:
        if not 0 <= q.start <= q.end <= frames:
            raise SystemExit(f"{where}: {q.kind} {q.start}..{q.end} does not lie within its {frames} frames")
    for a, b in pairwise(asked):
        if b.start < a.end:
            raise SystemExit(f"{where}: transitions {a.start}..{a.end} and {b.start}..{b.end} overlap")
    return Truth(path, fps, frames, asked, [q for q in found if q.kind == "jump"], doubtful)


def bbc(folder: Path) -> list[Labelled]:
    """BBC Planet Earth (Baraldi et al. 2015): `videos/bbc_01.mp4`, with `fixed/01-scenes.txt` as PySceneDetect's benchmark
    has them, or with `annotations/shots/01*.txt` as first published, which are one frame early (TransNetV2's
    `consolidate_datasets.py` shifts them alike)."""
    shift, labels = 0, {path.name.split("-")[0]: path for path in sorted(folder.glob("fixed/*.txt"))}
    if not labels:
        published = sorted(folder.glob("annotations/shots/*.txt"))
        shift, labels = 1, {m[0]: path for path in published if (m := re.match(r"\d+", path.name))}
    videos = sorted(folder.glob("videos/*.mp4")) or sorted(folder.glob("*.mp4"))
    return _paired({path.stem.removeprefix("bbc_"): path for path in videos}, labels, folder, shift)


def autoshot(folder: Path) -> list[Labelled]:
    """AutoShot's test set (Zhu et al. 2023) as PySceneDetect's benchmark has it: `videos/ID.mp4`, `annotations/ID.txt`.
    Some videos are no longer to be had: what is there is read, and the rest is counted."""
    videos = {path.name.split(".")[0]: path for path in sorted(folder.glob("videos/*.mp4"))}
    return _paired(videos, {path.name.split(".")[0]: path for path in folder.glob("annotations/*.txt")}, folder)


def _paired(videos: dict[str, Path], labels: dict[str, Path], folder: Path, shift: int = 0) -> list[Labelled]:
    both = sorted(videos.keys() & labels.keys())
    if not both:
        raise SystemExit(f"{folder}: {len(videos)} videos and {len(labels)} annotations, and none belong together")
    if left := sorted(videos.keys() ^ labels.keys()):
        print(f"{folder}: left out, a video without annotation or the other way round: {', '.join(left)}")
    return [_of_shots(videos[name], labels[name], shift) for name in both]


def _of_shots(video: Path, labels: Path, shift: int) -> Labelled:
    """A row a shot: its first and last frame, between tabs or blanks. The frames between two shots are a transition."""
    rows: list[Span] = []
    for number, line in enumerate(labels.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            first, last = (int(value) for value in line.split()[:2])
        except ValueError:
            raise SystemExit(
                f"{labels}, line {number}: first and last frame of a shot are needed (got {line!r})"
            ) from None
        rows.append((first + shift, last + shift))
    if not rows:
        raise SystemExit(f"{labels}: lists no shot")
    spans = [(min(old + 1, new), new) for (_, old), (new, _) in pairwise(rows)]
    return Labelled(video, spans, [last + 1 for _, last in rows])


def clipshots(folder: Path, split: str = "test") -> list[Labelled]:
    """ClipShots (Tang et al. 2018): `annotations/SPLIT.json`, `videos/NAME` or `videos/SPLIT/NAME`, and, where it is
    there, `video_lists/SPLIT.txt`, which names the videos that count.

    A transition [begin, end] runs from the last frame of the old shot to the first of the new: a cut has end == begin + 1.
    """
    labels = folder / "annotations" / f"{split}.json"
    try:
        entries = json.loads(labels.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{labels}: cannot be read as JSON: {error}") from None
    listed = folder / "video_lists" / f"{split}.txt"
    names = set(listed.read_text().split()) & entries.keys() if listed.exists() else entries.keys()
    found, missing = [], 0
    for name in sorted(names):
        places = (folder / "videos" / name, folder / "videos" / split / name)
        path = next((place for place in places if place.exists()), None)
        if path is None:
            missing += 1
            continue
        pairs = [tuple(int(at) for at in pair) for pair in entries[name].get("transitions") or []]
        for pair in pairs:
            if len(pair) != 2 or pair[1] <= pair[0]:
                print(f"{labels}: {name}: {list(pair)} is no transition and left out")
        pairs = [pair for pair in pairs if len(pair) == 2 and pair[1] > pair[0]]
        spans = sorted((begin + 1, end) for begin, end in pairs)
        cuts = [end for begin, end in pairs if end - begin == 1]
        found.append(Labelled(path, spans, cuts, [(begin, end) for begin, end in pairs if end - begin > 1]))
    if missing:
        print(f"{folder}: {missing} of {len(names)} videos are not there")
    if not found:
        raise SystemExit(f"{folder}: none of the videos that {labels.name} labels is in {folder / 'videos'}")
    return found


SETS: dict[str, Callable[[Path], list[Labelled]]] = {"bbc": bbc, "autoshot": autoshot, "clipshots": clipshots}
