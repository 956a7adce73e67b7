"""Shots and transitions in footage with known answers, drawn at 108 x 192 and reduced to thumbs of 27 x 48."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import pytest

from curate.observers.detectors import CascadeShots, Shot, TransNetShots

FPS = 25
HEIGHT, WIDTH = 108, 192


@dataclass
class Seen:
    index: int
    time: float
    thumb: np.ndarray


@lru_cache(maxsize=8)
def canvas(seed: int, height: int = 3 * HEIGHT, width: int = 6 * WIDTH, colour: bool = True) -> np.ndarray:
    """[height, width, 3] float32 0..255: areas of colour and finer texture, as of a scene; seeds differ in colours."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3), np.float32)
    for cell, share in ((54, 0.6), (18, 0.3), (6, 0.1)):
        noise = rng.random((height // cell + 2, width // cell + 2, 3), dtype=np.float32)
        out += share * cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    tint = rng.uniform(0.35, 1.0, 3).astype(np.float32)
    out = np.clip((out - 0.5) * 2.2 + 0.5, 0, 1) * 255 * tint
    return out if colour else out.mean(2, keepdims=True).repeat(3, 2)


def scene(seed: int, frames: int, pan: float = 0.6, zoom: float = 0.0, shake: float = 0.0, **kw) -> list[np.ndarray]:
    """A camera over a canvas: pan px a frame (of 192), zoom share a frame, shake px."""
    big, rng = canvas(seed, **kw), np.random.default_rng(seed + 1000)
    out = []
    for i in range(frames):
        scale = 1 + zoom * i
        x = WIDTH + pan * i + shake * rng.normal()
        y = HEIGHT + shake * rng.normal()
        matrix = np.float32([[1 / scale, 0, x], [0, 1 / scale, y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(big, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT))
    return out


def join(old: list, new: list, kind: str, n: int) -> list[np.ndarray]:
    """old, then n frames in which its last n become new's first n, then the rest of new."""
    middle = []
    for i in range(n):
        a, b, t = old[len(old) - n + i], new[i], (i + 1) / (n + 1)
        if kind == "dissolve":
            middle.append(a * (1 - t) + b * t)
        elif kind == "fade":
            middle.append(a * max(0, 1 - 2 * t) + b * max(0, 2 * t - 1))
        elif kind == "white":
            middle.append(255 + (a - 255) * max(0, 1 - 2 * t) + (b - 255) * max(0, 2 * t - 1))
        else:
            picture, edge = a.copy(), (HEIGHT if kind == "wipe down" else WIDTH) * t
            if kind == "wipe down":
                picture[: int(edge)] = b[: int(edge)]
            elif kind == "wipe left":
                picture[:, WIDTH - int(edge) :] = b[:, WIDTH - int(edge) :]
            else:
                picture[:, : int(edge)] = b[:, : int(edge)]
            middle.append(picture)
    return old[: len(old) - n] + middle + new[n:]


def watch(pictures: list, fps: float = FPS, detector=CascadeShots, noise: float = 0.7, times=None, **kw):
    rng = np.random.default_rng(0)
    observer = detector(**kw)
    jumps = []
    for i, picture in enumerate(pictures):
        small = cv2.resize(picture, (48, 27), interpolation=cv2.INTER_AREA)
        thumb = np.clip(small + noise * rng.normal(size=small.shape) + 0.5, 0, 255).astype(np.uint8)
        observer.see(Seen(i, i / fps if times is None else times[i], thumb))
        if observer.jumped:
            jumps.append(i)
    return observer.finish(), observer.transitions, jumps


def test_hard_cut_is_exact_and_announced():
    shots, transitions, jumps = watch(scene(1, 120) + scene(2, 80))
    assert shots == [Shot(0, 120), Shot(120, 200)]
    assert [(t.start, t.end, t.kind) for t in transitions] == [(120, 120, "cut")]
    assert 120 in jumps


LONG_WIPE = pytest.mark.xfail(
    reason="long wipes between drawn canvases are found too short, or not at all", strict=False
)
GRADUAL = [
    pytest.param(kind, n, marks=LONG_WIPE if "wipe" in kind and n == 32 else ())
    for kind in ("dissolve", "fade", "white", "wipe", "wipe left", "wipe down")
    for n in (10, 24, 32)
]


@pytest.mark.parametrize(("kind", "n"), GRADUAL)
def test_gradual_transition_is_found_and_left_out(kind, n):
    shots, transitions, _ = watch(join(scene(3, 100), scene(4, 100), kind, n))
    assert len(shots) == 2
    first, last = 100 - n, 100
    slack = 3 if "wipe" in kind else 1  # frames of the transition that may be left in a clip
    assert first - 3 <= shots[0].end <= first + slack
    assert last - slack <= shots[1].start <= last + 4
    names = {"white": "fade"}
    assert transitions[0].kind == names.get(kind, kind.split()[0])


@pytest.mark.parametrize("fps", [24, 60])
def test_frame_rates(fps):
    second = fps
    pictures = join(scene(5, 4 * second, pan=15 / fps), scene(6, 4 * second, pan=-15 / fps), "dissolve", second)
    shots, _, _ = watch(pictures + scene(7, 2 * second), fps=fps)
    assert len(shots) == 3
    assert abs(shots[0].end - 3 * second) <= 3 * fps / 25 and abs(shots[1].start - 4 * second) <= 3 * fps / 25
    assert shots[2].start == 7 * second


def test_long_dissolves_of_a_slide_show():
    slides = [[canvas(seed)[:HEIGHT, :WIDTH]] * n for seed, n in ((11, 100), (12, 150), (13, 100))]
    pictures = join(join(slides[0], slides[1], "dissolve", 50), slides[2], "dissolve", 50)
    shots, transitions, _ = watch(pictures)
    assert [t.kind for t in transitions] == ["dissolve", "dissolve"]
    assert (
        len(shots) == 3
        and abs(shots[0].end - 50) <= 3
        and abs(shots[1].start - 100) <= 3
        and abs(shots[2].start - 200) <= 3
    )


def test_cuts_near_each_other():
    shots, _, _ = watch(scene(1, 60) + scene(2, 12) + scene(3, 60))
    assert shots == [Shot(0, 60), Shot(60, 72), Shot(72, 132)]


def test_cut_between_similar_scenes():
    """The same place from another side: the same colours, another arrangement."""
    shots, _, _ = watch(scene(1, 60) + [np.ascontiguousarray(x[:, ::-1]) for x in scene(1, 60, pan=-0.6)])
    assert [s.start for s in shots] == [0, 60]


def test_grey_and_dark_and_letterboxed():
    for change in (lambda x: x.mean(2, keepdims=True).repeat(3, 2), lambda x: 4 + x * 0.15, letterbox):
        old, new = scene(3, 90), scene(4, 90)
        shots, transitions, _ = watch([change(x) for x in join(old, new, "dissolve", 20) + scene(5, 60)], noise=0.5)
        assert [t.kind for t in transitions] == ["dissolve", "cut"]
        assert abs(shots[0].end - 70) <= 3 and abs(shots[1].start - 90) <= 3 and shots[2].start == 160


def letterbox(picture: np.ndarray) -> np.ndarray:
    out = np.zeros_like(picture)
    out[14:-14] = cv2.resize(picture, (WIDTH, HEIGHT - 28), interpolation=cv2.INTER_AREA)
    return out


def test_variable_frame_rate():
    pictures = scene(1, 60) + scene(2, 60)
    times = np.cumsum(np.where(np.arange(120) % 3 == 0, 0.08, 0.03))
    assert watch(pictures, fps=20, times=times)[0] == [Shot(0, 60), Shot(60, 120)]


def with_flash(frames: int) -> list:
    pictures = scene(1, 150)
    for i, light in enumerate([1.0, 0.8, 0.5, 0.25, 0.1][:frames]):
        pictures[70 + i] = pictures[70 + i] * (1 - 0.9 * light) + 255 * 0.9 * light
    return pictures


def whip_pan() -> list:
    big, out, x = canvas(2), [], float(WIDTH)
    for i in range(140):
        x += 45 * np.exp(-(((i - 70) / 5) ** 2))
        left = round(x)
        width = max(1, round(45 * np.exp(-(((i - 70) / 5) ** 2))))
        picture = cv2.blur(big[HEIGHT : 2 * HEIGHT], (width, 1))
        out.append(picture[:, left : left + WIDTH].copy())
    return out


def strobe() -> list:
    return [x * (1.0 if (i // 3) % 2 else 0.25) for i, x in enumerate(scene(3, 150))]


def flicker() -> list:
    rng = np.random.default_rng(5)
    return [x * rng.uniform(0.6, 1.0) for x in scene(4, 150)]


def light_switched_on() -> list:
    return [x * (0.3 if i < 75 else 1.0) for i, x in enumerate(scene(5, 150))]


def passer_by() -> list:
    """A dark thing crosses close to the camera: comes in from the left, covers everything, leaves to the right."""
    thing, out = canvas(40)[:HEIGHT, : 2 * WIDTH] * 0.2, scene(6, 150)
    for i in range(24):
        left = -2 * WIDTH + round(i * 3 * WIDTH / 24)
        a, b = max(0, left), min(WIDTH, left + 2 * WIDTH)
        out[60 + i] = out[60 + i].copy()
        out[60 + i][:, a:b] = thing[:, a - left : b - left]
    return out


def stutter() -> list:
    """Footage at a true 5 frames a second: every picture shown five times."""
    return [x for x in scene(7, 40, pan=4) for _ in range(5)]


def lightning() -> list:
    rng, out = np.random.default_rng(3), [x * 0.25 for x in scene(15, 150)]
    for at in (40, 44, 52, 90, 93):
        for i, light in enumerate(rng.uniform(0.5, 1) * np.array([1, 0.8, 0.3, 0.1])):
            out[at + i] = np.minimum(255, out[at + i] * (1 + 4 * light))
    return out


def picture_in_picture() -> list:
    """A small window onto another scene opens in a corner, and closes."""
    out = scene(16, 150)
    for i, inner in enumerate(scene(17, 60)):
        out[50 + i][8:44, 118:182] = cv2.resize(inner, (64, 36), interpolation=cv2.INTER_AREA)
    return out


def subtitles() -> list:
    out = scene(18, 150, pan=0.1)
    for begin, end, width in ((10, 40, 90), (40, 62, 60), (80, 120, 110), (128, 150, 40)):
        for picture in out[begin:end]:
            picture[84:98, 96 - width // 2 : 96 + width // 2] = (250, 220, 30)
            picture[88:94, 100 - width // 2 : 92 + width // 2 : 5] = 10
    return out


NOT_CUTS = {
    "camera flash of one frame": lambda: with_flash(1),
    "camera flash that dies away": lambda: with_flash(5),
    "whip pan": whip_pan,
    "fast pan": lambda: scene(8, 120, pan=7),
    "shake": lambda: scene(9, 150, shake=8),
    "strobe": strobe,
    "flicker": flicker,
    "light switched on": light_switched_on,
    "passer-by": passer_by,
    "zoom": lambda: scene(10, 120, zoom=0.02),
    "lightning": lightning,
    "picture in picture": picture_in_picture,
    "subtitles": subtitles,
    "very fast pan": lambda: paced(8, 60, lambda i: 12),
    "move between two holds": lambda: paced(4, 120, lambda i: 14 * np.exp(-(((i - 60) / 8) ** 2))),
    "static": lambda: scene(11, 1) * 150,
    "stutter": stutter,
    "sunrise": lambda: [x * (0.25 + 0.75 * i / 150) for i, x in enumerate(scene(12, 150, pan=0.05))],
    "dark and noisy": lambda: [x * 0.02 for x in scene(13, 150)],
}


@pytest.mark.parametrize("name", NOT_CUTS)
def test_is_one_shot(name):
    pictures = NOT_CUTS[name]()
    assert watch(pictures)[0] == [Shot(0, len(pictures))]


def paced(seed: int, frames: int, speed) -> list[np.ndarray]:
    """A camera that moves speed(i) px in frame i, with the blur of that motion."""
    big, x, out = canvas(seed), float(WIDTH), []
    for i in range(frames):
        x += speed(i)
        picture = big[HEIGHT : 2 * HEIGHT, min(int(x), 5 * WIDTH) :][:, :WIDTH]
        out.append(cv2.blur(picture, (max(1, round(abs(speed(i)) / 2)), 1)))
    return out


def starts(pictures: list, **kw) -> list[int]:
    return [shot.start for shot in watch(pictures, **kw)[0]]


def test_cut_out_of_fast_motion_and_into_it():
    faster = paced(1, 60, lambda i: 0.5 + 14 * max(0, i - 40) / 20)
    slower = paced(2, 60, lambda i: 0.5 + 14 * max(0, 20 - i) / 20)
    assert starts(faster + scene(4, 60)) == [0, 60]
    assert starts(scene(5, 60) + slower) == [0, 60]
    assert starts(faster + slower) == [0, 60]


def test_cut_between_pictures_that_share_their_borders():
    """Wide bars, few points left between them, and two dark pictures of the same colours."""
    old = [letterbox(x * 0.4) for x in scene(6, 60)]
    new = [letterbox(np.ascontiguousarray(x[:, ::-1]) * 0.4) for x in scene(6, 60, pan=-0.6)]
    assert starts(old + new, noise=0.4) == [0, 60]


def test_cut_just_before_a_flash():
    """The step of the flash is larger than that of the cut, two frames earlier."""
    new = scene(7, 60)
    for i, light in enumerate([0.9, 0.5, 0.2]):
        new[2 + i] = new[2 + i] * (1 - light) + 255 * light
    assert starts(scene(3, 60) + new) == [0, 60]


def test_cut_at_a_low_true_rate():
    """Every picture twice, then another scene, also twice."""
    pictures = [x for seed in (1, 2) for x in scene(seed, 30, pan=2.5) for _ in range(2)]
    assert starts(pictures) == [0, 60]


def test_rate_is_that_of_the_times():
    """Three times as many frames a second: the cut is still exact, the dissolve still a second long."""
    times = np.arange(12 * 75) / 75
    second = 75
    pictures = join(scene(5, 4 * second, pan=0.2), scene(6, 5 * second, pan=-0.2), "dissolve", second) + scene(
        7, 4 * second, pan=0.2
    )
    shots, transitions, _ = watch(pictures, times=times)
    assert [t.kind for t in transitions] == ["dissolve", "cut"]
    assert (
        abs(shots[0].end - 3 * second) <= 9 and abs(shots[1].start - 4 * second) <= 9 and shots[2].start == 8 * second
    )


def test_dissolve_into_motion():
    shots, transitions, _ = watch(join(scene(3, 80, pan=0.2), scene(4, 90, pan=4), "dissolve", 20))
    assert [t.kind for t in transitions] == ["dissolve"]
    assert abs(shots[0].end - 60) <= 3 and abs(shots[1].start - 80) <= 4


def test_what_is_black_between_two_shots_belongs_to_none():
    """Fades out in 12 frames, black for 40, comes back in 12."""
    black = [np.zeros((HEIGHT, WIDTH, 3), np.float32)] * 40
    out = [x * (1 - (i + 1) / 13) for i, x in enumerate(scene(1, 12))]
    back = [x * (i + 1) / 13 for i, x in enumerate(scene(2, 12))]
    shots, transitions, _ = watch(scene(1, 60) + out + black + back + scene(2, 60), noise=0.4)
    assert [t.kind for t in transitions] == ["fade"] and len(shots) == 2
    assert abs(shots[0].end - 60) <= 3 and abs(shots[1].start - 124) <= 3


def test_words_on_black_between_two_fades_are_in_neither_clip():
    """Fades out, black, words that fade in and out, black, fades in: no clip holds the words and a picture."""
    black = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    words = black.copy()
    for x in range(40, 150, 12):
        words[44:58, x : x + 7] = 230
    card = [words * light for light in [*np.linspace(0, 1, 8), *[1] * 30, *np.linspace(1, 0, 8)]]
    out = [x * (1 - (i + 1) / 13) for i, x in enumerate(scene(1, 12))]
    back = [x * (i + 1) / 13 for i, x in enumerate(scene(2, 12))]
    shots, _, _ = watch(scene(1, 60) + out + [black] * 8 + card + [black] * 8 + back + scene(2, 60), noise=0.4)
    first, last = shots[0], shots[-1]
    assert abs(first.end - 60) <= 3 and abs(last.start - (60 + 12 + 8 + 46 + 8 + 12)) <= 3
    assert all(shot.start >= 72 and shot.end <= 134 for shot in shots[1:-1])  # at most the words, for themselves


def test_jump_cut_is_a_kind_of_its_own():
    """The camera is the same, closer and a step aside: found as a jump, and left alone where jumps are not wanted."""
    before = scene(9, 60, pan=0.1)
    after = [
        cv2.resize(x[12:90, 30:168], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) for x in scene(9, 60, pan=0.1)
    ]
    shots, transitions, _ = watch(before + after)
    assert [(t.start, t.kind) for t in transitions] == [(60, "jump")] and shots == [Shot(0, 60), Shot(60, 120)]
    assert watch(before + after, jumps=False)[0] == [Shot(0, 120)]
    assert starts(scene(1, 60) + scene(2, 60), jumps=False) == [0, 60]


def test_black_opening_and_fades_at_both_ends_of_the_file():
    body, black = scene(1, 100), np.zeros((HEIGHT, WIDTH, 3), np.float32)
    rise = [x * (i + 1) / 21 for i, x in enumerate(body[:20])]
    fall = [x * (1 - (i + 1) / 21) for i, x in enumerate(body[-20:])]
    shots, transitions, _ = watch([black] * 30 + rise + body[20:-20] + fall + [black] * 10, noise=0.5)
    assert len(shots) == 1 and abs(shots[0].start - 50) <= 3 and abs(shots[0].end - 110) <= 3
    assert [t.kind for t in transitions] == ["fade", "fade"]
    shots, _, _ = watch([black] * 40 + body, noise=0.5)
    assert shots == [Shot(40, 140)] or (len(shots) == 1 and abs(shots[0].start - 40) <= 2)
    assert watch([black] * 60, noise=0)[0] == [Shot(0, 60)]


def test_few_frames():
    assert watch([])[0] == []
    for frames in (1, 2, 3, 6):
        assert watch(scene(1, frames))[0] == [Shot(0, frames)]


def test_transnet_finds_a_hard_cut():
    shots, transitions, _ = watch(scene(1, 60) + scene(2, 60), detector=TransNetShots)
    assert [t.kind for t in transitions] == ["cut"]
    assert shots == [Shot(0, 60), Shot(60, 120)]
