"""Pans, zooms and objects of known speed, at two resolutions and two frame rates."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import pytest

from curate.clip import Clip
from curate.motion import FlowMotion, camera

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
@pytest.mark.parametrize("size", [96, 144])
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
    pan, zoom, residual = camera(field)
    assert pan == pytest.approx((3, -1), abs=1e-3) and zoom == pytest.approx(4, abs=1e-3) and residual < 1e-3
