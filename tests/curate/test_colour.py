"""Known colours through every tagging; HDR by the formula of BT.2390; fields, transparency, and what a transcode says."""

import io
import math
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from curate.base import colour as colours
from curate.base import pixels, tone
from curate.export.extract import Span, extract
from curate.video.frame import Frame
from video_model.data.decoding import Job, decode

PATCHES = np.array([[192, 48, 96], [48, 176, 80], [40, 60, 200], [230, 230, 230], [16, 16, 16], [200, 180, 30]])
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
UNTAGGED = 2


def bars(height: int = 96, width: int = 192) -> np.ndarray:
    """[height, width, 3] uint8: the patches beside each other."""
    return np.repeat(np.repeat(PATCHES[None], height, 0), width // 6, 1).astype(np.uint8)


def as_yuv(rgb: np.ndarray, matrix: int, full: bool, bits: int = 8) -> list[np.ndarray]:
    """Y, Cb, Cr of R'G'B' 0..255 by the definition (BT.601, BT.709, BT.2020), rounded."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = (rgb[..., i] / 255 for i in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    top = 1 << (bits - 8)
    scale = (255, 255, 0) if full else (219, 224, 16)
    planes = [y * scale[0] + scale[2], cb * scale[1] + 128, cr * scale[1] + 128]
    return [np.rint(plane * top).astype(np.uint8 if bits == 8 else np.uint16) for plane in planes]


def framed(planes: list[np.ndarray], form: str, matrix: int = UNTAGGED, span: int = 0, transfer: int = 2, primaries=2):
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, form)
    for plane, values in zip(frame.planes, planes, strict=True):
        raw = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
        raw[:, : plane.width] = values
    frame.colorspace, frame.color_range = matrix, span
    frame.color_trc, frame.color_primaries = transfer, primaries
    return frame


def means(picture: np.ndarray) -> np.ndarray:
    """[6, 3]: the middle of each patch."""
    width = picture.shape[1] / 6
    return np.array([picture[:, round((i + 0.25) * width) : round((i + 0.75) * width)].mean((0, 1)) for i in range(6)])


def coded(frames, codec="ffv1", form="matroska", options=None) -> bytes:
    """The frames in a file of that codec, with the first one's tags."""
    sink, first = io.BytesIO(), frames[0]
    with av.open(sink, "w", format=form) as out:
        stream = out.add_stream(codec, rate=12, options=options or {})
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        for tag in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(stream.codec_context, tag, getattr(first, tag))
        for i, frame in enumerate(frames):
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


def cut(tmp_path, data: bytes, count: int, **how):
    path = tmp_path / "source.mkv"
    path.write_bytes(data)
    return extract(str(path), Span(0, count, 0.0, count / 12), snap=False, **how)


def decoded(data: bytes) -> list:
    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(video=0))


# --- the rule


@pytest.mark.parametrize(
    ("form", "matrix", "span", "height", "read_as", "full"),
    [
        ("yuv444p", 1, 1, 96, 1, False),
        ("yuv444p", 5, 1, 720, 5, False),  # a tag counts, whatever the size
        ("yuv444p", 6, 2, 96, 6, True),
        ("yuv444p", 7, 1, 96, 7, False),
        ("yuv444p", 9, 1, 96, 9, False),
        ("yuv444p", UNTAGGED, 0, 96, 6, False),
        ("yuv444p", UNTAGGED, 0, 720, 1, False),
        ("yuvj444p", UNTAGGED, 0, 96, 6, True),
        ("yuv444p10le", 9, 1, 96, 9, False),
        ("yuv444p12le", UNTAGGED, 2, 720, 1, True),
    ],
)
def test_known_colours_come_back_through_every_tagging(form, matrix, span, height, read_as, full):
    bits = int(form[7:9]) if form.endswith("le") else 8
    frame = framed(as_yuv(bars(height), read_as, full, bits), form, matrix, span)
    for size in ((192, height), (96, 48)):
        assert np.abs(means(pixels.rgb(frame, *size)) - PATCHES).max() <= 2
    shown = Frame(frame, 0, 0.0, picture=48)
    for picture in (shown.picture(), shown.reduced().rgb(), shown.thumb):
        assert np.abs(means(picture) - PATCHES).max() <= 3


