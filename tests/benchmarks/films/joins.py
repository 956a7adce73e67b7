"""A film: shots joined by cuts, jump cuts, dissolves, fades, wipes, blurs and flashes, and where they are.

A picture that pushes the other out is left out: it looks like a camera that turns quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tests.benchmarks.films.effects import aged, each, effect, framed, graded, written
from tests.benchmarks.films.scenes import HEIGHT, WIDTH, Bank, View, between, chance, drawing, title

DISSOLVE, FADE, WIPE = 1, 2, 3
JOINS = {"cut": 53.5, "jump": 13, "dissolve": 10, "fade": 10, "wipe": 7, "blur": 2.5, "flash": 4}
PACES = {"trailer": (6, 50), "mixed": (10, 120), "calm": (50, 260)}  # frames of a shot


@dataclass
class Film:
    """thumbs: [N, 27, 48, 3] uint8. cut: the frame is the first after a hard cut. jump: after one within a scene.
    gradual: 0, or DISSOLVE, FADE, WIPE for the frames of a transition. unsure: too slight a change to be right or wrong. last: frames of the last
    shot, for what comes next."""

    thumbs: np.ndarray
    cut: np.ndarray
    jump: np.ndarray
    gradual: np.ndarray
    unsure: np.ndarray
    last: int = 0

    @classmethod
    def of(cls, pictures: np.ndarray) -> Film:
        n = len(pictures)
        return cls(pictures, *(np.zeros(n, kind) for kind in (bool, bool, np.int8, bool)))

    def taken(self, places: np.ndarray) -> Film:
        """The frames at `places`, which rise; a cut between two of them is one at the later."""
        out = Film(self.thumbs[places], self.cut[places], self.jump[places], self.gradual[places], self.unsure[places])
        out.cut[:], out.jump[:] = False, False
        for cut in np.flatnonzero(self.cut):
            at = int(np.searchsorted(places, cut))
            if 0 < at < len(places):
                out.cut[at], out.jump[at] = True, self.jump[cut]
        return out


def film(seed: int, bank: Bank, frames: int = 256) -> Film:
    rng = np.random.default_rng(seed)
    made = edited(rng, bank, frames)
    made = made.taken(rng.integers(len(made.cut) - frames + 1) + np.arange(frames))
    if chance(rng, 0.1):
        open_or_close(rng, made)
    pictures = written(rng, framed(rng, graded(rng, made.thumbs), drawing(rng)))
    thumbs = np.stack([cv2.resize(picture, (48, 27), interpolation=cv2.INTER_AREA) for picture in pictures])
    made.thumbs = np.clip(aged(rng, thumbs) + 0.5, 0, 255).astype(np.uint8)
    if chance(rng, 0.1):  # a low true rate, or 24 frames a second shown as 30
        n, every = np.arange(frames), rng.choice([2, 3, 4, 5])
        made = made.taken(n // every * every if chance(rng, 0.5) else (n * 0.8).astype(int))
    return made


def edited(rng: np.random.Generator, bank: Bank, frames: int) -> Film:
    """At least frames + 40 frames of shots of one pace, joined; thumbs are still pictures of 96 x 54, float32."""
    aspect = 1.0 if chance(rng, 0.85) else rng.uniform(0.32, 0.7)
    pace = rng.choice(list(PACES), p=[0.4, 0.35, 0.25])
    fast = rng.beta(1.3, 1.5) if pace == "trailer" else rng.beta(1, 2.2)
    scenes = [View(rng, bank, aspect) for _ in range(rng.integers(2, 5))] if chance(rng, 0.4) else []
    view, whole = None, None
    while whole is None or len(whole.cut) < frames + 40:
        join = str(rng.choice(list(JOINS), p=np.array(list(JOINS.values())) / 100)) if whole else "cut"
        if join == "jump" and view and view.kind in ("picture", "drawing", "recording"):
            view = view.nearby()
        else:
            join, view = ("cut" if join == "jump" else join), other_view(rng, bank, aspect, scenes, view)
        takes = 0
        if join in ("dissolve", "fade"):
            takes = int(between(rng, 4, 24) if pace == "trailer" else between(rng, 6, 70))
        elif join in ("wipe", "blur"):
            takes = int(between(rng, 5, 45) if join == "wipe" else between(rng, 3, 20))
        takes = min(takes, whole.last - 3) if whole else 0
        if takes < 3:
            join, takes = (join if join in ("cut", "jump", "flash") else "cut"), 0
        shot = view.film(int(between(rng, *PACES[pace])) + takes, float(np.clip(fast + rng.normal() * 0.2, 0, 1)))
        if chance(rng, 0.3):
            shot = shot * np.float32(rng.uniform(0.6, 1.25))
        for _ in range(chance(rng, 0.42) + chance(rng, 0.1)):
            shot = effect(rng, shot, bank)
        shot = np.clip(shot, 0, 255).astype(np.float32)
        if whole is None:
            whole = Film.of(shot)
        elif takes:
            gradually(rng, whole, shot, join, takes)
        else:
            abruptly(rng, whole, shot, join)
        whole.last = len(shot) - takes  # frames of the last shot that are free
    return whole


def other_view(rng: np.random.Generator, bank: Bank, aspect: float, scenes: list[View], view: View | None) -> View:
    """A film returns to its scenes, and shows one from several sides."""
    if view and chance(rng, 0.3):
        return view.elsewhere()
    if scenes and chance(rng, 0.6):
        chosen = scenes[rng.integers(len(scenes))]
        return view.elsewhere() if chosen is view else chosen
    return View(rng, bank, aspect)


def extend(whole: Film, pictures: np.ndarray, kinds: np.ndarray | int = 0) -> None:
    more = Film.of(pictures)
    more.gradual[:] = kinds
    for name in ("thumbs", "cut", "jump", "gradual", "unsure"):
        setattr(whole, name, np.concatenate([getattr(whole, name), getattr(more, name)]))


def abruptly(rng: np.random.Generator, whole: Film, shot: np.ndarray, join: str) -> None:
    if join == "flash":  # a cut that a flash hides
        peak, most = rng.uniform(0.5, 1), min(len(shot), 14)
        shot[:most] += (255 - shot[:most]) * each(peak * np.exp(-np.arange(most) / between(rng, 0.7, 4)))
        if chance(rng, 0.5):
            tail = whole.thumbs[-5:]
            tail += (255 - tail) * each(peak * np.exp(-np.arange(len(tail))[::-1] / between(rng, 0.5, 2) - 0.5))
    cut = len(whole.cut)
    old, new = (cv2.resize(x, (24, 14), interpolation=cv2.INTER_AREA) for x in (whole.thumbs[-1], shot[0]))
    extend(whole, shot)
    whole.cut[cut], whole.jump[cut] = True, join == "jump"
    if np.abs(old - new).mean() < (6 if join == "jump" else 2):
        whole.unsure[cut - 3 : cut + 3] = True


def gradually(rng: np.random.Generator, whole: Film, shot: np.ndarray, join: str, takes: int) -> None:
    """The last `takes` frames of what is there become the first of the shot."""
    old, new = whole.thumbs[-takes:].copy(), shot[:takes]
    if join == "fade":
        middle, kinds, kept = faded(rng, old, new)
        kept = kept or takes
    else:
        t = each((np.arange(takes) + 1) / (takes + 1))
        middle, kinds, kept = blended(rng, old, new, t, join), DISSOLVE if join in ("dissolve", "blur") else WIPE, takes
    if kept > 0:
        for name in ("thumbs", "cut", "jump", "gradual", "unsure"):
            setattr(whole, name, getattr(whole, name)[:-kept])
    extend(whole, middle, kinds)
    extend(whole, shot[takes:])


def blended(rng: np.random.Generator, old: np.ndarray, new: np.ndarray, t: np.ndarray, join: str) -> np.ndarray:
    if join == "dissolve":
        t = t * t * (3 - 2 * t) if chance(rng, 0.2) else t
        return old * (1 - t) + new * t
    if join == "wipe":
        share = wipe(rng, len(t))
        return old * (1 - share) + new * share
    out = np.empty_like(old)
    most, sideways = rng.uniform(3, 12), chance(rng, 0.33)
    for i, part in enumerate(t.ravel()):
        sigma, share = most * (1 - abs(2 * part - 1)) + 0.3, np.clip(3 * part - 1, 0, 1)
        mixed = old[i] * (1 - share) + new[i] * share
        out[i] = cv2.blur(mixed, (int(1 + 4 * sigma), 1)) if sideways else cv2.GaussianBlur(mixed, (0, 0), sigma)
    return out


def wipe(rng: np.random.Generator, frames: int) -> np.ndarray:
    """[N, 54, 96, 1] 0..1: share of the new picture."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    how = rng.choice(["line", "line", "line", "iris", "clock"])
    if how == "line":
        angle = rng.integers(4) * np.pi / 2 if chance(rng, 0.7) else rng.uniform(0, 2 * np.pi)
        order = x * np.cos(angle) + y * np.sin(angle)
    elif how == "iris":
        order = np.hypot((x - 0.5) * 1.6, y - 0.5) * rng.choice([-1, 1])
    else:
        order = np.arctan2(y - 0.5, x - 0.5)
    order = (order - order.min()) / np.ptp(order)
    soft, t = rng.choice([0.01, 0.01, 0.1, 0.3]), (np.arange(frames) + 1) / (frames + 1)
    return np.clip((t[:, None, None] * (1 + soft) - order) / soft, 0, 1)[..., None].astype(np.float32)


