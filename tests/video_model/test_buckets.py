"""Buckets and the order of batches: numbers in, numbers out."""

from collections import Counter

import numpy as np
import pytest

from video_model.data.buckets import (
    Bucket,
    Plan,
    make_buckets,
    nearest_size,
    usable_sizes,
)
from video_model.errors import DataError


def test_the_nearest_proportions():
    sizes = [(64, 64), (48, 96), (96, 48)]
    shapes = np.array([[1080, 1920], [1920, 1080], [500, 480], [0, 0], [100, 130]])
    assert nearest_size(shapes, sizes).tolist() == [1, 2, 0, 0, 0]


def test_sizes_with_too_few_clips_are_given_up():
    sizes, shapes = [(64, 64), (48, 96), (96, 48)], np.array([[50, 100]] * 5 + [[100, 50]] * 2 + [[70, 64]] * 9)
    assert usable_sizes(shapes, sizes, 4) == [(64, 64), (48, 96)]
    assert usable_sizes(shapes, sizes, 2) == sizes and usable_sizes(shapes, sizes, 99) == [(64, 64)]


SIZE = (64, 64)


def grouped(rows):
    groups = {}
    for row, frames, size in rows:
        groups.setdefault((frames, size), []).append(row)
    return {key: np.array(members) for key, members in groups.items()}


def test_a_bucket_smaller_than_a_batch_fails_loudly():
    rows = [(i, 8, SIZE) for i in range(8)] + [(8, 16, SIZE)]
    with pytest.raises(DataError, match="bucket of 16 frames at 64x64 has 1 clip, fewer than a batch of 4; use a smal"):
        make_buckets(grouped(rows), 4)


def test_or_is_merged_into_the_next_shorter():
    rows = [(i, 8, SIZE) for i in range(4)] + [(i, 16, SIZE) for i in range(4, 7)] + [(9, 4, SIZE), (10, 8, (32, 64))]
    made, left_out = make_buckets(grouped(rows), 4, merge=True)
    assert [(str(b), b.rows.tolist()) for b in made] == [("8 frames at 64x64", [0, 1, 2, 3, 4, 5, 6])]
    assert sorted(b.rows.tolist() for b, _ in left_out) == [[9], [10]]
    assert left_out[0][1].endswith("fewer than a batch of 4")
    with pytest.raises(DataError, match="there is no other"):
        make_buckets(grouped(rows[-1:]), 4, merge=True)


def test_merged_step_by_step():
    rows = [(0, 16, SIZE), (1, 8, SIZE), (2, 4, SIZE)]
    made, left_out = make_buckets(grouped(rows), 3, merge=True)
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
