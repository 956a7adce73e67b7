"""Clips cut out of sources of every kind: the bytes show exactly the frames that the record says."""

import io
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from curate.export.extract import Extracted, ExtractError, Span, extract
from curate.export.span import Origin

W, H = 96, 64


def picture(i, width=W, height=H):
    """A frame that no other frame looks like: a coarse pattern of its own."""
    cells = np.random.default_rng(i).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.kron(cells, np.ones((16, 16, 1), np.uint8))[:height, :width]


def encode(
    path, n=60, codec="libx264", rate=25, options=None, pix="yuv420p", size=(W, H), pts=None, form=None, **set_on
):
    """A video of n pictures. pts: frame -> presentation time in 1/1000 s. set_on: attributes of the stream's
    encoder."""
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix
        if rotation := set_on.pop("rotation", 0):
            stream.set_display_rotation(rotation)
        for name, value in set_on.items():
            setattr(stream.codec_context, name, value)
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            if pix in ("rgb8", "bgr8"):
                frame = frame.reformat(format=pix)
            if pts:
                frame.pts, frame.time_base = pts(i), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return str(path)


def decode(source):
    """(frames as RGB arrays as displayed, presentation times)."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
        rate, frames, times = container.streams.video[0].average_rate, [], []
        for frame in container.decode(video=0):
            time = float(frame.pts * frame.time_base)
            times.append(
                time if not times or time > times[-1] else times[-1] + float(1 / rate)
            )  # as curate.video.decode repairs it
            frames.append(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
        return frames, times


def span(times, start, end, counted=False):
    ends = [*times[1:], times[-1] + (times[-1] - times[-2])]
    return Span(start, end, times[start], ends[end - 1], Origin() if counted else None)


def check(path, cut: Extracted, exact=True, least=25):
    """The bytes decode to exactly source frames [start_frame, end_frame), at their times; for a transcode, nearly."""
    source, times = decode(path)
    shown, shown_times = decode(cut.bytes)
    assert len(shown) == cut.num_frames == cut.end_frame - cut.start_frame
    assert cut.start_time == pytest.approx(times[cut.start_frame], abs=1e-6)
    assert shown_times[0] == 0
    expected = np.array(times[cut.start_frame : cut.end_frame]) - times[cut.start_frame]
    np.testing.assert_allclose(shown_times, expected, atol=1.1e-3)
    assert shown[0].shape[:2] == (cut.height, cut.width)
    with av.open(io.BytesIO(cut.bytes)) as made:
        stream = made.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(cut.end_time - cut.start_time, abs=3e-3)
    for mine, theirs in zip(shown, source[cut.start_frame : cut.end_frame], strict=True):
        if exact:
            np.testing.assert_array_equal(mine, theirs)
        else:
            theirs = theirs[: mine.shape[0], : mine.shape[1]]
            error = np.mean((mine.astype(float) - theirs) ** 2)
            assert 10 * np.log10(255**2 / max(error, 1e-9)) > least  # dB; another frame gives 8
    return cut


CLOSED = {"g": "12", "bf": "3", "x264-params": "scenecut=0:open-gop=0:b-pyramid=normal"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("x") / "closed.mp4", options=CLOSED)


@pytest.mark.parametrize(("start", "end"), [(12, 36), (11, 48), (23, 48), (0, 60), (34, 60), (48, 60)])
def test_a_copy_holds_no_frame_from_outside_and_loses_a_tenth_at_most(closed, start, end):
    times = decode(closed)[1]
    cut = check(closed, extract(closed, span(times, start, end)))
    keyframe = -(-start // 12) * 12
    assert (cut.how, cut.codec, cut.start_frame) == ("copy", "h264", keyframe)
    assert cut.end_frame <= end and cut.num_frames >= 0.9 * (end - start)


@pytest.mark.parametrize(("start", "end"), [(14, 41), (1, 59), (7, 26), (13, 23), (18, 40), (30, 60)])
def test_where_a_copy_would_lose_more_the_clip_is_transcoded_whole(closed, start, end):
    times = decode(closed)[1]
    cut = check(closed, extract(closed, span(times, start, end)), exact=False)
    assert (cut.how, cut.start_frame, cut.end_frame, cut.num_frames) == ("transcode", start, end, end - start)
    assert "keyframe" in cut.why


def test_the_end_of_a_copy_counts_as_loss_too(tmp_path):
    """I B B B P B B B P: frames 17 and 18 need frame 20, which is not of the clip."""
    options = {"g": "12", "bf": "3", "x264-params": "scenecut=0:open-gop=0:b-adapt=0:b-pyramid=none"}
    path = encode(tmp_path / "b.mp4", options=options)
    times = decode(path)[1]
    short = check(path, extract(path, span(times, 12, 19), trim=0.9))
    assert (short.how, short.start_frame, short.end_frame) == ("copy", 12, 17)
    cut = check(path, extract(path, span(times, 12, 19)), exact=False)
    assert (cut.how, cut.num_frames) == ("transcode", 7)


def test_how_much_a_copy_may_lose_is_the_callers(closed):
    times = decode(closed)[1]
    cut = check(closed, extract(closed, span(times, 18, 60), trim=0.2))
    assert (cut.how, cut.start_frame, cut.end_frame) == ("copy", 24, 60)
    assert extract(closed, span(times, 18, 60), trim=0.1).how == "transcode"
    assert extract(closed, span(times, 11, 60), trim=0.0).how == "transcode"
    assert extract(closed, span(times, 12, 60), trim=0.0).how == "copy"


def test_no_snap_is_the_very_frames(closed):
    times = decode(closed)[1]
    cut = check(closed, extract(closed, span(times, 12, 30), snap=False), exact=False)
    assert (cut.how, cut.start_frame, cut.end_frame) == ("transcode", 12, 30)


def test_known_keyframes_save_the_look(closed):
    times = decode(closed)[1]
    assert extract(closed, span(times, 11, 40), [0.0, times[12], times[24]]).how == "copy"
    assert extract(closed, span(times, 11, 40), [0.0]).why == "no keyframe near the clip's start"


def test_one_keyframe_only(tmp_path):
    path = encode(tmp_path / "long.mp4", options={"g": "1000", "x264-params": "scenecut=0"})
    times = decode(path)[1]
    assert check(path, extract(path, span(times, 0, 30))).how == "copy"
    cut = check(path, extract(path, span(times, 35, 50)), exact=False)
    assert (cut.how, cut.start_frame, cut.end_frame) == ("transcode", 35, 50)


def test_open_gop(tmp_path):
    """Keyframes of an open GOP have leading pictures that need the GOP before: only the first of the file can start."""
    path = encode(
        tmp_path / "open.mp4", options={"g": "12", "bf": "3", "x264-params": "scenecut=0:open-gop=1:b-adapt=0"}
    )
    times = decode(path)[1]
    assert check(path, extract(path, span(times, 0, 40))).how == "copy"
    cut = check(path, extract(path, span(times, 24, 50)), exact=False)
    assert cut.how == "transcode"


def test_intra_pictures_that_are_not_idr(tmp_path):
    """Flagged as keyframes, without leading pictures, and yet what follows may look behind them."""
    path = encode(tmp_path / "refresh.mp4", options={"bf": "0", "g": "20", "x264-params": "scenecut=0:intra-refresh=1"})
    times = decode(path)[1]
    cut = check(path, extract(path, span(times, 22, 50), trim=0.9), exact=False)
    assert (cut.how, cut.why) == ("transcode", "no keyframe near the clip's start")


COPY, MIXED, TRANSCODE = ("copy",) * 3, ("transcode", "transcode", "copy"), ("transcode",) * 3
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "how"),
    [
        ("a.webm", "libvpx-vp9", VP9, COPY),
        ("a.mp4", "libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "irefresh-type=2"}, COPY),
        ("b.mp4", "mpeg4", {"g": "12", "bf": "2", "q:v": "3"}, MIXED),
        ("a.avi", "mpeg4", {"g": "12", "q:v": "3"}, COPY),
        ("a.ts", "libx264", CLOSED, COPY),
        ("a.mkv", "libx264", CLOSED, COPY),
        ("a.mov", "libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0:log-level=none"}, COPY),
        ("b.mov", "libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:log-level=none"}, MIXED),
        ("a.mpg", "mpeg2video", {"g": "12", "q:v": "2"}, TRANSCODE),
        ("a.mkv", "ffv1", {}, TRANSCODE),
    ],
)  # fmt: skip
def test_codecs_and_containers(tmp_path, name, codec, options, how):
    path = encode(tmp_path / name, codec=codec, options=options)
    times = decode(path)[1]
    for (start, end), expected in zip(((12, 48), (24, 60), (0, 36)), how, strict=True):
        cut = extract(path, span(times, start, end, counted=name == "a.mpg"))
        check(path, cut, exact=expected == "copy")
        assert cut.how == expected, cut.why
        if expected == "transcode":
            assert (cut.start_frame, cut.end_frame) == (start, end)


def test_gif(tmp_path):
    path = encode(tmp_path / "a.gif", codec="gif", pix="rgb8", n=20, rate=10)
    times = decode(path)[1]
    cut = check(
        path, extract(path, span(times, 5, 15)), exact=False, least=20
    )  # its dithering has colours finer than 4:2:0
    assert (cut.how, cut.num_frames, cut.fps) == ("transcode", 10, pytest.approx(10))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation(tmp_path, rotation):
    path = encode(tmp_path / "turned.mp4", options=CLOSED, rotation=rotation)
    times = decode(path)[1]
    shape = (W, H) if rotation == 180 else (H, W)
    cut = check(path, extract(path, span(times, 12, 36)))
    assert (cut.how, (cut.width, cut.height)) == ("copy", shape)
    cut = check(path, extract(path, span(times, 12, 30), snap=False), exact=False)
    assert (cut.width, cut.height) == shape
    with av.open(io.BytesIO(cut.bytes)) as made:
        assert next(made.decode(video=0)).rotation == 0  # baked in


def test_variable_frame_rate_keeps_its_times(tmp_path):
    path = encode(tmp_path / "vfr.mp4", options=CLOSED, pts=lambda i: 40 * i + (300 if i > 20 else 0) + (i % 3) * 7)
    times = decode(path)[1]
    assert check(path, extract(path, span(times, 12, 45))).how == "copy"
    assert check(path, extract(path, span(times, 15, 45), snap=False), exact=False).how == "transcode"


def test_first_time_is_not_zero(tmp_path):
    path = encode(tmp_path / "late.mkv", options=CLOSED, pts=lambda i: 5000 + 40 * i)
    times = decode(path)[1]
    assert times[0] == pytest.approx(5.0)
    assert check(path, extract(path, span(times, 12, 40))).how == "copy"
    assert check(path, extract(path, span(times, 14, 40), snap=False), exact=False).start_time == pytest.approx(5.56)


def test_odd_sizes_lose_a_column_or_row_only_when_transcoded(tmp_path):
    path = encode(tmp_path / "odd.mp4", options=CLOSED, size=(97, 65), pix="yuv444p")
    times = decode(path)[1]
    assert check(path, extract(path, span(times, 12, 30))).width == 97
    cut = check(path, extract(path, span(times, 12, 30), snap=False), exact=False)
    assert (cut.width, cut.height) == (96, 64)


def test_ten_bit_becomes_eight(tmp_path):
    path = encode(tmp_path / "ten.mp4", options=CLOSED, pix="yuv420p10le")
    times = decode(path)[1]
    assert check(path, extract(path, span(times, 12, 30))).how == "copy"
    check(path, extract(path, span(times, 13, 30), snap=False), exact=False)


def test_sample_aspect_ratio(tmp_path):
    path = encode(tmp_path / "wide.mp4", options=CLOSED, sample_aspect_ratio=Fraction(2, 1))
    times = decode(path)[1]
    for options in ({}, {"snap": False}):
        cut = extract(path, span(times, 12, 30), **options)
        assert (cut.width, cut.height) == (2 * W, H)
    cut = extract(path, span(times, 12, 30), size=32)
    assert (cut.width, cut.height) == (96, 32)
    assert decode(cut.bytes)[0][0].shape == (32, 96, 3)


def test_size_and_frame_rate(closed):
    times = decode(closed)[1]
    cut = extract(closed, span(times, 10, 35), size=32, fps=10)
    frames, shown = decode(cut.bytes)
    assert (cut.width, cut.height, cut.fps, cut.how) == (48, 32, 10.0, "transcode")
    assert len(frames) == cut.num_frames == 10  # 1 s of 25 frames per second
    np.testing.assert_allclose(shown, np.arange(10) / 10, atol=1e-4)
    assert (cut.start_frame, cut.end_frame) == (10, 35)
    assert extract(closed, span(times, 10, 35), size=500).height == H  # never enlarged
    assert extract(closed, span(times, 10, 35), fps=50).num_frames == 50


def test_same_bytes_every_time(closed):
    times = decode(closed)[1]
    for options in ({}, {"snap": False}):
        assert extract(closed, span(times, 14, 40), **options) == extract(closed, span(times, 14, 40), **options)


def test_damage_costs_the_clips_that_it_is_in(closed, tmp_path):
    times = decode(closed)[1]
    broken = tmp_path / "broken.mp4"
    shutil.copy(closed, broken)
    with open(broken, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(bytes(2000))
    for snap in (True, False):
        with pytest.raises(ExtractError, match=r"broken\.mp4: frames 14 to 50 cannot be cut: [^\n]+$"):
            extract(str(broken), span(times, 14, 50), snap=snap)
    whole, beside = extract(closed, span(times, 0, 12)), extract(str(broken), span(times, 0, 12))
    assert beside == whole and beside.how == "copy"


def test_the_limit_on_pictures_is_the_callers(closed):
    times = decode(closed)[1]
    for snap, how in ((True, "copy"), (False, "transcode")):
        assert extract(closed, span(times, 12, 36), snap=snap, max_pixels=2 * W * H).how == how
        with pytest.raises(ExtractError, match=f"more than decode[.]max_pixels = {W * H - 1}"):
            extract(closed, span(times, 12, 30), snap=snap, max_pixels=W * H - 1)


def test_errors_are_plain(tmp_path):
    where = Span(0, 10, 0.0, 0.4)
    with pytest.raises(ExtractError, match="no such file"):
        extract(str(tmp_path / "none.mp4"), where)
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ExtractError, match="text"):
        extract(str(tmp_path / "text.mp4"), where)
    path = encode(tmp_path / "short.mp4", n=5)
    with pytest.raises(ExtractError, match="5 of 10 frames"):
        extract(path, where)