@pytest.mark.parametrize("form", ["rgb24", "gbrp", "bgr0", "rgb48le", "gbrp10le"])
def test_rgb_has_no_matrix(form):
    frame = av.VideoFrame.from_ndarray(bars(720), format="rgb24").reformat(format=form)
    frame.colorspace, frame.color_range = 1, 1  # nonsense for RGB, and met in files
    assert np.abs(means(pixels.rgb(frame, 96, 48)) - PATCHES).max() <= 1
    assert np.abs(means(Frame(frame, 0, 0.0).thumb) - PATCHES).max() <= 2


def test_grey_is_full_range_as_ffmpeg_reads_it():
    frame = framed([np.full((64, 64), 100, np.uint8)], "gray")
    assert np.abs(pixels.rgb(frame, 64, 64).astype(int) - 100).max() <= 1
    assert np.abs(Frame(frame, 0, 0.0).thumb.astype(int) - 100).max() <= 1


def test_what_the_tags_say_in_ffmpegs_names():
    planes = as_yuv(bars(), 9, False, 10)
    assert colours.describe(framed(planes, "yuv444p10le", 9, 1, 16, 9)) == {
        "transfer": "smpte2084", "primaries": "bt2020", "matrix": "bt2020nc", "range": "tv", "bit_depth": 10,
        "hdr": True,
    }  # fmt: skip
    tags = colours.describe(framed(as_yuv(bars(), 6, False), "yuv444p"))
    assert tags == {
        "transfer": None, "primaries": None, "matrix": None, "range": None, "bit_depth": 8, "hdr": False,
    }  # fmt: skip


