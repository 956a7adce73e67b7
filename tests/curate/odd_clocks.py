"""Small files whose clock, rate, size or beginning is odd, as cameras, captures and editors leave them: made with PyAV.

Every frame is of a known grey level (`level`), so that a test can tell which one it sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from curate.clip import Unit, Video
from curate.video.units import plan
from curate.watching.watch import watch

RATE = 25
PASS = {
    "observers": {
        "shots": {"detector": "whole", "min_seconds": 0.2, "max_seconds": 10.0},
        "motion": {"fps": 2.0},
        "stills": {"size": 64},
    },
    "decode": {},
}


def level(number: int) -> int:
    """0..250: neighbours differ by 40 levels, and so do frames two apart."""
    return number * 90 % 250


def film(
    path: Path, frames: range, *, options: dict[str, str] | None = None, size: tuple[int, int] = (64, 48),
    offset: float = 0.0, textured: bool = False,
) -> Path:  # fmt: skip
    """The numbered frames at 25 a second, H.264, from the time `offset` on."""
    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"crf": "8", "preset": "veryfast", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for place, number in enumerate(frames):
            picture = np.full((size[1], size[0], 3), level(number), np.uint8)
            if textured:
                picture[:: 2 + number % 5, ::3] = 255 - picture[0, 0, 0]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = place + round(offset * RATE), Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Transport streams one behind the other, as `cat` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def retimed(path: Path, source: Path, time: Callable[[int, float], float], base: int = 90_000) -> Path:
    """The packets of a file without B-frames at other times: time(place, seconds) -> seconds."""
    with av.open(os.fspath(source)) as given, av.open(os.fspath(path), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for place, packet in enumerate(packet for packet in given.demux(stream) if packet.size):
            ticks = round(time(place, float(packet.pts * packet.time_base)) * base)
            packet.pts = packet.dts = ticks
            packet.time_base, packet.duration, packet.stream = Fraction(1, base), 0, copy
            out.mux(packet)
    return path


def watched(path: Path, **changed) -> list[Unit]:
    """The units of a file after the pass."""
    planning = {name: changed.pop(name) for name in ("unit_seconds",) if name in changed}
    return [watch(unit, **{**PASS, **changed}) for unit in plan(Video(os.fspath(path)), **planning)]


def levels(source: bytes | Path) -> Iterator[float]:
    """Grey level of each frame that a file decodes to."""
    import io

    with av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as container:
        for frame in container.decode(video=0):
            yield float(frame.to_ndarray(format="gray").mean())


def numbers(source: bytes | Path, among: range) -> list[int]:
    """Which of the numbered frames a file decodes to, by their levels and their order."""
    found = []
    for seen in levels(source):
        close = [n for n in among if abs(level(n) * 219 / 255 + 16 - seen) < 3 or abs(level(n) - seen) < 3]
        after = [n for n in close if not found or n > found[-1]]
        found.append(after[0] if after else -1)
    return found