def faded(rng: np.random.Generator, old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The frames of a fade, their kinds (words that stand on black are a picture, not a transition), and how many frames
    of the old shot it takes, -1 for none. Some fades only go out, or only come in; black may last two seconds."""
    how = rng.choice(["both", "out", "in"], p=[0.6, 0.2, 0.2])
    takes = len(old) // 2 if how == "both" else len(old)
    out, back = (old[:takes] if how != "in" else old[:0]), (new[len(new) - takes :] if how != "out" else new[:0])
    black = int(between(rng, 1, 60)) - 1 if chance(rng, 0.6) else 0
    colour = (
        rng.uniform(0, 10, 3) if chance(rng, 0.8) else rng.uniform(0, 255, 3) if chance(rng, 0.3) else np.full(3, 250.0)
    )
    gamma, never_quite = rng.choice([1, 1, 1, 2, 0.6]), 1 if not black or chance(rng, 0.5) else 0.5
    down = each(((np.arange(len(out)) + 1) / (len(out) + never_quite)).clip(0, 1) ** gamma)
    up = each(((np.arange(len(back)) + 1) / (len(back) + 1)) ** gamma)
    words, stand = np.broadcast_to(colour, (black, HEIGHT, WIDTH, 3)), np.zeros(black, bool)
    if black >= 12 and chance(rng, 0.4):
        words, stand = title(rng, black)
    frames = np.concatenate([out * (1 - down) + colour * down, words, colour * (1 - up) + back * up]).astype(np.float32)
    kinds = np.r_[np.full(len(out), FADE), np.where(stand, 0, FADE), np.full(len(back), FADE)]
    return frames, kinds, -1 if how == "in" else 0


def open_or_close(rng: np.random.Generator, made: Film) -> None:
    """Black, or words on black, at the beginning or the end of a film."""
    black, ramp = int(between(rng, 3, 60)), int(between(rng, 1, 25))
    seen = each(np.clip((np.arange(black + ramp) - black + 1) / (ramp + 1), 0, 1))
    opening = chance(rng, 0.5)
    part = slice(0, black + ramp) if opening else slice(len(made.cut) - black - ramp, None)
    made.thumbs = made.thumbs.copy()
    made.thumbs[part] *= seen if opening else seen[::-1]
    made.gradual[part], made.cut[part] = FADE, False
    if opening and chance(rng, 0.4):
        made.thumbs[:black], stand = title(rng, black)
        made.gradual[:black][stand] = 0
