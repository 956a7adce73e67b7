"""One folder of files that go wrong, or could: damaged, mislabelled, odd, rare. Made by code; nothing is checked in.

python -m tests.bad_inputs FOLDER            make them, and print what the pass makes of each
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

FRAMES = 50
RATE = 25


@dataclass(frozen=True)
class Expectation:
    """What a file must become. status: "ok" or "failed". says: part of the reason (failed) or of the warnings (ok), or
    "" where there must be none. frames: to be decoded; None: any number but 0. facts: what must be recorded."""

    status: str = "ok"
    says: str = ""
    frames: int | None = FRAMES
    facts: tuple[tuple[str, object], ...] = ()


def picture(i: int, width: int, height: int) -> np.ndarray:
    """[h, w, 3] uint8: a soft texture with a bright square that moves; no two frames are alike."""
    y, x = np.mgrid[0:height, 0:width]
    base = 110 + 50 * np.sin(x / 9.0) + 40 * np.cos(y / 7.0 + i / 20)
    image = np.stack([base, 0.8 * base + 20, 255 - base], -1)
    side = max(2, min(width, height) // 5)
    left = (i * 2) % max(1, width - side)
    image[height // 3 : height // 3 + side, left : left + side] = (250, 240, 40)
    return image.clip(0, 255).astype(np.uint8)


def write(
    path: Path,
    *,
    codec: str = "libx264",
    width: int = 160,
    height: int = 120,
    frames: int = FRAMES,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Callable[[int], int] | None = None,
    rotation: int = 0,
    audio_seconds: float = 0.0,
    cover: bool = False,
    form: str | None = None,
    container_options: dict[str, str] | None = None,
    alpha: bool = False,
) -> None:
    """A sound file; `times` gives presentation times in 1/1000 s where they are not just i / RATE."""
    with av.open(os.fspath(path), "w", format=form, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = out.add_stream("aac", rate=16000, layout="mono") if audio_seconds else None
        art = None
        if cover:
            art = out.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 640, 480, "yuvj420p"
            art.disposition = Disposition.attached_pic
        if art:
            still = av.VideoFrame.from_ndarray(picture(0, 640, 480), format="rgb24").reformat(format="yuvj420p")
            still.pts = 0
            out.mux([*art.encode(still), *art.encode(None)])
        for i in range(frames):
            image = picture(i, width, height)
            if alpha:
                opacity = np.where(image[..., :1] > 200, 255, 0).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(np.concatenate([image, opacity], -1), format="rgba")
                frame = frame.reformat(format=pixels)
            else:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            if times:
                frame.pts, frame.time_base = times(i), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            for i in range(int(audio_seconds * 16000 / 1024)):
                tone = np.sin(np.arange(1024) / 10 + i).astype(np.float32)[None] * 0.2
                block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                block.sample_rate, block.pts = 16000, i * 1024
                out.mux(sound.encode(block))
            out.mux(sound.encode(None))


def only_audio(path: Path) -> None:
    with av.open(os.fspath(path), "w") as out:
        sound = out.add_stream("aac", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate, block.pts = 16000, 0
        out.mux([*sound.encode(block), *sound.encode(None)])


def flipped(data: bytes, start: float, end: float, every: int = 37) -> bytes:
    """Bytes between two shares of the file changed: corrupt packets whose container is sound."""
    changed = bytearray(data)
    for at in range(int(len(data) * start), int(len(data) * end), every):
        changed[at] ^= 0xA5
    return bytes(changed)


def giant_avi(path: Path) -> None:
    """An uncompressed AVI of 60,000 x 60,000, by its header."""
    write(path, codec="rawvideo", pixels="bgr24", width=16, height=16, frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 8
    struct.pack_into("<ii", data, at + 4, 60000, 60000)
    struct.pack_into("<I", data, at + 20, 0)
    main = data.index(b"avih") + 8
    struct.pack_into("<II", data, main + 32, 60000, 60000)
    path.write_bytes(data)


def giant_mp4(path: Path) -> None:
    """An MPEG-4 part 2 file in MP4 whose sample entry and whose stream header promise what the pictures do not have."""
    write(path, width=160, height=120)
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 4
    struct.pack_into(">HH", data, at + 24, 60000, 60000)
    path.write_bytes(data)


MOOV_FIRST = {"movflags": "faststart"}
X264 = {"g": "10", "preset": "veryfast"}


def cases(folder: Path) -> Iterator[tuple[str, Expectation]]:
    """Makes one file after the other and says what each must become."""

    def sound(name: str, expect: Expectation = Expectation(), **how) -> tuple[str, Expectation]:
        write(folder / name, **how)
        return name, expect

    failed = lambda says: Expectation("failed", says, 0)  # noqa: E731
    good = folder / ".good.mp4"
    write(good, options=X264, container_options=MOOV_FIRST, frames=200)
    data = good.read_bytes()
    good.unlink()

    # --- no video at all
    (folder / "empty.mp4").write_bytes(b"")
    yield "empty.mp4", failed("empty")
    (folder / "text.mp4").write_text("This is a note about a video, not a video.\n" * 50)
    yield "text.mp4", failed("text")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    yield "noise.mp4", failed("not a video")
    only_audio(folder / "only_audio.mp4")
    yield "only_audio.mp4", failed("no video stream")
    (folder / "folder.mp4").mkdir(exist_ok=True)
    yield "folder.mp4", failed("folder")
    link = folder / "dangling.mp4"
    if not link.is_symlink():
        link.symlink_to("nowhere.mp4")
    yield "dangling.mp4", failed("link")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2,\nrotated_90.mp4\n#EXT-X-ENDLIST\n")
    yield "playlist.mp4", failed("")

    # --- damaged
    (folder / "no_moov.mp4").write_bytes(plain_mp4(folder)[: len(plain_mp4(folder)) * 6 // 10])
    yield "no_moov.mp4", failed("cut short")
    (folder / "truncated.mp4").write_bytes(data[: len(data) * 6 // 10])
    yield "truncated.mp4", Expectation(says="cut short", frames=None)
    (folder / "truncated_header.mp4").write_bytes(data[:600])
    yield "truncated_header.mp4", failed("")
    (folder / "no_frames.mp4").write_bytes(data[: data.index(b"mdat") + 8])
    yield "no_frames.mp4", failed("frame")
    (folder / "corrupt_middle.mp4").write_bytes(flipped(data, 0.5, 0.65))
    yield "corrupt_middle.mp4", Expectation(says="damaged", frames=None)
    write(folder / ".whole.mkv", options=X264, frames=200)
    whole = (folder / ".whole.mkv").read_bytes()
    (folder / ".whole.mkv").unlink()
    (folder / "truncated.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    yield "truncated.mkv", Expectation(says="cut short", frames=None)
    giant_avi(folder / "giant.avi")
    yield "giant.avi", failed("size")
    giant_mp4(folder / "giant_claim.mp4")
    yield "giant_claim.mp4", Expectation()

    # --- odd, but sound
    yield sound("one_frame.mp4", Expectation(frames=1), frames=1)
    yield sound(
        "odd_size.mkv", Expectation(facts=(("width", 97), ("height", 53))), width=97, height=53, pixels="yuv444p"
    )
    yield sound("odd_size_420.avi", codec="mpeg4", width=97, height=53)
    yield sound("tiny.mp4", width=16, height=16)
    yield sound("rotated_90.mp4", Expectation(facts=(("width", 120), ("height", 160), ("rotation", 90))), rotation=90)
    yield sound(
        "rotated_180.mp4", Expectation(facts=(("width", 160), ("height", 120), ("rotation", 180))), rotation=180
    )
    yield sound(
        "variable_rate.mkv",
        Expectation(says="the header says 25 frames a second", facts=(("variable_frame_rate", True),)),
        times=lambda i: i * 40 + (i // 10) * 300 + (i % 3) * 11,
    )
    yield sound("ten_bit.mp4", Expectation(facts=(("pixel_format", "yuv420p10le"),)), pixels="yuv420p10le")
    yield sound("wide_chroma.mov", pixels="yuv422p")
    yield sound(
        "interlaced.mp4",
        Expectation(facts=(("interlaced", True),)),
        options={"flags": "+ilme+ildct", "x264-params": "tff=1:bframes=0"},
    )
    yield sound("vp9.webm", codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"})
    yield sound("vp8.webm", codec="libvpx", options={"cpu-used": "8", "deadline": "realtime"})
    yield sound("av1.mp4", codec="libsvtav1", options={"preset": "12"})
    yield sound("hevc.mp4", codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"})
    yield sound("mpeg4.avi", codec="mpeg4")
    yield sound("mpeg4.mp4", codec="mpeg4")
    yield sound("mjpeg.avi", codec="mjpeg", pixels="yuvj420p")
    yield sound("mpeg2.ts", codec="mpeg2video")
    yield sound("h264.ts", options=X264)
    yield sound("h264.mov", options=X264)
    yield sound("animation.gif", codec="gif", pixels="rgb8")
    yield sound("transparent.gif", codec="gif", pixels="rgb8", alpha=True)
    yield sound("rgb.mov", codec="png", pixels="rgb24")
    yield sound("raw.avi", codec="rawvideo", pixels="bgr24")
    yield sound("audio_longer.mp4", audio_seconds=6.0)
    yield sound("starts_late.mkv", times=lambda i: 5000 + i * 40)
    yield sound(
        "starts_negative.mkv",
        Expectation(says="no time"),
        times=lambda i: i * 40 - 400,
        container_options={"avoid_negative_ts": "disabled"},
    )
    yield sound("cover_picture.mp4", Expectation(facts=(("width", 160),)), cover=True)
    write(folder / "no_times.h264", options=X264, form="h264")
    yield "no_times.h264", Expectation(says="no time")
    first, second = folder / ".a.ts", folder / ".b.ts"
    write(first, options=X264)
    write(second, options=X264)
    (folder / "times_go_back.ts").write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    second.unlink()
    yield "times_go_back.ts", Expectation(says="the file's clock steps back at 2.08 s", frames=2 * FRAMES)

    # --- names
    for name in (
        "with space.mp4",
        'quote\'s "both".mp4',
        "two\nlines.mp4",
        "視頻 видео.mp4",
        "-dash.mp4",
        "http:host.mp4",
    ):
        yield sound(name)
    yield sound(os.fsdecode(b"bytes \xff\xfe.mp4"))
    yield sound("copy_one.mp4", width=128, height=96)
    (folder / "copy_two.mp4").write_bytes((folder / "copy_one.mp4").read_bytes())
    yield "copy_two.mp4", Expectation()


def plain_mp4(folder: Path) -> bytes:
    path = folder / ".plain.mp4"
    write(path, options=X264, frames=200)
    data = path.read_bytes()
    path.unlink()
    return data


def make_bad_inputs(folder: str | os.PathLike[str]) -> dict[str, Expectation]:
    """Make the folder; file name -> what it must become."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    return dict(cases(place))


def main() -> None:
    from curate.clip import Video
    from curate.video.decode import printable
    from curate.watching.isolation import Isolated

    folder = Path(sys.argv[1])
    child = Isolated(timeout=120, memory_gb=2)
    print("| file | status | frames | reason or warning |\n|---|---|---|---|")
    for name in make_bad_inputs(folder):
        for unit in child.plan(Video(str(folder / name))):
            if unit.status == "ok":
                unit = child.watch(unit, **PASS)
            said = unit.error or "; ".join(unit.warnings)
            print(
                f"| `{printable(name)}` | {unit.status} | {unit.facts.get('frames_decoded') or 0} | {said} |",
                flush=True,
            )
    child.close()


PASS = {
    "observers": {
        "shots": {"detector": "cascade", "min_seconds": 0.03, "max_seconds": 10.0},
        "motion": {"fps": 2.0, "size": 96},
        "stills": {"size": 360},
    },
    "decode": {},
}

if __name__ == "__main__":
    main()
