"""Facts of a file from its decode: the columns of the videos table that no observer fills."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curate.clip import COUNTED, FILE, Column, Unit
from curate.video.clock import rate
from curate.video.decode import Decode
from curate.video.timeline import Timeline

__all__ = ["FILE_COLUMNS", "rate_warnings", "record_facts", "record_rates", "snap_to"]

FILE_COLUMNS: tuple[Column, ...] = (
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
    Column(
        "version", pa.string(), "ETag of an object on a store, which changes with its content; null for a local file"
    ),
    Column(
        "checksum",
        pa.string(),
        "BLAKE2b of the whole file, 32 hex digits; in the row of its first stretch. Null for an object of which not all "
        "bytes were read in one go",
    ),
    Column(
        "bytes_read", pa.int64(), "read from the store to plan and decode this unit; null for a local file", "bytes"
    ),
    Column("requests", pa.int64(), "made of the store to plan and decode this unit; null for a local file", "requests"),
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
)


def record_facts(unit: Unit, reader: Decode) -> None:
    """Write the facts from the decode into `unit.facts`."""
    first = unit.facts.get("first_frame") or 0
    claimed = unit.facts.get("frames_claimed", unit.facts.get("frames_in_file"))
    unit.facts |= reader.facts | {"first_frame": first, "frames_claimed": claimed, "end_time": reader.end_time}
    unit.facts["frames_in_file"], unit.facts["frames_decoded"] = reader.packets, reader.decoded
    unit.facts["frames_damaged"], unit.facts["keyframes"] = reader.damaged, reader.keyframes
    counted = unit.facts.get("clock") == COUNTED or not reader.clock.sound
    unit.facts["clock"] = COUNTED if counted else FILE


def record_rates(unit: Unit, timeline: Timeline, since: float | None) -> None:
    """Write frame rate, footage, duration and bitrate into `unit.facts`. since: ignore the times of earlier frames, s."""
    facts = unit.facts
    claimed = facts["fps_claimed"] = facts.get("fps")
    first = 0 if since is None else int(np.searchsorted(timeline.times, since))
    measured = rate(timeline.times[first:], timeline.gaps[timeline.gaps > first] - first)
    facts["fps"] = claimed if measured is None else snap_to(measured, claimed, 0.01)
    facts["footage"] = timeline.seconds
    if unit.count == 1:
        facts["duration"] = timeline.seconds
    facts["bitrate"] = facts["bytes"] * 8 / facts["duration"] if facts.get("duration") else None
    steps = np.delete(np.diff(timeline.times), timeline.gaps - 1)
    usual = float(np.median(steps)) if len(steps) else 0.0
    facts["variable_frame_rate"] = bool(len(steps) and np.mean(np.abs(steps - usual) > 0.2 * usual) > 0.01)


def rate_warnings(unit: Unit, timeline: Timeline) -> list[str]:
    fps, claimed = unit.facts["fps"], unit.facts["fps_claimed"]
    if not fps or not claimed:
        return []
    across = len(timeline.times) / (
        timeline.ends[-1] - timeline.times[0]
    )  # with gaps, as in headers that divide frames by duration
    if min(abs(claimed / fps - 1), abs(claimed / across - 1)) < 0.05:
        return []
    return [f"the header says {claimed:.4g} frames a second, the times of the frames {fps:.4g}: the times are taken"]


def snap_to(value: float, other: float | None, share: float) -> float:
    """`other` where the two differ by less than `share`, relative; else `value`."""
    return other if other and abs(value / other - 1) < share else value
