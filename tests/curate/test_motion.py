"""Pans, zooms and objects of known speed, at two resolutions and two frame rates."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import pytest

from curate.clip import Clip
from curate.observers.motion import FlowMotion, camera_motion

SCENE = 1600


@dataclass
class Seen:
    """A frame as FlowMotion sees it."""

    index: int
    time: float
    grey: np.ndarray


@lru_cache
def texture(seed: int = 0) -> np.ndarray:
    """[600, 1600] uint8 with detail at every scale, as pictures have."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.random((600 // s, SCENE // s)).astype(np.float32), (SCENE, 600), interpolation=cv2.INTER_CUBIC)
        * s**0.7
        for s in (6, 12, 24, 48, 96)
    ]
    total = sum(layers)
    return ((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)


def filmed(size: int, fps: float, seconds: float, place) -> list[Seen]:
    """The scene through a camera of 16:9, `size` px high. place(t): (x, y, magnification), x and y in shorter sides."""
    scene, width, out = texture(), size * 16 // 9, []
    for i in range(round(fps * seconds)):
        x, y, zoom = place(i / fps)
        scale = 300 / size / zoom
        left, top = 300 * (x + 0.9) - scale * width / 2, 300 * (y + 1.0) - scale * size / 2
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        view = cv2.warpAffine(scene, matrix, (width, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        out.append(Seen(i, i / fps, view))
    return out


def measured(frames: list[Seen]) -> dict:
    motion = FlowMotion()
    for frame in frames:
        motion.see(frame)
    clip = Clip(0, len(frames), 0.0, len(frames) / 25, 0.0, len(frames) / 25)
    motion.fill([clip])
    return clip.values


@pytest.mark.parametrize("fps", [25.0, 60.0])
@pytest.mark.parametrize("size", [90, 96, 144])
@pytest.mark.parametrize("speed", [0, 2, 5, 10, 25])
def test_a_pan_scores_its_speed(speed, size, fps):
    values = measured(filmed(size, fps, 3.1, lambda t: (speed / 100 * t, 0, 1)))
    assert values["motion_score"] == pytest.approx(speed, rel=0.1, abs=0.05)
    assert values["camera_pan_x"] == pytest.approx(speed, rel=0.1, abs=0.05)
    assert abs(values["camera_pan_y"]) < 0.3
    assert abs(values["camera_zoom"]) < 0.05 * speed + 0.1
    assert values["motion_residual"] < 0.1 * speed + 0.05
    assert values["motion_pairs"] == 6


def test_a_tilt_down_is_positive_and_leaves_x_alone():
    values = measured(filmed(96, 30, 2.1, lambda t: (0, 0.06 * t, 1)))
    assert values["camera_pan_y"] == pytest.approx(6, rel=0.1)
    assert abs(values["camera_pan_x"]) < 0.3


def test_a_zoom_in_is_positive_and_is_the_growth_a_second():
    values = measured(filmed(96, 30, 2.1, lambda t: (0.5, 0, 1.08**t)))
    assert values["camera_zoom"] == pytest.approx(100 * np.log(1.08), rel=0.15)
    assert abs(values["camera_pan_x"]) < 0.5


@pytest.mark.parametrize("contrast", [0.2, 0.5])
def test_a_slow_pan_over_a_faint_picture_is_not_taken_for_stillness(contrast):
    frames = filmed(96, 25, 3.1, lambda t: (0.02 * t, 0, 1))
    for frame in frames:
        frame.grey = (100 + contrast * frame.grey).astype(np.uint8)
    assert measured(frames)["motion_score"] == pytest.approx(2, rel=0.25)


def test_noise_of_less_than_a_level_is_no_motion():
    rng, scene = np.random.default_rng(0), texture()[:96, :170]
    frames = [
        Seen(i, i / 25, np.clip(scene + (rng.random(scene.shape) < 0.1), 0, 255).astype(np.uint8)) for i in range(60)
    ]
    assert measured(frames)["motion_score"] == 0


def test_an_object_moves_before_a_still_camera():
    scene = texture()[:96, :170].copy()
    frames = []
    for i in range(60):
        view = scene.copy()
        left = 30 + round(i * 0.8)
        view[30:60, left : left + 30] = texture(1)[:30, :30]
        frames.append(Seen(i, i / 30, view))
    values = measured(frames)
    assert values["motion_residual"] > 0.9 * values["motion_score"] > 0.5
    assert abs(values["camera_pan_x"]) < 0.2 * values["motion_score"]


def test_the_score_is_per_second_of_real_time_when_frames_are_missing():
    frames = [f for f in filmed(96, 25, 4, lambda t: (0.05 * t, 0, 1)) if not 0.7 < f.time < 1.9]
    assert measured(frames)["motion_score"] == pytest.approx(5, rel=0.1)


def test_a_pair_counts_only_for_the_clip_that_it_lies_in():
    still = filmed(96, 20, 2, lambda t: (0, 0, 1))
    moving = filmed(96, 20, 2, lambda t: (0.1 * t, 0.3, 1))
    for frame in moving:
        frame.index, frame.time = frame.index + 40, frame.time + 2
    motion = FlowMotion()
    for frame in [*still, *moving]:
        motion.see(frame)
    clips = [Clip(0, 40, 0, 2, 0, 2), Clip(40, 80, 2, 4, 2, 4), Clip(33, 38, 1.65, 1.9, 0, 2)]
    motion.fill(clips)
    assert clips[0].values["motion_score"] < 0.05  # the pair over the cut would have added much
    assert clips[1].values["motion_score"] == pytest.approx(10, rel=0.1)
    assert [clip.values["motion_pairs"] for clip in clips] == [3, 3, 0]
    assert clips[2].values["motion_score"] is None and "no two frames" in clips[2].errors["motion"]


def test_pictures_of_another_shape_are_not_compared():
    frames = [*filmed(96, 10, 1, lambda t: (0, 0, 1)), *filmed(120, 10, 1, lambda t: (0, 0, 1))]
    motion = FlowMotion()
    for i, frame in enumerate(frames):
        motion.see(Seen(i, i / 10, frame.grey))
    assert [(s.first, s.last) for s in motion.samples] == [(0, 5), (10, 15)]


def test_the_camera_fit_takes_pan_zoom_and_roll_out_of_a_field():
    h, w = 16, 28
    y, x = np.mgrid[0:h, 0:w]
    x, y = (x - (w - 1) / 2) / h, (y - (h - 1) / 2) / h
    field = np.stack([-3 + 4 * x - 2 * y, 1 + 4 * y + 2 * x], -1)
    pan, zoom, residual = camera_motion(field)
    assert pan == pytest.approx((3, -1), abs=1e-3) and zoom == pytest.approx(4, abs=1e-3) and residual < 1e-3


def timed(frames: list[Seen], times) -> list[Seen]:
    return [Seen(i, float(time), frame.grey) for i, (frame, time) in enumerate(zip(frames, times, strict=True))]


def scored(frames: list[Seen], end: float, last: int | None = None) -> dict:
    """The clip of the frames up to `last`, exclusive, shown until the next one or `end`."""
    motion, last = FlowMotion(), last or len(frames)
    for frame in frames:
        motion.see(frame)
    until = frames[last].time if last < len(frames) else end
    clip = Clip(0, last, frames[0].time, until, frames[0].time, until)
    motion.fill([clip], end)
    return clip.values


def test_a_frame_that_stays_is_stillness_wherever_it_stays():
    """A pan of 6 percent a second for 4 s, and 8 s in which nothing moves: 24 percent in 12 s."""
    pan = filmed(96, 10, 4.0, lambda t: (0.06 * t, 0, 1))
    for place in (0, 1, 7, 10, 25, 39):  # the frame that stays
        times = np.arange(40) / 10 + np.where(np.arange(40) > place, 8.0, 0.0)
        values = scored(timed(pan, times), times[-1] + (8.1 if place == 39 else 0.1))
        assert values["motion_score"] == pytest.approx(2, rel=0.15)
        assert values["camera_pan_x"] == pytest.approx(2, rel=0.15)


def test_a_still_before_the_next_shot_counts_for_its_clip_alone():
    pan = filmed(96, 10, 2.0, lambda t: (0.06 * t, 0, 1))
    times = np.r_[np.arange(20) / 10, 10 + np.arange(20) / 10]
    values = scored(timed([*pan, *pan], times), 12.0, last=20)
    assert values["motion_score"] == pytest.approx(1.2, rel=0.15)


def test_two_frames_that_are_close_do_not_stand_for_half_a_second():
    """Two pictures 10 percent of a shorter side apart, a 60th of a second between them, shown for 9 s and half a one."""
    scene = filmed(96, 10, 0.3, lambda t: (t, 0, 1))
    long = scored(timed(scene[:2], (1.0, 1.0 + 1 / 60)), 1.5 + 1 / 60)
    assert long["motion_score"] is None or long["motion_score"] < 25
    values = scored(timed([scene[0], scene[1], scene[1], scene[1]], (0.0, 9.0 - 1 / 60, 9.0, 9.4)), 9.6)
    assert values["motion_score"] == pytest.approx(10 / 9, rel=0.2)
    close = scored(timed([scene[0], scene[0], scene[1], scene[1]], (0.0, 0.499, 0.501, 1.2)), 1.4)
    assert close["motion_score"] < 12


def test_the_same_pictures_score_alike_at_steady_and_at_uneven_times():
    pan = filmed(96, 20, 4.0, lambda t: (0.05 * t, 0, 1))
    kept = [frame for i, frame in enumerate(pan) if i % 7 in (0, 1, 4)]  # a recorder that drops frames
    steady, uneven = measured(pan), scored([Seen(i, f.time, f.grey) for i, f in enumerate(kept)], 4.0)
    assert uneven["motion_score"] == pytest.approx(steady["motion_score"], rel=0.05)


@pytest.mark.parametrize("fps", [0.5, 1.0, 1.5, 2.0, 3.0, 7.0])
def test_a_slow_steady_rate_is_not_stillness(fps):
    values = measured(filmed(96, fps, 9.0, lambda t: (0.03 * t, 0, 1)))
    assert values["motion_score"] == pytest.approx(3, rel=0.1)


def test_one_picture_for_nine_seconds_is_still():
    values = scored(timed(filmed(96, 1, 1, lambda t: (0, 0, 1)), [2.0]), 11.0)
    assert values["motion_score"] == 0 and values["motion_pairs"] == 0


def test_a_gap_in_the_clock_is_in_no_clip():
    """A clip whose last frame ends, and the next one that comes an hour later."""
    pan = filmed(96, 10, 2.0, lambda t: (0.06 * t, 0, 1))
    motion = FlowMotion()
    for frame in timed([*pan, *pan], np.r_[np.arange(20) / 10, 3600 + np.arange(20) / 10]):
        motion.see(frame)
    clips = [Clip(0, 20, 0.0, 2.0, 0.0, 2.0), Clip(20, 40, 3600.0, 3602.0, 3600.0, 3602.0)]
    motion.fill(clips, 3602.0)
    for clip in clips:
        assert clip.values["motion_score"] == pytest.approx(6, rel=0.1)