def test_reducing_averages_areas_without_darkening():
    """640 x 360 to 128 x 72 against exact means over 5 x 5 of the exact colours: below a level, and no bias."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(128, 30, (72, 1, 128, 1, 3)) + rng.normal(0, 25, (72, 5, 128, 5, 3)), 20, 235)
    image = image.reshape(360, 640, 3)
    frame = framed(as_yuv(image, 6, False), "yuv444p")
    exact = image.reshape(72, 5, 128, 5, 3).mean((1, 3))
    reader = decode(Job("video", (0,), (72, 128), coded([frame])))[0]
    given = io.BytesIO()
    from PIL import Image

    Image.fromarray(np.rint(image).astype(np.uint8)).save(given, "PNG")
    still = Frame(frame, 0, 0.0, picture=72)
    for picture in (reader, decode(Job("image", (0,), (72, 128), given.getvalue()))[0], still.reduced().rgb()):
        error = picture - exact
        assert np.abs(error).mean() < 1.0 and abs(error.mean()) < 0.1


# --- HDR


def bt2390(nits: float) -> float:
    """8-bit level of a grey of that many cd/m2, written anew from ST 2084, BT.2390 (5.4.1) and BT.1886."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875

    def pq(light):
        power = (light / 10000) ** m1
        return ((c1 + c2 * power) / (1 + c3 * power)) ** m2

    def inverse(code):
        root = code ** (1 / m2)
        return 10000 * (max(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)

    top = pq(1000)
    source, most = min(pq(nits) / top, 1), pq(203) / top
    knee = 1.5 * most - 0.5
    if source > knee:
        t = (source - knee) / (1 - knee)
        source = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return 255 * min(inverse(source * top) / 203, 1) ** (1 / 2.4)


def pq_grey(nits: float, width=48, height=32):
    power = (nits / 10000) ** 0.1593017578125
    code = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    luma = np.full((height, width), round(64 + 876 * code), np.uint16)
    half = np.full((height // 2, width // 2), 512, np.uint16)
    return framed([luma, half, half], "yuv420p10le", 9, 1, 16, 9)


@pytest.mark.parametrize("nits", [0.1, 1, 5, 26, 58, 90, 100, 203, 400, 999, 4000])
def test_pq_is_shown_by_the_curve_that_is_written_down(nits):
    frame = Frame(pq_grey(nits), 0, 0.0)
    for picture in (frame.picture(), frame.reduced().rgb()):
        assert np.abs(picture - bt2390(nits)).max() < 2.5
    assert np.abs(frame.thumb - bt2390(nits)).max() < 6  # from 8 bits


def test_diffuse_white_is_near_white_and_18_percent_grey_in_the_middle():
    white, grey = (Frame(pq_grey(nits), 0, 0.0).picture().mean() for nits in (203, 26))
    assert 225 < white < 240 and 100 < grey < 115


@pytest.mark.parametrize(("signal", "nits"), [(0.75, 203.0), (0.5, 50.6), (1.0, 1000.0), (0.38, 26.2)])
def test_hlg_is_shown_as_on_a_display_of_1000_nits(signal, nits):
    """A grey of HLG signal s: scene light E = s^2 / 3, or (exp((s - c) / a) + b) / 12; 1000 E^1.2 cd/m2."""
    scene = signal**2 / 3 if signal <= 0.5 else (math.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    assert 1000 * scene**1.2 == pytest.approx(nits, rel=0.02)
    rgb = np.full((4, 4, 3), round(signal * 65535), np.uint16)
    assert np.abs(tone.sdr(rgb, colours.HLG) - bt2390(1000 * scene**1.2)).max() < 1.5


def test_hdr_colours_keep_their_hue_and_neutral_stays_neutral():
    """BT.709's red of 100 cd/m2, written in BT.2020's primaries, is a red again."""
    light = 100 * np.array([0.6274, 0.0691, 0.0164])  # BT.2087
    power = (light / 10000) ** 0.1593017578125
    code = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    red = tone.sdr(np.rint(code * 65535).astype(np.uint16).reshape(1, 1, 3), colours.PQ)[0, 0]
    assert red[0] > 170 and red[1:].max() < 30


def test_a_transcode_of_hdr_is_sdr_says_so_and_looks_like_the_still(tmp_path):
    data = coded([pq_grey(203, 96, 64) for _ in range(6)])
    for how in ({}, {"size": 32}):
        made = cut(tmp_path, data, 6, **how)
        frames = decoded(made.bytes)
        assert len(frames) == 6
        tags = colours.describe(frames[0])
        assert (tags["matrix"], tags["primaries"], tags["transfer"], tags["range"]) == ("bt709", "bt709", "bt709", "tv")
        assert np.abs(pixels.rgb(frames[3], 32, 32) - bt2390(203)).max() < 4
    (trained,) = decode(Job("video", (2,), (32, 32), data))  # HDR that was copied: toned when it is read
    assert np.abs(trained - bt2390(203)).max() < 2.5


# --- what a transcode says


@pytest.mark.parametrize(
    ("form", "tags", "height", "matrix"),
    [
        ("yuv444p", (UNTAGGED, 0), 720, "bt709"),
        ("yuv444p", (UNTAGGED, 0), 96, "smpte170m"),
        ("yuv444p", (5, 1), 720, "bt470bg"),
        ("yuv444p", (9, 1), 720, "bt2020nc"),
        ("yuv444p", (UNTAGGED, 2), 96, "smpte170m"),
        ("bgr0", (0, 0), 720, "bt709"),
        ("bgr0", (0, 0), 96, "smpte170m"),
    ],
)
def test_a_transcode_says_what_it_is_so_that_all_readers_agree(tmp_path, form, tags, height, matrix):
    image = bars(height, 192 if height < 720 else 960)
    if form == "bgr0":
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=form)
    else:
        read_as = {UNTAGGED: 1 if height >= 720 else 6}.get(tags[0], tags[0])
        frame = framed(as_yuv(image, read_as, tags[1] == 2), form, *tags)
    data = coded([frame] * 3)
    for how in ({}, {"size": 64}):
        made = cut(tmp_path, data, 3, **how)
        first = decoded(made.bytes)[0]
        tags = colours.describe(first)
        assert (tags["matrix"], tags["range"]) == (matrix, "tv") and tags["primaries"] and tags["transfer"]
        ours = means(pixels.rgb(first, first.width, first.height))
        assert np.abs(ours - PATCHES).max() <= 5
        theirs = means(first.to_ndarray(format="rgb24"))  # a reader that knows the tags and no rule
        assert np.abs(theirs - ours).max() <= 3


def test_the_same_frames_give_the_same_bytes_whatever_the_memory_held(tmp_path):
    """libx264's AVX-512 code reads memory that it never wrote; glibc fills it with another value in each run."""
    rng = np.random.default_rng(4)
    scene = np.kron(rng.integers(0, 256, (20, 40, 3), np.uint8), np.ones((12, 12, 1), np.uint8))
    views = [np.ascontiguousarray(scene[i : i + 144, 3 * i : 3 * i + 176]) for i in range(60)]
    frames = [av.VideoFrame.from_ndarray(view, format="rgb24").reformat(format="bgr0") for view in views]
    (tmp_path / "source.mkv").write_bytes(coded(frames))
    code = (
        "import sys, hashlib; from curate.export.extract import Span, extract; "
        "cut = extract(sys.argv[1], Span(0, 60, 0.0, 5.0), snap=False); "
        "print(hashlib.sha256(cut.bytes).hexdigest())"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "source.mkv")]
    found = {
        subprocess.run(run, env={**os.environ, "MALLOC_PERTURB_": fill}, check=True, capture_output=True).stdout
        for fill in ("0", "1", "85")
    }
    assert len(found) == 1 and len(found.pop()) == 65


# --- fields and transparency


def combing(picture: np.ndarray) -> float:
    """How much lines differ from the mean of their neighbours, levels."""
    grey = picture.astype(float).mean(-1)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


def fields(count: int = 12) -> bytes:
    """25 interlaced pictures a second of a block that moves 6 px from field to field."""

    def at(k):
        view = np.full((96, 160), 60, np.uint8)
        view[20:76, 4 + 6 * k : 34 + 6 * k] = 200
        return view

    chroma, frames = np.full((48, 80), 128, np.uint8), []
    for i in range(count):
        luma = at(2 * i % 20)
        luma[1::2] = at(2 * i % 20 + 1)[1::2]
        frames.append(framed([luma, chroma, chroma], "yuv420p"))
    return coded(
        frames, "libx264", options={"crf": "8", "flags": "+ilme+ildct", "x264-params": "tff=1:bframes=2:keyint=6"}
    )


def test_interlaced_footage_is_not_combed_in_stills_or_transcodes(tmp_path):
    data = fields()
    source = decoded(data)
    assert all(frame.interlaced_frame for frame in source)
    frame = Frame(source[5], 5, 0.4, picture=96, grey=96)
    woven = combing(source[5].to_ndarray(format="rgb24"))
    for picture in (frame.picture(), frame.reduced().rgb(), frame.grey[..., None]):
        assert combing(picture) < 0.4 * woven
    made = cut(tmp_path, data, 12)
    frames = decoded(made.bytes)
    assert len(frames) == made.num_frames == 12 and not any(one.interlaced_frame for one in frames)
    for one, old in zip(frames, source, strict=True):
        picture = one.to_ndarray(format="rgb24")
        assert combing(picture) < 0.4 * woven
        off = picture.astype(float) - old.to_ndarray(format="rgb24")  # of the same moment: one field's lines are kept
        assert min(np.abs(off[::2]).mean(), np.abs(off[1::2]).mean()) < 1
    assert len(decoded(cut(tmp_path, data, 12, fps=6.0).bytes)) == 6


def test_transparency_is_left_out_by_all_readers_alike(tmp_path):
    """The right half is transparent over a grey, which FFmpeg shows too."""
    image = np.full((64, 96, 4), (40, 60, 200, 255), np.uint8)
    image[:, 48:, :3], image[:, 48:, 3] = 90, 0
    data = coded([av.VideoFrame.from_ndarray(image, format="rgba").reformat(format="bgra") for _ in range(4)])
    frame = Frame(decoded(data)[0], 0, 0.0)
    made = cut(tmp_path, data, 4)
    (trained,) = decode(Job("video", (1,), (64, 96), data))
    for picture in (frame.picture(), frame.thumb, decoded(made.bytes)[2].to_ndarray(format="rgb24"), trained):
        width = picture.shape[1]
        assert np.abs(picture[4:-4, width // 2 + 4 : -4].mean((0, 1)) - 90).max() < 4
        assert np.abs(picture[4:-4, 4 : width // 2 - 4].mean((0, 1)) - (40, 60, 200)).max() < 4


@pytest.mark.parametrize("form", ["yuv420p", "nv12", "pal8", "gbrp", "yuva420p", "yuv420p10be", "gray10le"])
@pytest.mark.parametrize("size", [(2048, 2), (16, 16), (641, 359)])
def test_views_of_any_format_and_shape(form, size):
    frame = av.VideoFrame(*size, form)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 0
    shown = Frame(frame, 0, 0.0, aspect=1.3)
    assert shown.thumb.shape == (27, 48, 3) and shown.grey.ndim == 2
    assert shown.picture().shape == shown.reduced().rgb().shape
