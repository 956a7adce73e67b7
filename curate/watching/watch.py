"""The single pass: one unit decoded once, every observer fed, and the unit comes back with its clips.

What the pass learns of the file goes into `unit.facts` (`VIDEO_COLUMNS`), what it measures of a clip into the clip's
values (`CLIP_COLUMNS`). A file that cannot be used fails the unit with a plain reason; one that can be used in part
keeps what could be read, and `unit.warnings` says what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from curate.clip import COUNTED, FILE, Column, Unit
from curate.observers.motion import FlowMotion
from curate.observers.shots import CascadeShots, TransNetShots, WholeShot
from curate.observers.stills import Stills
from curate.video.clock import interruptions, longest_step, rate
from curate.video.decode import Decode, VideoError, frames
from curate.video.identity import checksum, identify
from curate.video.units import plan
from curate.watching.dividing import KnownClips, clips_of, frame_ends, parted
from curate.watching.listed import ListedSpans, clips_of_spans
from curate.watching.rereading import captioner_frames

__all__ = ["CLIP_COLUMNS", "VIDEO_COLUMNS", "watch"]

CLIP_COLUMNS: tuple[Column, ...] = (*FlowMotion.columns, *Stills.columns)

VIDEO_COLUMNS: tuple[Column, ...] = (
    Column("width", pa.int32(), "as displayed: rotation and sample aspect ratio applied", "px"),
    Column("height", pa.int32(), "as displayed: rotation and sample aspect ratio applied", "px"),
    Column(
        "fps",
        pa.float64(),
        "average by the times of the frames, gaps left out; the header's figure where the two agree within 1%",
        "frames per second",
    ),
    Column("fps_claimed", pa.float64(), "average, as the header says", "frames per second"),
    Column("bitrate", pa.float64(), "bytes of the file * 8 / its duration", "bits per second"),
    Column(
        "clock",
        pa.string(),
        "how frames are found again: by the file's own times; or by counting, where these are missing or step back",
        range="file, counted",
    ),
    Column("codec", pa.string(), "FFmpeg's name, e.g. h264, hevc, vp9, av1"),
    Column("pixel_format", pa.string(), "FFmpeg's name"),
    Column("container", pa.string(), "FFmpeg's name of the file format"),
    Column(
        "duration",
        pa.float64(),
        "of the pictures, gaps in the clock left out; of a file in several units, what its header says",
        "s",
    ),
    Column(
        "footage",
        pa.float64(),
        "length of the pictures of this unit, as they were decoded: gaps in the clock left out",
        "s",
    ),
    Column("rotation", pa.int32(), "counter-clockwise, from stored to displayed", "degrees", "0, 90, 180, 270"),
    Column("mirrored", pa.bool_(), "left to right, before it is turned: a selfie camera's display matrix"),
    Column("sample_aspect_ratio", pa.float64(), "width of a stored sample over its height"),
    Column("interlaced", pa.bool_(), "some frames are made of two fields"),
    Column("variable_frame_rate", pa.bool_(), "the time between frames varies by more than a fifth of its median"),
    *(
        Column(name, pa.string(), f"{what}, as the file tags it, in FFmpeg's names; null where it does not", range=some)
        for name, what, some in (
            ("transfer", "transfer characteristics", "e.g. bt709, smpte2084 (PQ), arib-std-b67 (HLG)"),
            ("primaries", "colour primaries", "e.g. bt709, bt2020"),
            ("matrix", "matrix from YUV to RGB", "e.g. bt709, smpte170m, bt2020nc"),
            ("range", "range of the samples", "tv (limited), pc (full)"),
        )
    ),
    Column("bit_depth", pa.int32(), "of a sample", "bits"),
    Column("hdr", pa.bool_(), "the transfer is PQ or HLG: stills and transcodes are tone-mapped (ITU-R BT.2390)"),
    Column("has_audio", pa.bool_(), "the file has an audio stream"),
    Column("bytes", pa.int64(), "size of the file", "bytes"),
    Column("modified", pa.int64(), "when the file was last written, as the file system says", "ns since 1970"),
    Column("checksum", pa.string(), "BLAKE2b of the whole file, 32 hex digits; in the row of its first stretch"),
    Column(
        "first_frame", pa.int64(), "frames of the file that are displayed before the unit's first keyframe", "frames"
    ),
    *(
        Column(f"{name}_{what}", pa.int64(), f"of the keyframe that the unit {verb}: {formula}", unit)
        for name, verb in (("first", "begins with"), ("end", "ends before"))
        for what, formula, unit in (
            ("packet", "packets of the stream before it in the file", "packets"),
            ("pts", "presentation time, as the file has it", "ticks of the stream"),
        )
    ),
    Column("frames_claimed", pa.int64(), "frames of the whole file, as its header says", "frames"),
    Column("frames_in_file", pa.int64(), "video packets of this unit, counted while reading", "frames"),
    Column("frames_decoded", pa.int64(), "frames that the decoder gave while annotating this unit", "frames"),
    Column("frames_damaged", pa.int64(), "refused by the decoder, or marked corrupt by it", "frames"),
    Column("end_time", pa.float64(), "presentation time of the end of the last frame of this unit", "s"),
    Column("keyframes", pa.list_(pa.float64()), "times of the keyframes, as the file has them", "s"),
    Column(
        "transitions",
        pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("kind", pa.string())])),
        "spans between shots that belong to no clip; a cut has end == start, and so have the places where pictures are "
        "missing (gap), the clock steps back (clock) or the size changes (size)",
        "s",
    ),
    Column("motion_times", pa.list_(pa.float64()), "presentation times that the flow samples end at", "s"),
    Column(
        "motion_samples",
        pa.list_(pa.float64()),
        "mean |flow| of each pair, as motion_score, before clips are known",
        "percent of the shorter side per second",
    ),
)


def watch(
    unit: Unit,
    *,
    shots: dict[str, Any],
    motion: dict[str, Any] | None,
    stills: dict[str, Any] | None,
    decode: dict[str, Any],
) -> Unit:
    """Decode the unit once and fill its clips, facts, warnings and seconds.

    shots: `detector` ("cascade", "transnetv2" or "whole"), `min_seconds`, `max_seconds`, and arguments of the detector.
    motion, stills: arguments of FlowMotion and Stills; None leaves their columns out. decode: arguments of `Decode`.
    Clips that the unit has already stay: no shots are looked for.
    """
    cv2.setNumThreads(1)
    began = time.perf_counter()
    options = dict(decode)
    if motion is not None:
        options["grey"] = motion.get("size", 96)
    if stills is not None:
        options["picture"] = stills.get("size", 360)
    reader = frames(unit, **options)
    try:
        _watch(unit, reader, dict(shots), motion, stills)
    except VideoError as error:
        unit.fail(error.reason)
    except MemoryError:
        raise  # the caller knows how much there was
    except Exception as error:  # a frame that an observer chokes on costs this unit, not the job
        unit.fail(f"{type(error).__name__}: {error}")
    unit.facts.setdefault("checksum", None)
    if unit.status == "ok" and unit.index == 0 and not unit.facts["checksum"]:
        with suppress(OSError):  # gone meanwhile, as whoever compares it with its stamp says
            unit.facts["checksum"] = checksum(unit.video.path)
    unit.seconds["decode"] = time.perf_counter() - began
    return unit


def _watch(unit: Unit, reader: Decode, shots: dict, motion: dict | None, stills: dict | None) -> None:
    span = {name: shots.pop(name) for name in ("min_seconds", "max_seconds")}
    detector = detector_of(shots.pop("detector", "cascade"))
    flow = FlowMotion(**motion) if motion is not None else None
    keeper = Stills(**stills) if stills is not None else None
    seen, first, times, shown, sizes = None, 0, [], [], []
    for frame in reader:
        if seen is None:
            first, seen = frame.index, _observer(unit, detector, shots, frame.index)
        seen.see(frame)
        if keeper:
            keeper.see(frame, seen.jumped or _interrupted(frame, reader, times, sizes))
        if flow:
            flow.see(frame)
        times.append(frame.time)
        shown.append(frame.shown)
        sizes.append((frame.width, frame.height))
    _facts_of(unit, reader)
    if seen is None:
        raise VideoError(unit.video.path, reader.why_nothing())
    line = Line(np.array(times), np.array(shown), np.array(sizes), reader.clock.breaks, reader.end_time)
    _rates(unit, line, reader.clock.decoding_from)
    said = [*reader.warnings(), *_rate_warnings(unit, line), *line.warnings()]
    if isinstance(seen, KnownClips):
        unit.clips = seen.found(line.times, line.ends)
    elif unit.video.spans:
        unit.clips, missed = clips_of_spans(unit.video.spans, line.times, line.ends, line.breaks)
        said += missed
    else:
        unit.clips = clips_of(parted(seen.finish(), sorted(line.breaks)), line.times, line.ends, **span)
    unit.warnings = list(dict.fromkeys([*unit.warnings, *said]))
    for clip in unit.clips:
        clip.width, clip.height = (int(side) for side in sizes[clip.start_frame])
        clip.fps = _close(clip.num_frames / (clip.end_time - clip.start_time), unit.facts["fps"], 0.02)
        clip.clock = unit.facts["clock"]
        clip.start_frame += first
        clip.end_frame += first
    if not isinstance(seen, KnownClips):
        unit.facts["transitions"] = _transitions(seen.transitions, line)
    if flow:
        flow.fill(unit.clips, reader.end_time)
        unit.facts["motion_times"] = [sample.end for sample in flow.samples]
        unit.facts["motion_samples"] = [sample.magnitude for sample in flow.samples]
    if keeper:
        keeper.fill(unit.clips)


def _observer(unit: Unit, detector: Any, shots: dict[str, Any], first: int) -> Any:
    """What looks for shots: nothing where the clips are known, or a source list names them."""
    if unit.clips:
        return KnownClips(unit.clips, first)
    return ListedSpans(unit.video.spans) if unit.video.spans else detector(**shots)


def _interrupted(frame: Any, reader: Decode, times: Sequence[float], sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether the recording may have been interrupted before this frame, so that a clip ends there, as `Line` finds at
    the end. times, sizes: of the frames before it."""
    if not times:
        return False
    turned = bool(reader.clock.breaks) and reader.clock.breaks[-1] == len(times)
    paused = frame.time - times[-1] > longest_step(reader.clock.usual)
    return turned or paused or (frame.width, frame.height) != sizes[-1]


