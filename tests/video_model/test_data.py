"""Batches: which frames and captions are in them, read off the pixels, and that nothing but seed and step decides it."""

import math
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from tests.video_model.clips import (
    LetterEncoder,
    PoolCodec,
    clip,
    clips,
    frame_numbers,
    mp4,
    write_clips,
    write_images,
)
from video_model.data.buckets import usable_sizes
from video_model.data.excerpts import sample_frames, sample_windows
from video_model.data.index import open_index
from video_model.errors import DataError
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import build_cache
from video_model.latents.live import LiveLatents

SIZE = (48, 64)


def made(folder, rows, **options):
    return open_index(write_clips(folder, rows), **options)


def cached(index, folder, sizes=(SIZE,), rates=(4, 8), **options):
    return build_cache(index, PoolCodec(), LetterEncoder(), folder, sizes=sizes, rates=rates, workers=1, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """24 clips of 24 frames at 8 frames/s and 6 pictures, and a cache of them."""
    root = tmp_path_factory.mktemp("data")
    write_clips(root / "c", clips(24))
    write_images(root / "i.parquet", 6)
    index = open_index([root / "c", root / "i.parquet"])
    return root, index, cached(index, root / "cache")


def batches(world, store=None, index=None, **options):
    options = {"frames": [8], "sizes": [SIZE], "rates": [8], "batch": 4} | options
    return Batches(index or world[1], store or world[2], BatchSpec(**options))


def same(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(value, other[name], rtol=0, atol=atol, equal_nan=True)
        else:
            assert value == other[name], name


def test_a_batch_is_what_it_says(world):
    made = batches(world, rates=[4, 8])
    rates = Counter()
    for step in range(12):
        batch = made.batch(step)
        assert batch["latents"].shape == (4, 8, 3, 6, 8) and batch["latents"].dtype == torch.float32
        assert batch["text"].shape == (4, 8, 4) and batch["text_mask"].dtype == torch.bool and batch["step"] == step
        assert not batch["images"].any()
        for i, key in enumerate(batch["keys"]):
            number = world[1].keys.index(key)
            taken = frame_numbers(batch["latents"][i])
            stride = int(taken[1] - taken[0])
            assert (np.diff(taken) == stride).all() and taken[0] >= 0 and taken[-1] <= 23
            assert batch["fps"][i] == 8 / stride and batch["motion"][i] == number
            assert batch["captions"][i].endswith(f" of {number}")
            words = batch["captions"][i].split()
            assert batch["text_mask"][i].tolist() == [True] * len(words) + [False] * (8 - len(words))
            assert batch["text"][i, : len(words), 0].tolist() == [len(word) for word in words]
            rates[8 / stride] += 1
    assert set(rates) == {4.0, 8.0}


def test_the_same_whether_cached_or_decoded(world):
    options = {"rates": {"min": 2, "max": 8}, "images": 0.3, "seed": 5}
    with LiveLatents(PoolCodec(), LetterEncoder(), rates=[4, 8], workers=2) as live:
        one, other = batches(world, **options), batches(world, live, **options)
        for step in (0, 1, 2, 3, 17, 40):
            same(one.batch(step), other.batch(step), atol=1e-3)  # float16


def test_the_same_after_opening_again(world, tmp_path):
    root = world[0]
    again = open_index([root / "c", root / "i.parquet"])
    store = cached(again, root / "cache")
    for step in (30, 2, 7):
        same(batches(world, images=0.5).batch(step), batches(world, store, again, images=0.5).batch(step))


def test_workers_share_the_global_batch(world):
    one, other = batches(world, images=0.25), batches(world, images=0.25)
    for step in range(6):
        whole = one.batch(step)
        parts = [other.batch(step, rank, 2) for rank in (1, 0)][::-1]
        for name in ("latents", "fps", "motion", "images"):
            torch.testing.assert_close(torch.cat([p[name] for p in parts]), whole[name], rtol=0, atol=0, equal_nan=True)
        for name in ("keys", "captions"):
            assert parts[0][name] + parts[1][name] == whole[name]
    with pytest.raises(DataError, match="4 rows cannot be shared by 3"):
        one.batch(0, 0, 3)


def test_every_clip_once_an_epoch(world):
    made = batches(world)
    assert len(made) == 6
    seen = [Counter(key for step in range(e, e + 6) for key in made.batch(step)["keys"]) for e in (0, 6, 12)]
    assert all(count == Counter(world[1].keys[:24]) for count in seen)
    assert made.batch(0)["keys"] != made.batch(6)["keys"]


def test_the_seed_is_all(world):
    assert batches(world, seed=1).batch(3)["keys"] != batches(world).batch(3)["keys"]
    same(batches(world, seed=1).batch(3), batches(world, seed=1).batch(3))


def test_captions_in_the_shares_asked_for(world):
    counts = Counter(text.split()[0] for step in range(150) for text in batches(world).batch(step)["captions"])
    for name, share in {"caption_frame": 0.5, "caption_video": 0.25, "caption_merged": 0.25}.items():
        assert abs(counts[name] - 600 * share) < 4 * math.sqrt(600 * share * (1 - share)), counts


def test_starts_are_uniform(world):
    made = batches(world, frames=[15])  # 10 places
    starts = Counter(int(frame_numbers(row)[0]) for step in range(150) for row in made.batch(step)["latents"])
    assert set(starts) == set(range(10)) and max(abs(count - 60) for count in starts.values()) < 4 * math.sqrt(54)


def test_what_select_makes_can_be_trained_on(tmp_path, monkeypatch):
    """Shards of `winnow select`: the hub's Video feature in their metadata, nested columns beside it."""
    from tests.pipelines.test_curated import FILTERS, curate, make_dataset, map_here

    monkeypatch.setattr("pipelines.curated.card.card.plot_scores", lambda *_: [])
    monkeypatch.setattr("pipelines.curated.card.card.contact_sheet", lambda *_: False)
    curated = curate(make_dataset(tmp_path / "annotated", videos=2), FILTERS, tmp_path / "c", map_fn=map_here)
    with pytest.raises(DataError, match="is an annotated dataset"):
        open_index(tmp_path / "annotated")
    index = open_index(tmp_path / "c", "motion_score > 0")
    assert len(index) == curated.clips
    store = cached(index, tmp_path / "cache", rates=[25])
    batch = Batches(index, store, BatchSpec(frames=[12], sizes=[SIZE], rates=[25], batch=2)).batch(0)
    assert not store.skipped and batch["fps"].tolist() == [25, 25]
    (pixels, *_) = sample_windows(index, SIZE, 12, 25, len(index), workers=1)
    assert pixels.std() > 30 and batch["latents"].std() > 0.1


def test_images_have_their_share(world):
    made = batches(world, images=0.25)
    kinds = [bool(made.batch(step)["images"].all()) for step in range(40)]
    assert kinds == [False, False, False, True] * 10 and len(made) == 8
    seen = Counter()
    for step in range(3, 200, 4):
        batch = made.batch(step)
        assert batch["latents"].shape[:2] == (4, 1) and batch["images"].all()
        assert batch["fps"].eq(0).all() and batch["motion"].isnan().all()
        seen.update(batch["keys"])
    assert set(seen) == set(world[1].keys)  # pictures, and frames of clips
    clips_only = [made.batch(step)["keys"] for step in range(200) if step % 4 < 3]
    assert {key for keys in clips_only for key in keys} == set(world[1].keys[:24])


def test_an_image_stage(world):
    made = batches(world, frames=[1], batch=5)
    assert len(made) == 6 and made.report["image buckets"] == {"1 frame at 48x64": 30} and not made.report["buckets"]
    numbers = {
        int(n)
        for step in range(60)
        for key, n in zip(made.batch(step)["keys"], frame_numbers(made.batch(step)["latents"])[:, 0], strict=True)
        if key in world[1].keys[:24]
    }
    assert numbers == set(range(24))


def test_too_short_is_counted(tmp_path):
    rows = [*clips(6), clip(6, frames=7), clip(7, frames=9), clip(8, frames=3), clip(9) | {"fps": None}]
    index = made(tmp_path / "c", rows)
    store = cached(index, tmp_path / "cache")
    report = Batches(index, store, BatchSpec(frames=[8], sizes=[SIZE], rates=[4, 8], batch=1)).report
    assert report["skipped"] == {
        "too short for 8 frames at the rates 4, 8": 2,
        "its frame rate is not known": 1,
    }
    assert report["rows"] == 10 and report["used"] == 7
    slow = Batches(index, store, BatchSpec(frames=[8], sizes=[SIZE], rates=[4], batch=1)).report
    assert slow["used"] == 6  # 9 frames at 8 frames/s do not hold 8 at 4
    with pytest.raises(DataError, match=r"none of 10 clips can be used \(9: too short for 40 frames.*; use shorter"):
        Batches(index, store, BatchSpec(frames=[40], sizes=[SIZE], rates=[8], batch=1))


def test_captions_that_are_missing_are_counted(tmp_path):
    none = dict.fromkeys(("caption_frame", "caption_video", "caption_merged"))
    index = made(tmp_path / "c", [*clips(3), clip(3, **none)])
    report = Batches(index, cached(index, tmp_path / "cache"), BatchSpec(frames=[8], sizes=[SIZE], rates=[8], batch=4))
    assert report.report["without a caption"] == 1
    batch = report.batch(0)
    place = batch["captions"].index("")
    assert batch["text_mask"][place].tolist() == [True] + [False] * 7 and not batch["text"][place].any()


def test_buckets_of_lengths_and_proportions(tmp_path):
    rows = [
        *clips(4),
        *(clip(i, frames=12) for i in range(4, 8)),
        *(clip(i, height=64, width=48) for i in range(8, 12)),
    ]
    index = made(tmp_path / "c", rows)
    sizes = [(48, 64), (64, 48)]
    store = cached(index, tmp_path / "cache", sizes)
    options = {"frames": [8, 16], "sizes": sizes, "rates": [8]}
    found = Batches(index, store, BatchSpec(batch=2, **options))
    assert found.report["buckets"] == {"8 frames at 48x64": 4, "16 frames at 48x64": 4, "16 frames at 64x48": 4}
    shapes = Counter(tuple(found.batch(step)["latents"].shape) for step in range(6))
    assert shapes == {(2, 8, 3, 6, 8): 2, (2, 16, 3, 6, 8): 2, (2, 16, 3, 8, 6): 2}
    with pytest.raises(DataError, match="bucket of 16 frames at 48x64 has 4 clips, fewer than a batch of 5"):
        Batches(index, store, BatchSpec(batch=5, **options))
    small = sizes[:1]
    merged = Batches(
        index, cached(index, tmp_path / "one", small), BatchSpec(batch=5, merge=True, **options | {"sizes": small})
    )
    assert merged.report["buckets"] == {"16 frames at 48x64": 8}
    assert merged.report["skipped"] == {"bucket of 8 frames at 48x64 has 4 clips, fewer than a batch of 5": 4}


def test_sizes_with_too_few_clips_join_the_nearest(tmp_path):
    rows = [*clips(6), clip(6, height=64, width=48)]
    index = made(tmp_path / "c", rows)
    sizes = usable_sizes(index.shape, [(48, 64), (64, 48)], 2)
    assert sizes == [(48, 64)]
    store = cached(index, tmp_path / "cache", sizes)
    found = Batches(index, store, BatchSpec(frames=[8], sizes=sizes, rates=[8], batch=7, merge=True))
    assert set(found.batch(0)["keys"]) == set(index.keys)


def test_rates_above_the_caches_are_refused(world):
    with pytest.raises(DataError, match="12 frames/s are wanted, and clips are thinned to 4, 8; give the cache"):
        batches(world, rates=[4, 12])
    with pytest.raises(DataError, match="give frame rates > 0"):
        batches(world, rates=[])


def test_thinned_clips_are_told_their_rate(tmp_path):
    index = made(tmp_path / "c", [clip(i, fps=24, frames=48) for i in range(2)])
    store = cached(index, tmp_path / "cache")
    batch = Batches(index, store, BatchSpec(frames=[6], sizes=[SIZE], rates=[4], batch=2)).batch(0)
    assert batch["fps"].tolist() == [4.0, 4.0]
    for row in batch["latents"]:
        assert np.diff(frame_numbers(row)).tolist() == [6] * 5


def test_without_a_cache_a_bad_clip_is_replaced_by_another(tmp_path):
    rows = clips(12)
    rows[3], rows[5] = clip(3, data=b"no video"), clip(5, data=mp4(1))
    index = made(tmp_path / "c", rows)
    bad = {index.keys[3], index.keys[5]}
    options = {"frames": [8], "sizes": [SIZE], "rates": [8], "batch": 4, "seed": 2}
    with LiveLatents(PoolCodec(), LetterEncoder(), rates=[8], workers=1) as live:
        found = Batches(index, live, BatchSpec(**options))
        epoch = [found.batch(step) for step in range(3)]
        keys = [key for batch in epoch for key in batch["keys"]]
        assert not bad & set(keys) and len(keys) == 12 and found.report["substituted"] == 2
        assert sum(found.report["skipped"].values()) == 2
        for batch in epoch:
            assert len(set(batch["keys"])) == 4
            halves = [found.batch(batch["step"], rank, 2) for rank in range(2)]
            assert halves[0]["keys"] + halves[1]["keys"] == batch["keys"]


def test_without_a_cache_nothing_that_decodes_is_an_error(tmp_path):
    index = made(tmp_path / "c", [clip(i, data=b"no video") for i in range(4)])
    with (
        LiveLatents(PoolCodec(), LetterEncoder(), rates=[8], workers=1) as live,
        pytest.raises(DataError, match=r"cannot be decoded .*; nor can 2 others in its place"),
    ):
        Batches(index, live, BatchSpec(frames=[8], sizes=[SIZE], rates=[8], batch=2)).batch(0)


# --- ahead of the training


def test_iterating_gives_the_batches_in_order(world):
    made = batches(world, images=0.25)
    found = list(made.iterate(3, 9, rank=1, world=2))
    for step, batch in zip(range(3, 9), found, strict=True):
        same(batch, made.batch(step, 1, 2))
    assert not list(made.iterate(5, 5))


def background():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_iterating_stops_when_it_is_closed(world):
    ahead = batches(world).iterate(0, 10**9)
    next(ahead)
    assert background()
    ahead.close()
    assert not background()


def test_an_error_in_the_background_is_raised_here(world):
    class Broken:
        rates, max_frames, unusable, folder = (4, 8), 128, world[2].unusable, None

        def latents(self, *_):
            raise DataError("the disk is gone")

    ahead = batches(world, Broken()).iterate(0, 5)
    with pytest.raises(DataError, match="the disk is gone"):
        next(ahead)
    assert not background()


# --- pixels


def test_frames_to_train_a_codec_on(world):
    index = world[1]
    frames = sample_frames(index, (32, 32), 200, seed=1, workers=1)
    assert frames.shape == (200, 3, 32, 32) and frames.dtype == np.uint8
    assert set(frame_numbers(frames)) == set(range(24))
    np.testing.assert_array_equal(frames[:9], sample_frames(index, (32, 32), 200, seed=1, workers=2)[:9])
    assert (frames[:9] != sample_frames(index, (32, 32), 9, seed=2, workers=1)).any()


def test_windows_as_the_reference_of_metrics(world):
    index = world[1].split(0)[0]
    pixels, captions, fps, motion, keys = sample_windows(index, (32, 32), 5, 4, 30, workers=1)
    assert pixels.shape == (30, 5, 3, 32, 32) and pixels.dtype == np.uint8 and set(keys) == set(index.keys[:24])
    assert (np.diff(frame_numbers(pixels), axis=1) == 2).all() and (fps == 4).all()
    for key, caption, score in zip(keys, captions, motion, strict=True):
        assert caption.endswith(f" of {int(score)}") and index.keys[int(score)] == key
    again = sample_windows(index, (32, 32), 5, 4, 30, workers=2)
    np.testing.assert_array_equal(pixels, again[0])
    assert captions == again[1] and keys == again[4]
    with pytest.raises(DataError, match="none of 30 clips holds 30 frames at 8 frames/s"):
        sample_windows(index, (32, 32), 30, 8, 4)


def test_pixels_of_clips_that_cannot_be_decoded(tmp_path):
    index = made(tmp_path / "c", [clip(0, data=b"no video"), clip(1)])
    assert sample_frames(index, (16, 16), 6, workers=1).shape == (6, 3, 16, 16)
    assert set(sample_windows(index, (16, 16), 4, 8, 3, workers=1)[4]) == {index.keys[1]}
    with pytest.raises(DataError, match="not one of 1 clips can be decoded"):
        sample_frames(index.select(np.array([0])), (16, 16), 3, workers=1)
