"""Windows, buckets and the order of batches: numbers in, numbers out."""

from collections import Counter

import numpy as np
import pytest

from video_model.data.buckets import (
    Bucket,
    Plan,
    draw_window,
    draws,
    grid,
    longest_fit,
    make_buckets,
    nearest_size,
    strides,
    usable_sizes,
)
from video_model.errors import DataError


def test_clips_are_thinned_evenly():
    clips = grid(np.array([25, 10, 1, 7]), np.array([25.0, 30.0, np.nan, 6.0]), rate=8)
    assert clips.stride.tolist() == [3, 4, 1, 1]  # 25 / 8 = 3.1, 30 / 8 = 3.75, unknown, slower than asked for
    assert clips.frames(0).tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24] and clips.frames(1).tolist() == [0, 4, 8]
    np.testing.assert_allclose(clips.fps, [25 / 3, 7.5, np.nan, 6.0])


def test_long_clips_give_their_middle():
    clips = grid(np.array([100, 5]), np.array([10.0, 10.0]), rate=5, limit=10)
    assert clips.frames(0).tolist() == list(range(40, 60, 2)) and clips.frames(1).tolist() == [0, 2, 4]


def test_strides_of_a_list():
    assert strides(24, [8]) == {3: 1.0}
    assert strides(24, [8, 12, 24]) == {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}
    assert strides(10, [4]) == {3: 1.0}  # 2.5 rounds up
    assert strides(5, [24, 8]) == {1: 1.0}


def test_strides_of_a_range_are_those_of_a_uniform_rate():
    found = strides(24, {"min": 4, "max": 24})
    rates = np.linspace(4, 24, 200001)
    counts = Counter(np.maximum(1, np.floor(24 / rates + 0.5)).astype(int).tolist())
    assert list(found) == sorted(counts) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(found.values()), [counts[s] / len(rates) for s in found], atol=1e-4)
    assert sum(found.values()) == pytest.approx(1) and strides(3, {"min": 4, "max": 24}) == {1: 1.0}


def test_windows_stay_inside_and_reach_both_ends():
    options, seen = strides(8, [2, 4, 8]), set()
    for i in range(600):
        start, stride = draw_window(10, 4, options, draws(0, i))
        assert start >= 0 and start + 3 * stride <= 9
        seen.add((start, stride))
    assert seen == {(s, 1) for s in range(7)} | {(s, 2) for s in range(4)}  # stride 4 spans 13 frames: does not fit


def test_the_longest_that_fits():
    assert [longest_fit(count, 1, [4, 8, 16]) for count in (3, 4, 7, 8, 15, 16, 90)] == [0, 4, 4, 8, 8, 16, 16]
    assert longest_fit(15, 2, [4, 8]) == 8 and longest_fit(14, 2, [4, 8]) == 4


def test_the_nearest_proportions():
    sizes = [(64, 64), (48, 96), (96, 48)]
    shapes = np.array([[1080, 1920], [1920, 1080], [500, 480], [0, 0], [100, 130]])
    assert nearest_size(shapes, sizes).tolist() == [1, 2, 0, 0, 0]


def test_sizes_with_too_few_clips_are_given_up():
    sizes, shapes = [(64, 64), (48, 96), (96, 48)], np.array([[50, 100]] * 5 + [[100, 50]] * 2 + [[70, 64]] * 9)
    assert usable_sizes(shapes, sizes, 4) == [(64, 64), (48, 96)]
    assert usable_sizes(shapes, sizes, 2) == sizes and usable_sizes(shapes, sizes, 99) == [(64, 64)]


SIZE = (64, 64)


def test_a_bucket_smaller_than_a_batch_fails_loudly():
    rows = [(i, 8, SIZE) for i in range(8)] + [(8, 16, SIZE)]
    with pytest.raises(DataError, match="bucket of 16 frames at 64x64 has 1 clip, fewer than a batch of 4; use a smal"):
        make_buckets(rows, 4)


def test_or_is_merged_into_the_next_shorter():
    rows = [(i, 8, SIZE) for i in range(4)] + [(i, 16, SIZE) for i in range(4, 7)] + [(9, 4, SIZE), (10, 8, (32, 64))]
    made, left_out = make_buckets(rows, 4, merge=True)
    assert [(str(b), b.rows.tolist()) for b in made] == [("8 frames at 64x64", [0, 1, 2, 3, 4, 5, 6])]
    assert sorted(b.rows.tolist() for b, _ in left_out) == [[9], [10]]
    assert left_out[0][1].endswith("fewer than a batch of 4")
    with pytest.raises(DataError, match="there is no other"):
        make_buckets(rows[-1:], 4, merge=True)


def test_merged_step_by_step():
    rows = [(0, 16, SIZE), (1, 8, SIZE), (2, 4, SIZE)]
    made, left_out = make_buckets(rows, 3, merge=True)
    assert [(b.frames, b.rows.tolist()) for b in made] == [(4, [0, 1, 2])] and not left_out


@pytest.fixture
def plan():
    return Plan([Bucket(8, SIZE, np.arange(12)), Bucket(16, SIZE, np.arange(12, 22))], 4, 7, "clips")


def test_every_clip_at_most_once_an_epoch(plan):
    assert plan.per_epoch == 5  # 3 batches of 12, 2 of 10
    for epoch in range(6):
        seen = Counter()
        for number in range(5 * epoch, 5 * epoch + 5):
            bucket, rows = plan.at(number)
            assert len(rows) == 4 and set(rows) <= set(bucket.rows)
            seen.update(rows.tolist())
        assert max(seen.values()) == 1 and set(range(12)) <= set(seen) and len(seen) == 20


def test_those_that_sit_out_change(plan):
    out = {
        row for epoch in range(20) for row in set(range(22)) - {r for n in range(5) for r in plan.at(5 * epoch + n)[1]}
    }
    assert len(out) >= 8  # of the 10 of the second bucket


def test_the_order_is_of_seed_and_number_only(plan):
    forward = [plan.at(number)[1].tolist() for number in range(15)]
    again = Plan(plan.buckets, 4, 7, "clips")
    assert [again.at(number)[1].tolist() for number in reversed(range(15))] == forward[::-1]
    assert [Plan(plan.buckets, 4, 8, "clips").at(number)[1].tolist() for number in range(15)] != forward
    assert forward[:5] != forward[5:10]