class Line:
    """The frames of a unit on the line of time. times, ends [N]: shown from and until, s. breaks: position -> why no shot
    goes on there. gaps: positions after missing pictures."""

    def __init__(
        self, times: np.ndarray, shown: np.ndarray, sizes: np.ndarray, turns: Sequence[int], end_time: float
    ) -> None:
        self.times = times
        self.gaps = interruptions(times, shown)
        self.changes = np.flatnonzero((np.diff(sizes, axis=0) != 0).any(1)) + 1
        kinds = ((self.changes, "size"), (turns, "clock"), (self.gaps, "gap"))
        self.breaks = {int(at): kind for places, kind in kinds for at in places}
        self.ends = frame_ends(times, self.gaps, end_time)

    @property
    def seconds(self) -> float:
        return float((self.ends - self.times).sum())

    def warnings(self) -> list[str]:
        said = []
        if len(self.gaps):
            places = ", ".join(
                f"{self.times[at] - self.ends[at - 1]:.2f} s at {self.ends[at - 1]:.2f} s" for at in self.gaps[:3]
            )
            more = f", and {len(self.gaps) - 3} more" if len(self.gaps) > 3 else ""
            said.append(f"no new picture comes for {places}{more}: no shot goes across")
        if len(self.changes):
            first = self.times[self.changes[0]]
            said.append(f"the size of the pictures changes: {len(self.changes)} times, first at {first:.2f} s")
        return said


