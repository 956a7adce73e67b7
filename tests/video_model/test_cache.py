"""The latent cache: what is in it, that it is built once, and what a kill, a bad clip or a full disk costs."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from curate.base import child as children
from tests.video_model.clips import LetterEncoder, PoolCodec, clip, clips, frame_numbers, mp4, write_clips, write_images
from video_model.codecs.small import CodecConfig, SmallCodec
from video_model.data import decoders as decoders_module
from video_model.data.decoders import Decoders
from video_model.data.decoding import DecodeError, Job, decode
from video_model.data.index import open_index
from video_model.data.windows import Thinned, Window
from video_model.errors import DataError
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import LatentOptions, build_cache, cache_for
from video_model.latents.cache import latents_folder

SIZES = [(48, 64), (32, 32)]


def build(index, folder, codec=None, encoder=None, **options):
    options = {"sizes": SIZES, "rates": [8], "workers": 1} | options
    return build_cache(index, codec or PoolCodec(), encoder or LetterEncoder(), folder, **options)


def kept(index, cache, row, window, size=(48, 64)):
    return cache.latents(index, [(row, size, window)], Thinned(index.num_frames, index.fps, cache.rates))


def files(folder):
    """All but where each latent lies: that is made anew of the shards, and what it was before is kept for a week."""
    found = (p for p in sorted(Path(folder).rglob("*")) if p.is_file() and not p.name.startswith("places-"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """16 clips, of which one is no video, one is cut short and one has no bytes; and 5 pictures."""
    root = tmp_path_factory.mktemp("cache")
    rows = clips(16)
    rows[3], rows[5], rows[9] = clip(3, data=b"no video"), clip(5, data=mp4(10)), clip(9, video=None)
    rows[6] = clip(6, fps=25, frames=30)
    write_clips(root / "c", rows)
    write_images(root / "i.parquet", 5)
    return root


@pytest.fixture(scope="module")
def index(data):
    return open_index([data / "c", data / "i.parquet"])


@pytest.fixture(scope="module")
def built(index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return folder, build(index, folder)


def test_frames_are_those_of_the_clip(index, built):
    _, cache = built
    (found,) = kept(index, cache, 0, Window(5, 3))
    assert found.latents.shape == (3, 3, 6, 8) and frame_numbers(found.latents).tolist() == [5, 6, 7] and found.fps == 8
    (found,) = kept(index, cache, 6, Window(0, 10))  # 25 frames/s thinned to 8: the nearest to 3.125, 6.25, 9.375 ...
    assert frame_numbers(found.latents).tolist() == [0, 3, 6, 9, 13, 16, 19, 22, 25, 28]
    assert found.fps == pytest.approx(9 / (28 / 25))
    row = index.is_image.nonzero()[0][4]
    (found,) = kept(index, cache, row, Window(0, 1), (32, 32))  # 40 x 40 px: the square size
    assert found.latents.shape == (1, 3, 4, 4) and frame_numbers(found.latents).tolist() == [4] and found.fps == 0


def test_texts_are_there(built):
    states = built[1].texts(["caption_video of 4", "picture 2", ""])
    assert [len(text) for text in states] == [3, 2, 0] and states[1][0].tolist() == [7, ord("p"), 0, 1]
    with pytest.raises(DataError, match="no states of the caption 'never seen'"):
        built[1].texts(["never seen"])


def test_what_cannot_be_decoded_is_counted_with_its_reason(index, built):
    folder, cache = built
    reported = {key: reason for (key, _), reason in cache.skipped.items()}
    assert set(reported) == {index.keys[row] for row in (3, 5, 9)}
    assert reported[index.keys[3]].startswith("cannot be decoded")
    assert reported[index.keys[5]] == "is cut short: has 10 frames, and number 23 is wanted"
    assert reported[index.keys[9]] == "has no bytes"
    about = json.loads((folder / "skipped.json").read_text())
    assert {row["clip_id"]: row["reason"] for row in about["clips"]} == reported and sum(about["counts"].values()) == 3


def test_nothing_is_encoded_twice(index, built):
    folder, _ = built
    before, codec, encoder = files(folder), PoolCodec(), LetterEncoder()
    reported = []
    build(index, folder, codec, encoder, progress=lambda *at: reported.append(at))
    assert codec.frames == 0 and not encoder.seen and not reported and files(folder) == before


def test_a_part_of_it_is_shared(data, tmp_path):
    codec, encoder = PoolCodec(), LetterEncoder()
    few = open_index(data / "c", "motion_score < 3")
    build(few, tmp_path, codec, encoder)
    assert codec.frames == 3 * 24 and len(encoder.seen) == 10
    more = open_index(data / "c", "motion_score IN (0, 1, 2, 4)")
    cache = build(more, tmp_path, codec, encoder, sizes=SIZES[:1])
    assert codec.frames == 4 * 24 and len(encoder.seen) == 13
    assert [cache.why_not(key, (48, 64)) for key in more.keys] == [None] * 4
    with pytest.raises(DataError, match=r"no latents of .* at 32x32; build the cache with the same index and sizes"):
        cache.why_not(more.keys[0], (32, 32))


def test_stages_share_a_cache_of_what_each_needs(data, tmp_path):
    small, large = open_index(data / "c", "motion_score < 3"), open_index(data / "c", "motion_score IN (2, 4)")
    codec = PoolCodec()
    needs = [(small, [(24, 32)]), (large, [(48, 64), (64, 48)]), (large, [(24, 32)])]
    cache = cache_for(needs, codec, LetterEncoder(), tmp_path, LatentOptions(workers=1))
    assert codec.frames == (3 + 2 + 1) * 24  # three and one more at the small size, two at the large one
    for index, sizes in ((small, [(24, 32)]), (large, [(48, 64), (64, 48)]), (large, [(24, 32)])):
        batch = Batches(index, cache, BatchSpec(frames=[24], sizes=sizes, rates=[8], batch=len(index))).batch(0)
        assert (frame_numbers(batch["latents"]) == np.arange(24)).all() and set(batch["keys"]) == set(index.keys)
        assert batch["latents"].shape[-2:] == (sizes[0][0] // 8, sizes[0][1] // 8)


def test_what_decides_the_latents_is_in_the_key(data, tmp_path):
    index = open_index(data / "c", "motion_score < 1")
    codec, encoder = PoolCodec(), LetterEncoder()
    build(index, tmp_path, codec, encoder)
    changes = [{"rates": [4]}, {"max_frames": 5}, {"dtype": "float32"}, {"sizes": [(16, 16)]}]
    for change, frames in zip(changes, (12, 5, 24, 24), strict=True):
        before = codec.frames
        build(index, tmp_path, codec, encoder, **change)
        assert codec.frames - before == frames, change
    other = PoolCodec()
    other.fingerprint = "another"
    build(index, tmp_path, other, encoder)
    assert other.frames == 24 and len(encoder.seen) == 2 * 4  # the type is in the key of the texts too
    encoder.fingerprint = "another"
    build(index, tmp_path, codec, encoder)
    assert len(encoder.seen) == 3 * 4


def test_a_decoder_that_is_tuned_keeps_the_latents(data, tmp_path):
    index = open_index(data / "c", "motion_score < 1")
    codec = PoolCodec()
    codec.encoder_fingerprint = "pool-8's encoder"
    build(index, tmp_path, codec)
    codec.fingerprint = "another decoder"
    build(index, tmp_path, codec)
    assert codec.frames == 24
    codec.encoder_fingerprint = "another encoder"
    build(index, tmp_path, codec)
    assert codec.frames == 2 * 24


def test_latents_of_our_codec_outlive_its_decoder(tmp_path):
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8,))).fit(pixels)

    def home():
        return latents_folder(tmp_path, codec, (16, 16), [8], None, "float16")

    before = home()
    torch.nn.init.constant_(next(codec.decoder.parameters()), 0.1)
    assert home() == before
    torch.nn.init.constant_(next(codec.encoder.parameters()), 0.1)
    assert home() != before


def test_moved_data_are_the_same_data(data, tmp_path):
    codec = PoolCodec()
    index = open_index(data / "c", "motion_score < 2")
    build(index, tmp_path / "cache", codec)
    (tmp_path / "moved").symlink_to(data / "c")
    build(open_index(tmp_path / "moved", "motion_score < 2"), tmp_path / "cache", codec)
    assert codec.frames == 2 * 24


def test_limits_take_the_middle(data, tmp_path):
    index = open_index(data / "c", "motion_score = 0")
    cache = build(index, tmp_path, max_frames=4)
    (found,) = kept(index, cache, 0, Window(0, 4))
    assert frame_numbers(found.latents).tolist() == [10, 11, 12, 13]


def test_float32_on_request(data, tmp_path):
    index = open_index(data / "c", "motion_score = 0")
    cache = build(index, tmp_path, dtype="float32")
    latents = kept(index, cache, 0, Window(3, 1))[0].latents.numpy()
    np.testing.assert_allclose(latents, 15 / 127.5 - 1, atol=1e-6)
    with pytest.raises(DataError, match="float8: is not one of float16, float32"):
        build(index, tmp_path, dtype="float8")


KILLED = """
import os, signal, sys
from tests.video_model.clips import LetterEncoder, PoolCodec
from video_model.latents.build import LatentOptions, build_cache, cache_for
from video_model.data.index import open_index

