"""Two workers at one job: each makes a part of the latents, texts and codec, and what one has done outlives the other."""

import fcntl
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from tests.video_model.clips import LetterEncoder, PoolCodec, clip, clips, frame_numbers, write_clips
from tests.video_model.moving import moving_shapes
from video_model.codecs.small import CodecConfig, SmallCodec
from video_model.codecs.small_training import train_codec
from video_model.codecs.temporal_decoder import TemporalOptions, train_temporal_decoder
from video_model.data.excerpts import sample_frames, sample_windows
from video_model.data.index import open_index
from video_model.data.windows import Thinned, Window
from video_model.errors import DataError
from video_model.latents import together
from video_model.latents.build import LatentOptions, cache_for
from video_model.workers import TrainingWorker

SIZES = [(48, 64)]
CLIPS, FRAMES = 20, 24


class Slow(PoolCodec):
    """Takes a while for each batch; dies, or overflows, at the call of a number."""

    def __init__(self, dies=None, overflows=None):
        super().__init__()
        self.dies, self.overflows, self.calls = dies, overflows, 0

    def encode(self, pixels):
        time.sleep(0.05)
        self.calls += 1
        if self.calls == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(pixels) * (1e6 if self.calls == self.overflows else 1)


def build(data, folder, codec=None, encoder=None, worker=None, progress=None):
    options = LatentOptions(rates=[8], workers=1, shard_bytes=30_000)
    needs = [(open_index(data), SIZES)]
    return cache_for(needs, codec or PoolCodec(), encoder or LetterEncoder(), folder, options, progress, worker)


def small_codecs(worker):
    """A codec and its temporal decoder, trained a few steps with a batch that two do not divide."""
    torch.set_num_threads(1)
    codec = SmallCodec(CodecConfig(factor=4, channels=4, widths=(8, 8)))
    train_codec(codec, moving_shapes(12, 4, side=16).flatten(0, 1), 4, batch=5, worker=worker)
    options = TemporalOptions(batch=3)
    grown, _ = train_temporal_decoder(codec, moving_shapes(12, 4, side=16), 5, options=options, worker=worker)
    return {name: value.contiguous() for name, value in grown.state_dict().items()}


def excerpts(data, worker):
    """Frames and windows of clips, of which one is none."""
    index = open_index(data)
    frames = sample_frames(index, (32, 32), 70, seed=3, workers=1, worker=worker)
    windows, _, fps, *_ = sample_windows(index, (32, 32), 6, 4.0, 30, seed=3, workers=1, worker=worker)
    return {
        name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in zip("abc", (frames, windows, fps), strict=True)
    }


def _work(rank, folder, port, part, *options):
    together.ROUND = 0.1
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    folder, worker = Path(folder), TrainingWorker(rank, 2)
    try:
        told = part(rank, folder, worker, *options)
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    (folder / f"told-{rank}.json").write_text(json.dumps(told))