def _facts_of(unit: Unit, reader: Decode) -> None:
    first = unit.facts.get("first_frame") or 0
    claimed = unit.facts.get("frames_claimed", unit.facts.get("frames_in_file"))
    unit.facts |= reader.facts | {"first_frame": first, "frames_claimed": claimed, "end_time": reader.end_time}
    unit.facts["frames_in_file"], unit.facts["frames_decoded"] = reader.packets, reader.decoded
    unit.facts["frames_damaged"], unit.facts["keyframes"] = reader.damaged, reader.keyframes
    counted = unit.facts.get("clock") == COUNTED or not reader.clock.sound
    unit.facts["clock"] = COUNTED if counted else FILE


def _rates(unit: Unit, line: Line, since: float | None) -> None:
    """since: from when on the times of the frames say something of the rate; None: from the first."""
    facts = unit.facts
    claimed = facts["fps_claimed"] = facts.get("fps")
    first = 0 if since is None else int(np.searchsorted(line.times, since))
    measured = rate(line.times[first:], line.gaps[line.gaps > first] - first)
    facts["fps"] = claimed if measured is None else _close(measured, claimed, 0.01)
    facts["footage"] = line.seconds
    if unit.count == 1:
        facts["duration"] = line.seconds
    facts["bitrate"] = facts["bytes"] * 8 / facts["duration"] if facts.get("duration") else None
    steps = np.delete(np.diff(line.times), line.gaps - 1)
    usual = float(np.median(steps)) if len(steps) else 0.0
    facts["variable_frame_rate"] = bool(len(steps) and np.mean(np.abs(steps - usual) > 0.2 * usual) > 0.01)


