"""Shots to clips: known answers for even and uneven times, and for recordings that were interrupted."""

import numpy as np
import pytest

from curate.observers.detectors import Shot
from curate.observers.dividing import clips_of, split_at
from curate.video.clock import Clock, interruptions, rate
from curate.video.timeline import frame_ends


def test_clips_of_divides_evenly_and_drops_short_shots():
    times = [10 + i / 25 for i in range(300)]
    shots = [Shot(0, 20), Shot(20, 50), Shot(60, 300)]
    clips = clips_of(shots, times, [*times[1:], times[-1] + 1 / 25], min_seconds=1.0, max_seconds=4.0)
    assert [(c.start_frame, c.end_frame) for c in clips] == [(20, 50), (60, 140), (140, 220), (220, 300)]
    assert [c.num_frames for c in clips] == [30, 80, 80, 80]
    assert clips[0].start_time == pytest.approx(10.8) and clips[0].end_time == pytest.approx(12.0)
    assert clips[-1].end_time == pytest.approx(22.0)
    assert {(c.shot_start_time, c.shot_end_time) for c in clips[1:]} == {(times[60], times[-1] + 1 / 25)}
    exact = clips_of([Shot(0, 100)], times, times[1:], min_seconds=4.0, max_seconds=4.0)
    assert [(c.start_frame, c.end_frame) for c in exact] == [(0, 100)]


def test_a_long_shot_is_divided_by_time_not_by_frames():
    times = [0.0, 6.0, *(6.0 + i / 10 for i in range(1, 60))]  # a picture held for 6 s, then 10 a second
    ends = [*times[1:], 12.0]
    clips = clips_of([Shot(0, 61)], times, ends, min_seconds=1.0, max_seconds=8.0)
    assert [(c.start_frame, c.end_frame, c.end_time - c.start_time) for c in clips] == [
        (0, 1, 6.0),
        (1, 61, pytest.approx(6)),
    ]


def test_shots_end_where_the_recording_was_interrupted():
    assert split_at([Shot(0, 50), Shot(60, 90)], [0, 20, 55, 60, 89]) == [
        Shot(0, 20), Shot(20, 50), Shot(60, 89), Shot(89, 90)
    ]  # fmt: skip


STEADY = np.arange(50) / 25


@pytest.mark.parametrize("gap", [0.6, 60.0, 3600.0])
def test_a_jump_of_the_clock_is_an_interruption_and_no_time(gap):
    times = np.where(np.arange(50) < 30, STEADY, STEADY + gap)
    breaks = interruptions(times, np.full(50, 1 / 25))
    assert breaks.tolist() == [30]
    assert rate(times, breaks) == pytest.approx(25)
    ends = frame_ends(times, breaks, times[-1] + 0.04)
    assert (ends - times).sum() == pytest.approx(2.0)


def test_a_picture_that_the_file_holds_is_none_but_a_pause_is():
    """MP4 says of each frame how long it is shown: nine seconds are a still screen, a minute is a paused camera."""
    times = np.where(np.arange(50) < 30, STEADY, STEADY + 9)
    shown = np.r_[np.diff(times), 0.04]
    assert interruptions(times, shown).tolist() == []
    assert interruptions(times, np.zeros(50)).tolist() == [30]
    times = np.where(np.arange(50) < 30, STEADY, STEADY + 60)
    assert interruptions(times, np.r_[np.diff(times), 0.04]).tolist() == [30]


def test_slow_and_uneven_footage_is_not_interrupted():
    slides = np.arange(20) * 15.0
    assert interruptions(slides, np.zeros(20)).tolist() == []
    screen = np.cumsum(np.random.default_rng(3).choice([1 / 60, 0.5, 2.0], 200, p=[0.6, 0.3, 0.1]))
    assert interruptions(screen, np.zeros(200)).tolist() == []
    assert interruptions(np.array([1.0]), np.zeros(1)).tolist() == []
    assert rate(np.array([1.0]), np.zeros(0, int)) is None


def test_a_clock_that_is_sound_is_told_as_it_is():
    clock = Clock(0.04)
    assert [clock(t) for t in (5.0, 5.04, 5.2, 9.0)] == [5.0, 5.04, 5.2, 9.0]
    assert clock.sound and clock.breaks == []


def test_a_clock_that_steps_back_goes_on_with_its_own_steps():
    times = [*(i / 25 for i in range(50)), *(i / 25 - 8 / 100 for i in range(48, 90))]  # two frames overlap
    clock = Clock(0.001)  # what a header says of the rate is not believed
    mapped = [clock(t) for t in times]
    assert np.diff(mapped) == pytest.approx(np.full(91, 0.04))
    assert not clock.sound and clock.breaks == [50]


def test_one_frame_out_of_order_changes_nothing_after_it():
    times = [i / 25 for i in range(60)]
    times[30], times[40] = times[29], None
    clock = Clock(0.04)
    mapped = [clock(t) for t in times]
    assert mapped == pytest.approx([i / 25 for i in range(60)])
    assert not clock.sound and clock.breaks == [] and clock.repaired == 2