def two(folder, part, *options):
    """What each of two processes tells that run `part`; None of one that died."""
    folder.mkdir(parents=True, exist_ok=True)
    port = 20_000 + (os.getpid() * 7 + int(time.monotonic() * 10)) % 9000
    context = mp.get_context("spawn")
    started = [context.Process(target=_work, args=(rank, str(folder), port, part, *options)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(280)  # a busy machine takes long to import
        assert process.exitcode is not None
    paths = [folder / f"told-{rank}.json" for rank in (0, 1)]
    return [json.loads(path.read_text()) if path.exists() else None for path in paths]


def _everything(rank, folder, worker, data):
    """A cache, that of a folder where another run is at work, and codecs."""
    codec, encoder, seen = Slow(), LetterEncoder(), []
    build(data, folder / "cache", codec, encoder, worker, lambda *at: seen.append(at))
    (folder / "waiting").mkdir(exist_ok=True)
    before = time.time()
    worker.wait()
    (folder / "begun").touch()
    build(data, folder / "waiting", PoolCodec(), LetterEncoder(), worker)
    waited_for = time.time() - before
    save_file(small_codecs(worker), folder / f"codec-{rank}.safetensors")
    save_file(excerpts(data, worker), folder / f"excerpts-{rank}.safetensors")
    told = {"frames": codec.frames, "texts": encoder.seen, "seen": seen, "waited": waited_for}
    try:
        build(data, folder / "stopped", Slow(overflows=3 if rank else None), LetterEncoder(), worker)
    except Exception as error:
        return told | {"stopped": f"{type(error).__name__}: {error}"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """20 clips in 4 files, of which one is no video."""
    rows = clips(CLIPS)
    rows[7] = clip(7, data=b"no video")
    return write_clips(tmp_path_factory.mktemp("data") / "c", rows, shards=4)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """What two workers made. Another run holds the lock of `waiting` until three seconds after they came to it."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "waiting").mkdir()
    lock = os.open(folder / "waiting" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def leave():
        while not (folder / "begun").exists():
            time.sleep(0.05)
        time.sleep(2.0)
        os.close(lock)

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    told = two(folder, _everything, str(data))
    thread.join()
    return folder, told


def test_each_worker_encodes_about_half_and_nothing_twice(made, data):
    _, (one, other) = made
    assert one["frames"] + other["frames"] == (CLIPS - 1) * FRAMES
    assert abs(one["frames"] - other["frames"]) <= 2 * FRAMES  # a shard, and the clip that is none
    assert one["texts"] and other["texts"] and not set(one["texts"]) & set(other["texts"])
    assert len(one["texts"]) + len(other["texts"]) == 3 * CLIPS + 1  # three columns, and the empty text
    assert [at for at in one["seen"] if at[0] == "clips"][-1] == ["clips", CLIPS, CLIPS, 1]  # told of both together


def kept(index, cache, row):
    """All frames of a clip."""
    clips = Thinned(index.num_frames, index.fps, cache.rates)
    (found,) = cache.latents(index, [(row, SIZES[0], Window(0, FRAMES, None))], clips)
    return found


def test_what_two_made_is_what_one_makes(made, data, tmp_path):
    folder, _ = made
    index = open_index(data)
    alone = build(data, tmp_path)
    codec, encoder = PoolCodec(), LetterEncoder()
    cache = build(data, folder / "cache", codec, encoder)  # one worker, after two: there is nothing to do
    assert codec.frames == 0 and not encoder.seen and cache.skipped == alone.skipped and len(alone.skipped) == 1
    for row in range(CLIPS):
        if (index.keys[row], SIZES[0]) not in cache.skipped:
            one, other = kept(index, cache, row), kept(index, alone, row)
            assert torch.equal(one.latents, other.latents) and one.fps == other.fps
    texts = ["caption_video of 4", ""]
    assert all(torch.equal(a, b) for a, b in zip(cache.texts(texts), alone.texts(texts), strict=True))
    assert json.loads((folder / "cache/skipped.json").read_text()) == json.loads(
        (tmp_path / "skipped.json").read_text()
    )


def test_a_run_waits_for_another_and_both_of_its_workers_do(made):
    _, told = made
    assert all(one["waited"] >= 2.0 for one in told)


def test_a_codec_trained_by_two_is_that_of_one(made):
    folder, _ = made
    one, other = (load_file(folder / f"codec-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[key], other[key]) for key in one)
    alone = small_codecs(TrainingWorker())
    assert max(float((alone[key].float() - one[key].float()).abs().max()) for key in alone) < 2e-4


def test_frames_that_each_decodes_a_part_of_are_those_of_one(made, data):
    folder, _ = made
    alone = excerpts(str(data), None)
    for rank in (0, 1):
        found = load_file(folder / f"excerpts-{rank}.safetensors")
        assert all(torch.equal(found[key], alone[key]) for key in alone)


def _dying(rank, folder, worker, data):
    build(data, folder / "cache", Slow(dies=4 if rank else None), LetterEncoder(), worker)
    return {}


def test_a_worker_that_dies_costs_its_part_and_the_others_say_so(data, tmp_path):
    told = two(tmp_path, _dying, str(data))
    assert told[1] is None and told[0]["error"].startswith("WorkerError: another worker was lost")
    before = set((tmp_path / "cache").rglob("latents-*/*/*.safetensors"))
    assert before
    codec = PoolCodec()
    cache = build(data, tmp_path / "cache", codec)
    assert 0 < codec.frames < (CLIPS - 1) * FRAMES and before <= set((tmp_path / "cache").rglob("*.safetensors"))
    index = open_index(data)
    found = [kept(index, cache, row).latents for row in range(CLIPS) if row != 7]
    assert all(frame_numbers(one).tolist() == list(range(FRAMES)) for one in found)


def test_what_stops_one_worker_is_told_by_all(made):
    _, (one, other) = made
    assert other["stopped"].startswith("DataError: latents of") and "too large for float16" in other["stopped"]
    assert one["stopped"] == f"WorkerError: {other['stopped'].removeprefix('DataError: ')} (worker 1)"


def test_a_single_worker_raises_its_own_error(data, tmp_path):
    with pytest.raises(DataError, match="too large for float16"):
        build(data, tmp_path, Slow(overflows=2))


def test_a_share_of_rows():
    for rows in (1, 2, 5, 8):
        for world in (1, 2, 3):
            found = [TrainingWorker(rank, world).share(rows) for rank in range(world)]
            assert sum(weight for _, weight in found) == pytest.approx(world)
            covered = [row for part, weight in found if weight for row in range(rows)[part]]
            assert covered == list(range(rows))
