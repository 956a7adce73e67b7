"""The single pass: one unit decoded once, every observer fed, and the unit comes back with its clips.

What the pass learns of the file goes into `unit.facts` (`VIDEO_COLUMNS`), what it measures of a clip into the clip's
values (`CLIP_COLUMNS`). A file that cannot be used fails the unit with a plain reason; one that can be used in part
keeps what could be read, and `unit.warnings` says what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa

from curate.clip import Column, Unit
from curate.identity import identify
from curate.motion import FlowMotion
from curate.shots import CascadeShots, TransNetShots, WholeShot, clips_of
from curate.stills import Stills, encoded
from curate.video import Decode, VideoError, frames, open_video, plan, video_frame

__all__ = ["CLIP_COLUMNS", "VIDEO_COLUMNS", "captioner_frames", "sample_frames", "watch"]

CLIP_COLUMNS: tuple[Column, ...] = (*FlowMotion.columns, *Stills.columns)

VIDEO_COLUMNS: tuple[Column, ...] = (
    Column("width", pa.int32(), "as displayed: rotation and sample aspect ratio applied", "px"),
    Column("height", pa.int32(), "as displayed: rotation and sample aspect ratio applied", "px"),
    Column("fps", pa.float64(), "average, as the file says", "frames per second"),
    Column("codec", pa.string(), "name of the decoder"),
    Column("pixel_format", pa.string(), "FFmpeg's name"),
    Column("container", pa.string(), "FFmpeg's name of the file format"),
    Column(
        "duration",
        pa.float64(),
        "from the first frame to the end of the last; of a file in several units, what its header says",
        "s",
    ),
    Column("rotation", pa.int32(), "counter-clockwise, from stored to displayed", "degrees", "0, 90, 180, 270"),
    Column("sample_aspect_ratio", pa.float64(), "width of a stored sample over its height"),
    Column("interlaced", pa.bool_(), "some frames are made of two fields"),
    Column("variable_frame_rate", pa.bool_(), "the time between frames varies by more than a fifth of its median"),
    Column("has_audio", pa.bool_(), "the file has an audio stream"),
    Column("bytes", pa.int64(), "size of the file", "bytes"),
    Column("modified", pa.int64(), "when the file was last written, as the file system says", "ns since 1970"),
    Column("first_frame", pa.int64(), "frames of the file that are displayed before this unit", "frames"),
    Column("frames_claimed", pa.int64(), "frames of the whole file, as its header says", "frames"),
    Column("frames_in_file", pa.int64(), "video packets of this unit, counted while reading", "frames"),
    Column("frames_decoded", pa.int64(), "frames that the decoder gave while annotating this unit", "frames"),
    Column("frames_damaged", pa.int64(), "packets refused by the decoder, and frames that it marked corrupt", "frames"),
    Column("end_time", pa.float64(), "presentation time of the end of the last frame of this unit", "s"),
    Column("keyframes", pa.list_(pa.float64()), "presentation times of the keyframes", "s"),
    Column(
        "transitions",
        pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("kind", pa.string())])),
        "spans between shots that belong to no clip; a cut has end == start",
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
    unit.seconds["decode"] = time.perf_counter() - began
    return unit


def _watch(unit: Unit, reader: Decode, shots: dict, motion: dict | None, stills: dict | None) -> None:
    span = {name: shots.pop(name) for name in ("min_seconds", "max_seconds")}
    detector = detector_of(shots.pop("detector", "cascade"))
    flow = FlowMotion(**motion) if motion is not None else None
    keeper = Stills(**stills) if stills is not None else None
    seen, times = None, []
    for frame in reader:
        if seen is None:
            seen = detector(fps=reader.facts["fps"] or 25.0, **shots)
        seen.see(frame)
        if keeper:
            keeper.see(frame, seen.jumped)
        if flow:
            flow.see(frame)
        times.append(frame.time)
    first = unit.facts.get("first_frame") or 0
    claimed = unit.facts.get("frames_claimed", unit.facts.get("frames_in_file"))
    unit.facts |= reader.facts | {"first_frame": first, "frames_claimed": claimed, "end_time": reader.end_time}
    unit.facts["frames_in_file"], unit.facts["frames_decoded"] = reader.packets, reader.decoded
    unit.facts["frames_damaged"], unit.facts["keyframes"] = reader.damaged, reader.keyframes
    if seen is None:
        raise VideoError(unit.video.path, reader.why_nothing())
    unit.warnings = list(dict.fromkeys([*unit.warnings, *reader.warnings()]))
    unit.clips = clips_of(seen.finish(), times, end_time=reader.end_time, **span)
    for clip in unit.clips:
        clip.start_frame += first
        clip.end_frame += first
    if unit.count == 1:
        unit.facts["duration"] = reader.end_time - times[0]
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    unit.facts["variable_frame_rate"] = bool(len(steps) and np.mean(np.abs(steps - usual) > 0.2 * usual) > 0.01)
    edges = [*times, reader.end_time]
    unit.facts["transitions"] = [
        {"start": edges[gap.start], "end": edges[gap.end], "kind": getattr(gap, "kind", None)}
        for gap in seen.transitions
    ]
    if flow:
        flow.fill(unit.clips)
        unit.facts["motion_times"] = [sample.end for sample in flow.samples]
        unit.facts["motion_samples"] = [sample.magnitude for sample in flow.samples]
    if keeper:
        keeper.fill(unit.clips)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a child process of `Isolated` does: `identify`, `plan`, `watch` or `captioner_frames`, on packed units."""
    unit, arguments = Unit.unpack(request["unit"]), request["arguments"]
    if request["do"] == "identify":
        return identify(unit.video.path)
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


def sample_frames(source: Unit | str, times: Sequence[float], size: int) -> list[np.ndarray]:
    """Pictures [h, w, 3] uint8 RGB, shorter side at most `size`, of the frames shown at these presentation times.

    Seeks; for columns added later, where decoding the file again would be waste. Raises VideoError.
    """
    path = source if isinstance(source, str) else source.video.path
    container, stream = open_video(path)
    found: dict[float, np.ndarray] = {}
    with container:
        for wanted in sorted(set(times)):
            found[wanted] = video_frame(path, container, stream, wanted, size).picture()
    return [found[wanted] for wanted in times]


def captioner_frames(unit: Unit, count: int, *, size: int = 360, quality: int = 90) -> None:
    """Fill `clip.frames` of a unit's clips with `count` evenly spaced JPEGs each, read by seeking.

    A clip whose frames cannot be read keeps none, and `errors["frames"]` says why.
    """
    if count < 1:
        return
    for clip in unit.clips:
        step = (clip.end_time - clip.start_time) / max(1, clip.num_frames)
        times = np.linspace(clip.start_time, max(clip.start_time, clip.end_time - step), count)
        try:
            clip.frames = [encoded(image, quality) for image in sample_frames(unit, [float(t) for t in times], size)]
        except (VideoError, av.FFmpegError) as error:
            clip.errors["frames"] = str(error)
