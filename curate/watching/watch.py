"""The single pass: one unit is decoded once, every observer sees every frame, and the unit gets its clips.

Facts of the file go into `unit.facts`, scores into the values of its clips. A file that cannot be used fails the unit
with the reason; one that can be used in part keeps what could be read, with warnings in `unit.warnings`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np

from curate.base.child import CHANGED, LATE, Lost
from curate.base.store import StoreError
from curate.clip import Unit
from curate.observers.observer import Observer
from curate.parts import Parts
from curate.pipeline_part import check_values
from curate.video.clock import longest_step
from curate.video.decode import Decode, VideoError, frames
from curate.video.identity import cheap_checksum, checksum, identify
from curate.video.remote import add_cost, spent, stand_in, trust
from curate.video.timeline import Timeline
from curate.video.units import plan
from curate.watching.facts import rate_warnings, record_facts, record_rates, snap_to
from curate.watching.isolation import record_loss
from curate.watching.rereading import captioner_frames

__all__ = ["watch"]


def watch(
    unit: Unit,
    *,
    observers: Mapping[str, Mapping[str, Any]],
    decode: Mapping[str, Any],
    frames_per_clip: int = 0,
    plugins: Sequence[str] = (),
) -> Unit:
    """Decode the unit once and fill its clips, facts, warnings and seconds.

    observers: name -> options, as in its section of a config; one of them finds the clips. decode: arguments of `Decode`.
    frames_per_clip: evenly spaced frames of each clip that a later stage needs. plugins: files that define more observers.
    """
    cv2.setNumThreads(1)
    began = time.perf_counter()
    trust(unit.video.path, unit.facts)
    try:
        known = Parts.load(plugins).observers
        chosen = [(part, part.Options(**observers[name])) for name, part in known.items() if name in observers]
        reader = frames(unit, **decode, **views_of(chosen))
        _watch(unit, reader, [part.create(options, unit, frames_per_clip) for part, options in chosen])
    except VideoError as error:
        unit.fail(error.reason)
    except StoreError as error:  # a store that does not answer, or an object that changes, is not the video's fault
        unit = record_loss(unit, Lost(str(error), CHANGED if error.changed else LATE))
    except MemoryError:
        raise  # the caller knows the limit
    except Exception as error:  # the observer that finds the clips, or the decode: this unit, not the job
        unit.fail(f"{type(error).__name__}: {error}")
    unit.facts.setdefault("checksum", None)
    if unit.status == "ok" and unit.index == 0 and not unit.facts["checksum"]:
        with suppress(OSError, StoreError):  # deleted meanwhile: the caller compares size and time of writing
            unit.facts["checksum"] = cheap_checksum(unit.video.path)
    add_cost(unit.facts, spent(unit.video.path))
    unit.seconds["decode"] = time.perf_counter() - began
    return unit


def views_of(chosen: Sequence[tuple[type[Observer], Any]]) -> dict[str, int]:
    """Sizes of the views that observers use. Raises ValueError where two need one view in different sizes."""
    wanted: dict[str, tuple[int, str]] = {}
    for part, options in chosen:
        for view, size in part.views(options).items():
            other, by = wanted.setdefault(view, (size, part.name))
            if other != size:
                raise ValueError(f"{by} looks at {view} of {other} px and {part.name} of {size} px: give both one size")
    return {view: size for view, (size, _) in wanted.items()}


def _watch(unit: Unit, reader: Decode, observers: Sequence[Observer]) -> None:
    times: list[float] = []
    shown: list[float] = []
    sizes: list[tuple[int, int]] = []
    first, working, failed = 0, list(observers), {}
    for frame in reader:
        if not times:
            first = frame.index
        frame.jumped = _interrupted(frame, reader, times, sizes)
        for observer in list(working):
            try:
                observer.see(frame)
            except Exception as error:
                working.remove(_may_fail(observer, observers, error, failed))
        times.append(frame.time)
        shown.append(frame.shown)
        sizes.append((frame.width, frame.height))
    record_facts(unit, reader)
    if not times:
        raise VideoError(unit.video.path, reader.nothing_decoded_reason())
    timeline = Timeline(
        np.array(times),
        np.array(shown),
        np.array(sizes),
        turns=reader.clock.breaks,
        end_time=reader.end_time,
        first=first,
    )
    record_rates(unit, timeline, reader.clock.decoding_from)
    (unit.clips,) = [clips for observer in working if (clips := observer.clips(timeline)) is not None]
    missing = [*reader.warnings(), *rate_warnings(unit, timeline), *timeline.warnings()]
    unit.warnings = list(dict.fromkeys([*unit.warnings, *missing]))
    for clip in unit.clips:
        clip.width, clip.height = (int(side) for side in sizes[clip.start_frame])
        clip.fps = snap_to(clip.num_frames / (clip.end_time - clip.start_time), unit.facts["fps"], 0.02)
        clip.clock = unit.facts["clock"]
        clip.start_frame += first
        clip.end_frame += first
    for observer in list(working):
        try:
            observer.finish(unit, timeline)
        except Exception as error:
            _may_fail(observer, observers, error, failed)
    for observer in observers:
        for clip in unit.clips:
            if observer.name in failed:
                clip.values |= dict.fromkeys(column.name for column in observer.columns)
                clip.errors[observer.name] = failed[observer.name]
        check_values(observer, unit.clips)


def _may_fail(observer: Observer, observers: Sequence[Observer], error: Exception, failed: dict[str, str]) -> Observer:
    """Record why an observer failed: that costs its own columns. Without the first, which finds the clips, nothing is
    left, and a machine without memory is tried again: then the error is raised."""
    if observer is observers[0] or isinstance(error, (MemoryError, VideoError)):
        raise error
    failed[observer.name] = f"{type(error).__name__}: {error}"
    return observer


def _interrupted(frame: Any, reader: Decode, times: Sequence[float], sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether the recording may have been interrupted before this frame (`Timeline` decides at the end).

    times, sizes: of the frames before it."""
    if not times:
        return False
    turned = bool(reader.clock.breaks) and reader.clock.breaks[-1] == len(times)
    paused = frame.time - times[-1] > longest_step(reader.clock.usual)
    return turned or paused or (frame.width, frame.height) != sizes[-1]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Answers requests of `Isolated` in the child process: `identify`, `checksum`, `plan`, `watch` or `captioner_frames`."""
    unit, arguments = Unit.unpack(request["unit"]), request["arguments"]
    if request.get("stand_in"):
        stand_in(unit.video.path, request["stand_in"])
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