class Dying(PoolCodec):
    def encode(self, pixels):
        if self.frames >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(pixels)

index = open_index([sys.argv[1] + "/c", sys.argv[1] + "/i.parquet"])
build_cache(index, Dying(), LetterEncoder(), sys.argv[2], sizes=[(48, 64), (32, 32)], rates=[8], workers=1,
            shard_bytes=20_000)
"""


def test_killed_and_started_again_it_gives_the_same_files(data, index, tmp_path):
    """A shard of 20 kB holds 2 clips of 24 frames of 288 bytes: it is killed after some were written."""
    build(index, tmp_path / "whole", shard_bytes=20_000)
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(data), str(tmp_path / "killed"), "150"]
    ended = subprocess.run(script, capture_output=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    left = set(files(tmp_path / "killed"))
    codec = PoolCodec()
    build(index, tmp_path / "killed", codec, shard_bytes=20_000)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    shards = {name for name in files(tmp_path / "whole") if name.startswith("latents") and "safetensors" in name}
    assert 2 <= len(left & shards) < len(shards)
    assert 0 < codec.frames < 12 * 24 + 10 + 5  # what was there was not made again


def test_leftovers_of_a_kill_are_swept(data, tmp_path):
    index = open_index(data / "c", "motion_score = 0")
    home = tmp_path / "latents-0" / "x"
    home.mkdir(parents=True)
    (home / ".part.safetensors.tmp").write_bytes(b"half")
    build(index, tmp_path)
    assert not list(tmp_path.rglob(".*.tmp"))


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_clear_error(data, tmp_path, monkeypatch):
    index = open_index(data / "c", "motion_score < 3")
    codec = PoolCodec()
    monkeypatch.setattr("curate.base.files.os.replace", full)
    with pytest.raises(DataError, match=r"the disk is full \(0\.0 MB more are needed\); free some, or put the cache"):
        build(index, tmp_path, codec)
    assert not any(data for name, data in files(tmp_path).items() if name != ".lock")
    monkeypatch.undo()
    build(index, tmp_path, codec)
    assert codec.frames == 3 * 24


def test_too_little_room_is_said_before_the_work(data, tmp_path, monkeypatch):
    index = open_index(data / "c", "motion_score < 3")
    codec = PoolCodec()
    monkeypatch.setattr("video_model.latents.build.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(DataError, match="the disk is full"):
        build(index, tmp_path, codec)
    assert codec.frames == 0


class Usage:
    free = 3 * 24 * 288 - 1


def test_a_damaged_shard_says_which_one(data, tmp_path):
    index = open_index(data / "c", "motion_score = 0")
    build(index, tmp_path)
    (shard,) = (path for path in tmp_path.rglob("*.safetensors") if path.parts[-3].startswith("latents"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match=f"{shard.name}: is damaged .*; delete it, and it is made again"):
        build(index, tmp_path)
    shard.unlink()
    assert build(index, tmp_path).why_not(index.keys[0], (48, 64)) is None


def test_none_that_can_be_decoded(tmp_path):
    write_clips(tmp_path / "c", [clip(i, data=b"no video") for i in range(3)], shards=1)
    index = open_index(tmp_path / "c")
    with pytest.raises(DataError, match=r"not one of 3 clips can be decoded; .*: cannot be decoded"):
        build(index, tmp_path / "cache")


def test_sizes_that_the_codec_cannot_encode(index, tmp_path):
    with pytest.raises(DataError, match="size 50x64: height and width must be multiples of 8"):
        build(index, tmp_path, sizes=[(50, 64)])


def test_latents_that_overflow_are_an_error(data, tmp_path):
    class Large(PoolCodec):
        def encode(self, pixels):
            return super().encode(pixels) * 1e6

    index = open_index(data / "c", "motion_score = 0")
    with pytest.raises(DataError, match="are too large for float16; check the codec, or cache as float32"):
        build(index, tmp_path, Large())


# --- decoding in children


def test_a_crash_or_a_hang_costs_one_clip():
    good = Job("video", (0, 5), (16, 16), mp4())
    with Decoders(1, timeout=60) as decoders:
        assert frame_numbers(next(decoders([good])).pixels.transpose(0, 3, 1, 2)).tolist() == [0, 5]
        (child,) = decoders._children
        os.kill(child.pid, signal.SIGSTOP)  # so that it is at work when it dies
        threading.Timer(0.3, os.kill, [child.pid, signal.SIGKILL]).start()
        results = decoders([good, good])
        assert next(results).startswith("the decoder's process was killed from outside (SIGKILL")
        assert next(results).pixels.shape == (2, 16, 16, 3)
        os.kill(child.pid, signal.SIGSTOP)
        child.timeout = 0.3
        assert next(decoders([good])) == "took longer than 0.3 s: the process was stopped"


def test_a_child_with_too_little_memory_says_so():
    large = Job("video", tuple(range(24)), (2048, 2048), mp4())
    with Decoders(1, memory_gb=0.3) as decoders:
        (result,) = decoders([large])
        assert isinstance(result, str) and "memory" in result


def test_where_no_child_can_start_no_clip_is_blamed(monkeypatch):
    monkeypatch.setattr(children, "START_RETRY_SECONDS", ())
    with Decoders(1, memory_gb=0.02) as decoders, pytest.raises(DataError, match=r"cannot start within its 0\.02 GB"):
        list(decoders([Job("video", (0,), (16, 16), mp4())]))


def test_an_answer_that_is_larger_than_what_was_asked_for_is_not_read(monkeypatch):
    monkeypatch.setattr(decoders_module, "AROUND", -10)
    with Decoders(1) as decoders:
        (result,) = decoders([Job("video", (0,), (16, 16), mp4())])
    assert result == "the decoder answered with more than 767 bytes"


def test_children_end_with_their_owner():
    with Decoders(2) as decoders:
        list(decoders([Job("video", (0,), (16, 16), mp4())] * 4))
        pids = [child.pid for child in decoders._children if child.pid]
    assert pids and not any(psutil.pid_exists(pid) for pid in pids)


def test_covered_and_cropped_around_the_centre():
    """A 64 x 48 clip to 16 x 16: 21 x 16, of which the middle; a still with a left and a right half."""
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = 200
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    frame = decode(Job("image", (0,), (40, 40), sink.getvalue()))[0]
    assert (frame[:, :20] == 0).all() and (frame[:, 20:] == 200).all()
    frame = decode(Job("image", (0,), (20, 10), sink.getvalue()))[0]  # antialiased: no level but at the edge
    assert (frame[:, :3] == 0).all() and (frame[:, 7:] == 200).all()
    assert decode(Job("video", (2,), (16, 16), mp4()))[0].shape == (16, 16, 3)


def test_as_displayed():
    """Stored 64 x 32, right half bright: a quarter turn counter-clockwise puts that on top; pixels twice as wide
    as high make a picture of 128 x 32."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 32:] = 200

    def written(**facts):
        sink = io.BytesIO()
        with av.open(sink, "w", format="mp4") as out:
            stream = out.add_stream("libx264", rate=8, options={"qp": "0"})
            stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
            if "rotation" in facts:
                stream.set_display_rotation(facts["rotation"])
            stream.codec_context.sample_aspect_ratio = Fraction(facts.get("aspect", 1))
            for packet in (*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode(None)):
                out.mux(packet)
        return sink.getvalue()

    (turned,) = decode(Job("video", (0,), (64, 32), written(rotation=90)))
    assert (turned[:32] > 190).all() and (turned[32:] < 10).all()
    (wide,) = decode(Job("video", (0,), (32, 32), written(aspect=2)))  # the middle quarter of the width
    assert (wide[:, :14] < 10).all() and (wide[:, 18:] > 190).all()
    (whole,) = decode(Job("video", (0,), (32, 128), written(aspect=2)))
    assert (whole[:, :60] < 10).all() and (whole[:, 68:] > 190).all()


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (Job("video", (0,), (16, 16), b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "cannot be decoded"),
        (Job("video", (0,), (16, 16), mp4()[:2000]), "cannot be decoded|cut short"),
        (Job("image", (0,), (16, 16), b"no picture"), "not a picture that Pillow knows"),
        (Job("image", (0,), (16, 16), b""), "has no bytes"),
    ],
)
def test_bytes_that_are_no_clip(job, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(job)


def test_batches_leave_out_what_the_cache_skipped(index, built):
    batches = Batches(index, built[1], BatchSpec(frames=[8], sizes=SIZES, rates=[8], batch=1, images=0.5))
    assert batches.report["used"] == 13 + 5 and sum(batches.report["skipped"].values()) == 3
    seen = {key for step in range(60) for key in batches.batch(step)["keys"]}
    assert seen == set(index.keys) - {index.keys[row] for row in (3, 5, 9)}
