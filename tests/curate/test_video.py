"""What a file is, how it is cut into units, and that each frame is decoded once: files with known answers."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curate.clip import Unit, Video
from curate.video.decode import VideoError, frames, open_video, probe
from curate.video.frame import Frame
from curate.video.identity import fingerprint
from curate.video.units import plan
from tests.bad_inputs import write

GREYS = [20 + 4 * i for i in range(50)]


def grey_film(path: Path, form: str = "mp4", *, options=None, start: int = 0) -> Path:
    """50 frames at 25 fps, frame i of one grey level: 20 + 4 i."""
    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "10", "g": "10", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for i, level in enumerate(GREYS):
            frame = av.VideoFrame.from_ndarray(np.full((90, 160, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i + start, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def unit(path) -> Unit:
    return Unit(Video(os.fspath(path)))


def test_probe_says_what_the_file_is(tmp_path):
    write(tmp_path / "a.mp4", rotation=90, audio_seconds=1)
    facts = probe(str(tmp_path / "a.mp4"))
    assert (facts["width"], facts["height"], facts["rotation"]) == (120, 160, 90)
    assert (facts["fps"], facts["codec"], facts["pixel_format"]) == (25.0, "h264", "yuv420p")
    assert facts["duration"] == pytest.approx(2.0) and facts["frames_in_file"] == 50
    assert facts["has_audio"] and not facts["interlaced"]
    assert facts["bytes"] == (tmp_path / "a.mp4").stat().st_size


def test_every_frame_once_in_order_with_its_time_and_keyframes(tmp_path):
    reader = frames(unit(grey_film(tmp_path / "a.mp4")))
    seen = [(f.index, f.time, round(float(f.thumb.mean())), f.key) for f in reader]
    assert [s[0] for s in seen] == list(range(50))
    assert [s[1] for s in seen] == pytest.approx([i / 25 for i in range(50)])
    assert [s[2] for s in seen] == pytest.approx(GREYS, abs=3)
    assert [i for i, s in enumerate(seen) if s[3]] == [0, 10, 20, 30, 40]
    assert reader.keyframes == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert reader.decoded == reader.packets == 50 and reader.warnings() == []
    assert reader.end_time == pytest.approx(2.0)


def test_times_are_those_of_the_file_also_when_it_starts_late(tmp_path):
    reader = frames(unit(grey_film(tmp_path / "a.mkv", start=125)))
    times = [f.time for f in reader]
    assert times == pytest.approx([5 + i / 25 for i in range(50)], abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("gop", ["closed", "open"])
def test_units_of_a_long_file_join_without_a_gap(tmp_path, name, gop):
    options = {"bf": "3", "x264-params": f"open-gop={int(gop == 'open')}:scenecut=0"}
    path = grey_film(tmp_path / name, options=options)
    whole = [(f.index, f.time, round(float(f.thumb.mean()))) for f in frames(unit(path))]
    units = plan(Video(str(path)), unit_seconds=0.5)
    assert len(units) >= 3 and units[0].start is None and units[-1].end is None
    assert [u.start for u in units[1:]] == [u.end for u in units[:-1]]
    joined, decoded, packets = [], 0, 0
    for part in units:
        reader = frames(part)
        joined += [(f.index, f.time, round(float(f.thumb.mean()))) for f in reader]
        decoded, packets = decoded + reader.decoded, packets + reader.packets
    assert joined == whole
    assert packets == 50
    assert 50 <= decoded <= 50 + (0 if gop == "closed" else len(units) - 1)


def test_a_short_file_is_one_unit_and_a_bad_one_a_failed_unit(tmp_path):
    path = grey_film(tmp_path / "a.mp4")
    (only,) = plan(Video(str(path)))
    assert (only.index, only.count, only.start, only.end, only.facts["first_frame"]) == (0, 1, None, None, 0)
    (bad,) = plan(Video(str(tmp_path / "none.mp4")))
    assert bad.status == "failed" and bad.error == "there is no such file"


def test_an_error_names_the_file_and_the_reason(tmp_path):
    (tmp_path / "x\ny.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"x\\ny.mp4: is empty"):
        probe(str(tmp_path / "x\ny.mp4"))


def test_pictures_larger_than_allowed_are_not_opened(tmp_path):
    path = grey_film(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="max_pixels"):
        probe(str(path), max_pixels=100 * 100)


def test_fingerprint_is_of_the_content(tmp_path):
    one, two, big, changed = (tmp_path / name for name in "abcd")
    one.write_bytes(b"x" * 1000)
    two.write_bytes(b"x" * 1000)
    data = np.random.default_rng(0).bytes(6_000_000)
    big.write_bytes(data)
    changed.write_bytes(data[:-10] + b"0123456789")
    assert fingerprint(one) == fingerprint(two) and len(fingerprint(one)) == 32
    assert len({fingerprint(p) for p in (one, big, changed)}) == 3
    with pytest.raises(OSError):
        fingerprint(tmp_path / "none")


@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "rgb24", "nv12", "bgra", "yuv410p"]
)
@pytest.mark.parametrize("size", [(640, 360), (97, 53), (16, 16), (120, 400)])
def test_views_agree_with_a_full_conversion(pixels, size):
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([60 + 120 * x / width, 200 - 100 * y / height, 100 + 80 * x / width * y / height], -1)
    source = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24").reformat(format=pixels)
    frame = Frame(source, 0, 0.0, grey=48, picture=90)
    want = image if pixels != "gray" else np.repeat((image @ [0.299, 0.587, 0.114])[..., None], 3, 2)
    import cv2

    small = cv2.resize(want.astype(np.float32), (48, 27), interpolation=cv2.INTER_AREA)
    assert frame.thumb.shape == (27, 48, 3) and np.abs(frame.thumb - small).mean() < 6
    picture = frame.picture()
    assert picture.dtype == np.uint8 and min(picture.shape[:2]) == min(90, *size)
    full = cv2.resize(want.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(picture - full).mean() < 6
    assert frame.grey.ndim == 2 and 16 <= min(frame.grey.shape) <= 96


def test_views_are_as_displayed(tmp_path):
    write(tmp_path / "up.mp4", options={"crf": "5"})
    write(tmp_path / "turned.mp4", options={"crf": "5"}, rotation=90)
    upright, turned = (next(iter(frames(unit(tmp_path / name)))) for name in ("up.mp4", "turned.mp4"))
    assert (turned.width, turned.height) == (120, 160) and turned.picture().shape == (160, 120, 3)
    assert np.abs(turned.picture().astype(int) - np.rot90(upright.picture()).astype(int)).mean() < 1
    assert turned.grey.shape == upright.grey.shape[::-1] and turned.thumb.shape == (27, 48, 3)


def test_sample_aspect_ratio_widens_the_picture(tmp_path):
    write(tmp_path / "a.mp4", options={"aspect": "8:3"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        ratio = container.streams.video[0].sample_aspect_ratio
    facts = probe(str(tmp_path / "a.mp4"))
    assert facts["width"] == round(160 * (ratio or 1)) and facts["height"] == 120


def test_the_loop_filter_is_left_out_only_where_stills_are_half_the_size(tmp_path):
    write(tmp_path / "a.mp4", width=640, height=360, frames=12, options={"crf": "30"})
    asked = {how: list(frames(unit(tmp_path / "a.mp4"), picture=90, loop_filter=how)) for how in ("auto", "all")}
    for one, other in zip(asked["auto"], asked["all"], strict=True):
        assert np.abs(one.picture().astype(int) - other.picture().astype(int)).mean() < 1.0
    exact = list(frames(unit(tmp_path / "a.mp4"), picture=360))
    assert np.array_equal(exact[5].picture(), list(frames(unit(tmp_path / "a.mp4"), loop_filter="all"))[5].picture())


def test_a_seek_that_goes_too_far_is_made_good(tmp_path, monkeypatch):
    path = grey_film(tmp_path / "a.ts")
    units = plan(Video(str(path)), unit_seconds=0.5)
    want = [(f.index, f.time) for f in frames(units[1])]
    seeks = []

    class Astray:
        """A container whose seeks land far behind the place asked for."""

        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def seek(self, offset, **how):
            seeks.append(offset)
            self.inner.seek(int(1.6 / how["stream"].time_base), **how)

    def opened(*arguments, **options):
        container, stream = open_video(*arguments, **options)
        return Astray(container), stream

    monkeypatch.setattr("curate.video.decode.open_video", opened)
    assert [(f.index, f.time) for f in frames(units[1])] == want
    assert len(seeks) == 1


def test_of_several_video_streams_the_default_or_the_first_is_read(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(os.fspath(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (64, 128), strict=True):
            stream.width = stream.height = side
        for stream, side in zip(streams, (64, 128), strict=True):
            for packet in [*stream.encode(av.VideoFrame(side, side, "yuv420p")), *stream.encode(None)]:
                out.mux(packet)
    assert probe(str(path))["width"] == 64
