"""Which frames are taken at a rate: the nearest to the asked times, read off the pixels; and the rate that is told."""

import io
from collections import Counter
from contextlib import closing
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video_model.clips import STEP, LetterEncoder, PoolCodec, clip, frame_numbers, mp4, write_clips
from video_model.data.buckets import draws
from video_model.data.decoding import Job, frames_of
from video_model.data.excerpts import sample_windows
from video_model.data.index import open_index
from video_model.data.windows import Stretch, Thinned, Window, chosen, kept_for, places, rate_of
from video_model.errors import DataError
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import build_cache
from video_model.latents.live import LiveLatents

SIZE = (48, 64)
FILM = 24000 / 1001
NTSC = 60000 / 1001


def even(count, fps):
    return np.arange(count) / fps


def uneven(stamps, tick=Fraction(1, 1000)):
    """A lossless clip whose frame i, of level STEP * i, is shown at stamps[i] ticks."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=30, options={"qp": "0", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.time_base = stream.codec_context.time_base = tick
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), STEP * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("fps", "rate", "frames"),
    [
        (30, 8, [0, 4, 8, 11, 15, 19, 23, 26, 30]),  # 0, 3.75, 7.5, 11.25 ...: of two as near, the later
        (30, 12, [0, 3, 5, 8, 10, 13, 15, 18, 20]),
        (24, 7, [0, 3, 7, 10, 14, 17, 21, 24, 27]),
        (FILM, 8, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        (25, 24, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (60, NTSC, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (12, 24, [0, 1, 2, 3, 4, 5, 6, 7, 8]),  # faster than the clip: its own
        (12, 12, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (NTSC, 4, [0, 15, 30, 45, 60, 75, 90, 105, 120]),
    ],
)
def test_the_nearest_frame_to_each_asked_time(fps, rate, frames):
    found = places(even(400, fps), fps, (rate,))
    assert found[:9].tolist() == frames
    assert np.abs(found[:20] / fps - np.arange(20) / min(rate, fps)).max() <= 0.5 / fps + 1e-6


@pytest.mark.parametrize("fps", [12, FILM, 24, 25, 29.97, 30, 50, NTSC, 60, 120])
@pytest.mark.parametrize("rate", [1, 3.7, 4, 7, 8, 12, 15, FILM, 24, 25, 30, 60])
def test_the_told_rate_is_the_asked_one_within_the_rounding_of_a_window(fps, rate):
    times = even(4000, fps)
    for first in (0, 1, 17):
        place, window = chosen(times, fps, Window(first, 9, rate))
        assert place == first
        assert len(set(window)) == 9 and (np.diff(window) > 0).all()
        wanted = 8 / min(rate, fps)
        assert abs(8 / rate_of(times[window]) - wanted) <= (0 if rate >= fps else 1 / fps) + 1e-5
    every = places(times, fps, (rate,))
    assert rate_of(times[every]) == pytest.approx(min(rate, fps), rel=0.02)


def test_what_is_kept_for_several_rates_is_enough_for_each():
    for fps in (FILM, 25, 30, NTSC):
        for rates in ((4, 8, 12), (7, 8), (3.7, 15, FILM), (8, 24)):
            times = even(203, fps)
            kept = places(times, fps, rates)
            for rate in rates:
                own = kept[places(times[kept], fps, (rate,))]
                assert own.tolist() == places(times, fps, (rate,)).tolist(), (fps, rates, rate)


def test_long_clips_give_their_middle():
    clips = Thinned(np.array([100, 5, 0, 7]), np.array([10.0, 10.0, 10.0, np.nan]), [5], limit=10)
    assert clips.stretch(0) == Stretch(40, 59, 10.0, (5,)) and clips.count(0) == 10
    assert [clips.count(row) for row in (1, 2, 3)] == [3, 0, 7]  # frames 0, 2, 4; none; all where the rate is unknown
    assert [clips.longest(row, [5], [2, 3, 9]) for row in range(4)] == [9, 3, 0, 0]


def test_rates_that_fit_are_drawn_alike_and_windows_reach_both_ends():
    clips, seen = Thinned(np.array([10]), np.array([8.0])), Counter()
    for i in range(900):
        window = clips.draw(0, 4, [2, 4, 8], draws(0, i))
        _, taken = chosen(even(10, 8), 8, window)
        assert len(taken) == 4 and taken[-1] <= 9
        seen[window.rate, int(taken[0])] += 1
    assert set(seen) == {(8.0, first) for first in range(7)} | {
        (4.0, first) for first in (0, 2)
    }  # 2 frames/s: too long
    assert abs(sum(count for (rate, _), count in seen.items() if rate == 4) - 450) < 4 * 15


def test_rates_of_a_range_are_uniform_among_those_that_fit():
    clips = Thinned(np.array([49]), np.array([24.0]), [24])
    rates = [clips.draw(0, 9, {"min": 2, "max": 24}, draws(0, i)).rate for i in range(2000)]
    # 9 frames of 49 at 24 frames/s: 8 / rate < 48.5 / 24 s
    low = 8 * 24 / 48.5
    counts, _ = np.histogram(rates, bins=10, range=(low, 24))
    assert counts.sum() == 2000 and np.abs(counts - 200).max() < 4 * np.sqrt(180)


@pytest.mark.parametrize(("fps", "rates"), [(30, [8]), (NTSC, [4, 8, 12]), (FILM, [8]), (25, {"min": 5, "max": 24})])
def test_batches_of_a_cache_and_of_decoding_take_these_frames_and_tell_their_rate(fps, rates, tmp_path):
    rate = Fraction(fps).limit_denominator(1001)
    rows = [clip(i, fps=fps, frames=49, data=mp4(49, rate)) for i in range(3)]
    index = open_index(write_clips(tmp_path / "c", rows))
    kept, spec = kept_for([rates]), BatchSpec(frames=[4], sizes=[SIZE], rates=rates, batch=3)
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "l", sizes=[SIZE], rates=kept, workers=1)
    with LiveLatents(PoolCodec(), LetterEncoder(), rates=kept, workers=1) as live:
        one, other = Batches(index, cache, spec), Batches(index, live, spec)
        for step in range(4):
            a, b = one.batch(step), other.batch(step)
            numbers = frame_numbers(a["latents"])
            assert numbers.tolist() == frame_numbers(b["latents"]).tolist() and a["fps"].tolist() == b["fps"].tolist()
            assert (np.diff(numbers) > 0).all()
            np.testing.assert_allclose(a["fps"], 3 * fps / (numbers[:, -1] - numbers[:, 0]), rtol=1e-5)
            if isinstance(rates, list):
                off = np.abs(3 / a["fps"].numpy()[:, None] - 3 / np.array(rates))
                assert (off.min(1) <= 1 / fps + 1e-5).all()


def test_uneven_frames_are_taken_by_their_times_and_the_true_rate_is_told(tmp_path):
    """24 frames in 2 s: 20 in the first, 4 in the second; and a clip that ends early by its own times."""
    stamps = [*range(0, 1000, 50), 1000, 1250, 1500, 1750]
    data = uneven(stamps)
    stretch = Stretch(0, 24, 12.0, (4.0,))
    found = frames_of(Job("video", stretch, (16, 16), data))
    assert frame_numbers(found.pixels.transpose(0, 3, 1, 2)).tolist() == [0, 5, 10, 15, 20, 21, 22, 23]
    np.testing.assert_allclose(found.times, np.arange(8) / 4, atol=1e-6)
    index = open_index(write_clips(tmp_path / "c", [clip(0, fps=12, data=data)], shards=1))
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "l", sizes=[SIZE], rates=[4, 12], workers=1)
    with LiveLatents(PoolCodec(), LetterEncoder(), rates=[4, 12], workers=1) as live:
        for rate, length in ((4, 5), (12, 12)):
            seen = set()
            for step in range(20):
                spec = BatchSpec(frames=[length], sizes=[SIZE], rates=[rate], batch=1, seed=step)
                one, other = (Batches(index, store, spec).batch(0) for store in (cache, live))
                numbers = frame_numbers(one["latents"])[0]
                assert numbers.tolist() == frame_numbers(other["latents"])[0].tolist()
                assert len(set(numbers.tolist())) == length and one["fps"] == other["fps"]
                true = (length - 1) * 1000 / (stamps[numbers[-1]] - stamps[numbers[0]])
                assert one["fps"].item() == pytest.approx(true, rel=1e-5)
                seen.add(int(numbers[0]))
            assert len(seen) > 2
        spec = BatchSpec(frames=[5], sizes=[SIZE], rates=[4], batch=1, pixels=True)
        for store in (cache, live):
            with closing(Batches(index, store, spec)) as made:
                for step in range(4):  # the picture that a network is shown is the first of the window
                    batch = made.batch(step)
                    assert frame_numbers(batch["pixels"])[0] == frame_numbers(batch["latents"])[0, 0]


def test_a_window_past_the_end_of_uneven_frames_is_the_last_one_or_none():
    stamps = [0, 20, 40, 60, 80, 100, 120, 140, 160, 960]  # 10 frames, 10 frames/s, but for the eye few
    data = uneven(stamps)
    for rate, first, frames in ((5, 3, None), (12, 6, [6, 7, 8, 9]), (10.0, 2, [2, 3, 4, 5])):
        job = Job("video", Stretch(0, 10, 10.0, (rate,), Window(first, 4, rate)), (16, 16), data)
        if frames is None:
            with pytest.raises(Exception, match=r"is too short for 4 frames at 5 frames/s .* uneven: has 3"):
                frames_of(job)
        else:
            assert frame_numbers(frames_of(job).pixels.transpose(0, 3, 1, 2)).tolist() == frames
        times = frames_of(Job("video", Stretch(0, 10, 10.0, (rate,)), (16, 16), data)).times
        place, grid = chosen(times, 10.0, Window(first, 4, rate))
        assert (place, len(grid)) == ((-1, 3) if frames is None else (min(first, 6), 4))
    late = Job("video", Stretch(0, 10, 10.0, None, Window(9, 4)), (16, 16), data)
    assert frame_numbers(frames_of(late).pixels.transpose(0, 3, 1, 2)).tolist() == [6, 7, 8, 9]


def test_windows_of_the_evaluation_are_the_same_frames(tmp_path):
    index = open_index(write_clips(tmp_path / "c", [clip(0, fps=30, frames=49)], shards=1))
    pixels, _, fps, *_ = sample_windows(index, SIZE, 5, 8, 12, workers=1)
    grid = [0, 4, 8, 11, 15, 19, 23, 26, 30, 34, 38, 41, 45]
    for window, told in zip(frame_numbers(pixels), fps, strict=True):
        first = grid.index(window[0])
        assert window.tolist() == grid[first : first + 5] and told == pytest.approx(4 * 30 / (window[4] - window[0]))
    (pixels, _, fps, *_) = sample_windows(index, SIZE, 5, 60, 3, workers=1)
    assert (np.diff(frame_numbers(pixels)) == 1).all() and fps == pytest.approx(30)


def test_a_rate_that_the_cache_was_not_made_for_is_refused(tmp_path):
    index = open_index(write_clips(tmp_path / "c", [clip(0)], shards=1))
    cache = build_cache(index, PoolCodec(), LetterEncoder(), tmp_path / "l", sizes=[SIZE], rates=[4, 8], workers=1)
    for rates, wrong in (([8, 6], "6"), ([12], "12"), ({"min": 4, "max": 9}, "9")):
        with pytest.raises(DataError, match=f"rates: {wrong} frames/s are wanted, and clips are thinned to 4, 8"):
            Batches(index, cache, BatchSpec(frames=[4], sizes=[SIZE], rates=rates, batch=1))
    Batches(index, cache, BatchSpec(frames=[4], sizes=[SIZE], rates={"min": 2, "max": 7}, batch=1))