def _rate_warnings(unit: Unit, line: Line) -> list[str]:
    fps, claimed = unit.facts["fps"], unit.facts["fps_claimed"]
    if not fps or not claimed:
        return []
    across = len(line.times) / (line.ends[-1] - line.times[0])  # gaps too: what a header counts where it counts frames
    if min(abs(claimed / fps - 1), abs(claimed / across - 1)) < 0.05:
        return []
    return [f"the header says {claimed:.4g} frames a second, the times of the frames {fps:.4g}: the times are taken"]


def _close(value: float, other: float | None, share: float) -> float:
    """The other where the two are nearly the same."""
    return other if other and abs(value / other - 1) < share else value


def _transitions(found: Sequence[Any], line: Line) -> list[dict[str, Any]]:
    edges = [*line.times, line.ends[-1]]
    spans = [(gap.start, gap.end, getattr(gap, "kind", None)) for gap in found]
    covered = [(start, end) for start, end, _ in spans]
    spans += [(at, at, kind) for at, kind in line.breaks.items() if not any(a <= at <= b for a, b in covered)]
    return [
        {"start": float(edges[a]), "end": float(edges[b]), "kind": kind}
        for a, b, kind in sorted(spans, key=lambda s: s[:2])
    ]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Isolated` does: `identify`, `checksum`, `plan`, `watch` or `captioner_frames`, on packed units."""
    unit, arguments = Unit.unpack(request["unit"]), request["arguments"]
    if request["do"] == "identify":
        return identify(unit.video.path)
    if request["do"] == "checksum":
        return {"checksum": checksum(unit.video.path)}
    if request["do"] == "plan":
        units = plan(unit.video, **arguments)
    elif request["do"] == "frames":
        captioner_frames(unit, **arguments)
        units = [unit]
    else:
        units = [watch(unit, **arguments)]
    return {"units": [unit.pack() for unit in units]}


def detector_of(name: str) -> Any:
    return {"cascade": CascadeShots, "transnetv2": TransNetShots, "whole": WholeShot}[name]
