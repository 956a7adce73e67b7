"""Pixels of training against the `ffmpeg` program's; and one reader for training, `winnow sample --image` and stills."""

import io
import shutil
import subprocess

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from curate.video.frame import Frame
from pipelines.cli.drawing import SamplingError, picture
from tests.curate.test_colour import coded
from video_model.data.decoding import DecodeError, Job, cover, decode
from video_model.pictures import to_uint8

FFMPEG = shutil.which("ffmpeg")
ACCURATE = "full_chroma_int+full_chroma_inp+accurate_rnd"


def scene(height, width, seed=0):
    """[height, width, 3] uint8: coloured waves and blocks under fine grain, as footage has: colours vary more slowly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([120 + 70 * np.sin(x / (17 + 5 * c) + y / (23 - 4 * c) + c) for c in range(3)], -1)
    blocks = np.kron(rng.integers(-40, 40, (height // 40 + 1, width // 40 + 1, 3)), np.ones((40, 40, 1)))
    return np.clip(waves + blocks[:height, :width] + rng.normal(0, 15, (height, width, 1)), 0, 255).astype(np.uint8)


def video(picture):
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    return coded([frame], "libx264", "mp4", {"crf": "12"})


def still(picture, form, **options):
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, form, **options)
    return sink.getvalue()


def by_the_program(data, shape, size, suffix, tmp_path, matrix):
    """Scaled by ffmpeg, accurately, with the chroma of H.264 where it is (older versions of the program take it for JPEG's)."""
    path = tmp_path / f"source{suffix}"
    path.write_bytes(data)
    height, width = cover(*shape, size)
    how = "area" if height <= shape[0] and width <= shape[1] else "bicubic"
    place = "in_h_chr_pos=0:in_v_chr_pos=128:" if suffix == ".mp4" else ""
    matrix = f":in_color_matrix={matrix}" if matrix else ""
    crop = f"{size[1]}:{size[0]}:{(width - size[1]) // 2}:{(height - size[0]) // 2}:exact=1"
    chain = f"scale={width}:{height}:{place}flags={how}+{ACCURATE}{matrix},format=rgb24,crop={crop}"
    run = [
        FFMPEG,
        "-v",
        "error",
        "-i",
        path,
        "-vf",
        chain,
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    made = subprocess.run(run, capture_output=True, check=True).stdout
    return np.frombuffer(made, np.uint8).reshape(*size, 3).astype(float)


@pytest.mark.skipif(not FFMPEG, reason="needs the ffmpeg program")
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((360, 640), (72, 128)),
        ((720, 1280), (320, 576)),  # cropped
        ((362, 642), (64, 96)),
        ((241, 427), (96, 96)),
        ((90, 160), (180, 320)),  # enlarged
        ((576, 1024), (256, 384)),
    ],
)
@pytest.mark.parametrize("form", ["video", "PNG", "JPEG"])
def test_pixels_are_those_of_ffmpeg_with_accurate_flags(shape, size, form, tmp_path):
    if form != "PNG":  # of odd sizes in 4:2:0 the program stretches the chroma
        shape = tuple(side // 2 * 2 for side in shape)
    image = scene(*shape)
    if form == "video":
        data, suffix, matrix = video(image), ".mp4", "bt709" if shape[0] >= 720 else "bt601"
    else:
        data = still(image, form, **({"quality": 92} if form == "JPEG" else {}))
        suffix, matrix = ("." + form.lower(), "bt601" if form == "JPEG" else None)
    ours = decode(Job("video" if form == "video" else "image", (0,), size, data))[0]
    error = ours - by_the_program(data, shape, size, suffix, tmp_path, matrix)
    assert np.abs(error).mean() <= 1.0 and abs(error.mean()) <= 0.1, (np.abs(error).mean(), error.mean())


def deep_png(image, **options):
    """16 bits a sample."""
    image = image[..., ::-1] if image.ndim == 3 else image
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


PICTURE = scene(60, 90)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # a quarter turn clockwise
DEEP = (PICTURE.astype(np.uint16) * 257) ^ 3
CLEAR = np.dstack([PICTURE, np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1))])
FORMS = {
    "png": (still(PICTURE, "PNG"), PICTURE),
    "jpeg": (still(PICTURE, "JPEG", quality=97, subsampling=0), PICTURE),
    "webp": (still(PICTURE, "WEBP", lossless=True), PICTURE),
    "turned jpeg": (still(PICTURE, "JPEG", quality=97, subsampling=0, exif=EXIF), np.rot90(PICTURE, 3)),
    "turned png": (still(PICTURE, "PNG", exif=EXIF), np.rot90(PICTURE, 3)),
    "alpha": (still(CLEAR, "PNG"), PICTURE),
    "grey": (still(PICTURE[..., 0], "PNG"), np.repeat(PICTURE[..., :1], 3, 2)),
    "16 bit": (deep_png(DEEP), PICTURE),
    "16 bit grey": (deep_png(DEEP[..., 0]), np.repeat(PICTURE[..., :1], 3, 2)),
    "16 bit alpha": (cv2.imencode(".png", (CLEAR[..., [2, 1, 0, 3]].astype(np.uint16) * 257))[1].tobytes(), PICTURE),
    "16 bit tiff": (still(DEEP[..., 0], "TIFF"), np.repeat(PICTURE[..., :1], 3, 2)),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_picture_is_the_same_in_training_and_as_an_image_to_start_from(name, tmp_path):
    data, expected = FORMS[name]
    path = tmp_path / "given"
    path.write_bytes(data)
    for size in (expected.shape[:2], (32, 24)):
        trained = decode(Job("image", (0,), size, data))
        assert (to_uint8(picture(path, size)[None]) == trained).all()
        if size == expected.shape[:2]:
            error = trained[0].astype(float) - expected
            assert np.abs(error).mean() <= 1.5 and abs(error.mean()) <= 0.1, (np.abs(error).mean(), error.mean())


def test_a_deep_picture_is_turned_upright(tmp_path):
    """Orientation stands beside the pixels, as a chunk that is put in by hand."""
    data, chunk = deep_png(DEEP), b"eXIf" + EXIF.tobytes().removeprefix(b"Exif\x00\x00")
    import zlib

    after = 8 + 25  # the magic number, and the header's chunk
    chunk = (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    turned = decode(Job("image", (0,), (90, 60), data[:after] + chunk + data[after:]))[0]
    assert np.abs(turned.astype(int) - np.rot90(PICTURE, 3)).max() <= 1


def test_a_videos_first_frame_to_start_from_is_that_of_training(tmp_path):
    data = video(scene(96, 160))
    (tmp_path / "clip.mp4").write_bytes(data)
    trained = decode(Job("video", (0,), (48, 64), data))
    assert (to_uint8(picture(tmp_path / "clip.mp4", (48, 64))[None]) == trained).all()


def test_what_is_no_picture_to_start_from_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(
        SamplingError, match=r"--image .*a\.png: is neither a picture nor a video .*give a PNG, JPEG or"
    ):
        picture(tmp_path / "a.png", (16, 16))
    (tmp_path / "b.png").write_bytes(FORMS["png"][0][:400])
    with pytest.raises(SamplingError, match=r"b\.png: is neither .* \(it cannot be decoded \(.*truncated"):
        picture(tmp_path / "b.png", (16, 16))
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(SamplingError, match=r"c\.png: .*\(it has no bytes\)"):
        picture(tmp_path / "c.png", (16, 16))
    with pytest.raises(FileNotFoundError):
        picture(tmp_path / "none.png", (16, 16))


@pytest.mark.parametrize("data", [FORMS["16 bit"][0][:3000], FORMS["jpeg"][0][:1500]])
def test_a_picture_that_is_cut_short_is_not_used(data):
    with pytest.raises(DecodeError, match="truncated"):
        decode(Job("image", (0,), (30, 45), data))


def test_samples_of_32_bits_are_refused():
    with pytest.raises(DecodeError, match="has samples of 32 bits, whose range nothing tells"):
        decode(Job("image", (0,), (30, 45), still(PICTURE[..., 0].astype(np.float32), "TIFF")))


@pytest.mark.parametrize(("shape", "size"), [((360, 640), (72, 128)), ((240, 426), (120, 213)), ((72, 128), (72, 128))])
def test_a_still_of_the_dataset_is_the_frame_of_training(shape, size):
    data = video(scene(*shape))
    with av.open(io.BytesIO(data)) as container:
        shown = Frame(next(container.decode(video=0)), 0, 0.0, picture=size[0]).reduced().rgb()
    trained = decode(Job("video", (0,), size, data))[0]
    assert np.abs(shown.astype(int) - trained).mean() <= 1.0 and abs((shown - trained.astype(float)).mean()) <= 0.3
