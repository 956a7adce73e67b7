"""Shots of a video file by ours and by PySceneDetect's detectors, each at its defaults and with its own reading."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scenedetect import FrameTimecode, SceneDetector, SceneManager, VideoOpenFailure, open_video
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HistogramDetector

from curate.clip import Video
from curate.observers import shots as observer
from curate.observers.shots import ShotOptions
from curate.video.units import plan
from curate.watching import watch
from pipelines.config import DecodeOptions
from tests.benchmarks.cut_sets import Span

__all__ = ["PYSCENEDETECT", "Found", "Unreadable", "ours", "theirs"]

PYSCENEDETECT = {
    "ContentDetector": ContentDetector,
    "AdaptiveDetector": AdaptiveDetector,
    "HistogramDetector": HistogramDetector,
}


class Unreadable(Exception):
    """The reason for which a file has no shots."""


@dataclass(frozen=True)
class Found:
    """shots: in order, none shorter than was asked for. clips: those shots, long ones divided. frames: of the video.
    seconds: CPU time of the detector, without decoding."""

    shots: list[Span]
    clips: list[Span]
    frames: int
    seconds: float


def ours(path: Path, detector: str = "cascade", min_seconds: float | None = None) -> Found:
    """What `winnow annotate` finds with the default config. min_seconds: of a shot, instead of the config's.

    A long video is watched as one unit, so that the border of a unit is neither right nor wrong. CPU time is that of the
    detector and of the thumbs it looks at. Raises Unreadable.
    """
    config = ShotOptions(detector=detector)
    shots = config.model_dump() | ({} if min_seconds is None else {"min_seconds": min_seconds})
    reading = DecodeOptions().model_dump(include={"threads", "max_pixels"})
    (unit,) = plan(Video(str(path)), unit_seconds=float("inf"), max_pixels=reading["max_pixels"])
    spent = [0.0]
    if unit.status == "ok":
        with timed_detector(spent):
            unit = watch.watch(unit, observers={"shots": shots}, decode=reading)
    if unit.status != "ok":
        raise Unreadable(f"{path}: {unit.error}")
    whole: dict[float, Span] = {}
    for clip in unit.clips:
        first, _ = whole.get(clip.shot_start_time, (clip.start_frame, 0))
        whole[clip.shot_start_time] = first, clip.end_frame
    clips = [(clip.start_frame, clip.end_frame) for clip in unit.clips]
    return Found(list(whole.values()), clips, unit.facts["frames_decoded"], spent[0])


@contextmanager
def timed_detector(spent: list[float]) -> Iterator[None]:
    """While it lasts, detectors that the pass makes add their CPU seconds to spent[0]."""
    made = dict(observer.DETECTORS)
    observer.DETECTORS |= {
        name: lambda make=make, **options: Timed(make(**options), spent) for name, make in made.items()
    }
    try:
        yield
    finally:
        observer.DETECTORS |= made


class Timed:
    """An observer whose `see` and `finish` are timed."""

    def __init__(self, observer: Any, spent: list[float]) -> None:
        self._observer, self._spent = observer, spent

    def see(self, frame: Any) -> None:
        began = time.process_time()
        self._observer.see(frame)
        self._spent[0] += time.process_time() - began

    def finish(self) -> Any:
        began = time.process_time()
        shots = self._observer.finish()
        self._spent[0] += time.process_time() - began
        return shots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)


class Several(SceneDetector):
    """Detectors side by side over one decoding. cuts, seconds: of each: first frames of new shots; CPU seconds."""

    def __init__(self, detectors: Sequence[SceneDetector]) -> None:
        super().__init__()
        self.detectors = detectors
        self.cuts: list[set[int]] = [set() for _ in detectors]
        self.seconds = [0.0] * len(detectors)

    def process_frame(self, timecode: FrameTimecode, frame_img: Any) -> list[FrameTimecode]:
        for i, detector in enumerate(self.detectors):
            self._ask(i, detector.process_frame, timecode, frame_img)
        return []

    def post_process(self, timecode: FrameTimecode) -> list[FrameTimecode]:
        for i, detector in enumerate(self.detectors):
            self._ask(i, detector.post_process, timecode)
        return []

    def _ask(self, i: int, what: Any, *arguments: Any) -> None:
        began = time.thread_time()  # frames are decoded and reduced in another thread
        cuts = what(*arguments)
        self.seconds[i] += time.thread_time() - began
        self.cuts[i].update(cut.frame_num for cut in cuts)


def theirs(path: Path, min_seconds: float | None = None) -> dict[str, Found]:
    """By name of the detector: what `scenedetect.detect(path, detector())` finds. Scenes become clips by our default
    config's rule: none shorter than min_seconds, long ones divided evenly. Raises Unreadable."""
    try:
        video = open_video(str(path), backend="opencv")
    except (VideoOpenFailure, OSError) as error:
        raise Unreadable(f"{path}: PySceneDetect cannot read it: {error}") from None
    several = Several([make() for make in PYSCENEDETECT.values()])
    manager = SceneManager()
    manager.add_detector(several)
    frames = manager.detect_scenes(video)
    config = ShotOptions()
    shortest = (config.min_seconds if min_seconds is None else min_seconds) * video.frame_rate
    found = {}
    for name, cuts, seconds in zip(PYSCENEDETECT, several.cuts, several.seconds, strict=True):
        shots = [(a, b) for a, b in pairwise([0, *sorted(cuts - {0}), frames]) if b - a >= shortest - 1e-6]
        clips = [part for shot in shots for part in divided(shot, config.max_seconds * video.frame_rate)]
        found[name] = Found(shots, clips, frames, seconds)
    return found


def divided(shot: Span, longest: float) -> list[Span]:
    """Into as few parts as will do, none longer than `longest` frames but for rounding."""
    start, end = shot
    parts = max(1, -int(-(end - start) // longest))
    return list(pairwise(start + round((end - start) * i / parts) for i in range(parts + 1)))
