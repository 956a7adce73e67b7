"""Where one shot ends and the next begins: a small trained network over the evidence of thumbs, and a rule that reads it.

The network is a committee of temporal convolutions (residual, dilated; 72 numbers a frame in, 6 out, 30 to 70 thousand
weights each) that see two seconds to either side. It was trained on generated films only (`tests/benchmarks/judge.py`):
moving crops of free pictures, sprites, drawings and single shots, joined by transitions at known frames, with flashes,
shakes, whip pans, borders, titles and the like between them. It never sees a picture, only how pictures differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from curate.observers.thumbs import evidence

RATE = 27.0  # frames a second that the network is used to: of faster footage it sees every second frame, or third
REACH = 80  # frames to either side that an answer depends on
CERTAIN = 0.5  # probability from which a transition is one
WITHIN = (
    0.75  # probability from which a cut is called a jump: one that is a cut would be lost where jumps are not wanted
)
FAINT = 0.1  # probability down to which a wipe's ends are followed: they show in few points
GRADUAL = ("dissolve", "fade", "wipe")


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) belong to no shot. kind: "cut" or "jump" (a cut within a scene), where end == start, "dissolve",
    "fade" (what is black or white or a title between belongs to it) or "wipe"."""

    start: int
    end: int
    kind: str


class Judge:
    """The trained networks, in numpy: a committee of a few, whose answers are averaged. Loads in the constructor."""

    def __init__(self) -> None:
        data = load(weights_file())
        self.members: dict[str, dict[str, np.ndarray]] = {}
        for name, array in data.items():
            member, part = name.split(".", 1)
            self.members.setdefault(member, {})[part] = array.astype(np.float32)

    def __call__(self, thumbs: np.ndarray) -> np.ndarray:
        """[N, 27, 48, 3] uint8 to probabilities [N, 6]: the frame is the first after a cut; if so, after a jump; it is in
        no gradual transition, in a dissolve, a fade, a wipe (these four add up to one)."""
        seen = evidence(thumbs)
        return np.mean([answer(weights, seen) for weights in self.members.values()], 0)


def weights_file() -> bytes:
    """The weights as they ship with Winnow, for loading and to be recorded by their hash."""
    return located().read_bytes()


def located() -> Path:
    """Where they are."""
    return Path(str(files("curate.observers").joinpath("transitions.safetensors")))


def answer(w: dict[str, np.ndarray], seen: np.ndarray) -> np.ndarray:
    """[N, FEATURES] to probabilities [N, 6] by one network."""
    x = np.clip((seen - w["mean"]) * w["scale"], -4, 4)
    x = relu(dilated(x, w["inp.weight"], 1) + w["inp.bias"])
    depth = 0
    while f"a.{depth}.weight" in w:
        inner = relu(dilated(x, w[f"a.{depth}.weight"], 1 << depth) + w[f"a.{depth}.bias"])
        x = x + inner @ w[f"b.{depth}.weight"][..., 0].T + w[f"b.{depth}.bias"]
        depth += 1
    y = relu(x) @ w["out.weight"][..., 0].T + w["out.bias"]
    share = np.exp(y[:, 2:] - y[:, 2:].max(1, keepdims=True))
    return np.concatenate([1 / (1 + np.exp(-y[:, :2])), share / share.sum(1, keepdims=True)], 1)


@lru_cache(maxsize=1)
def judge() -> Judge:
    return Judge()


def transitions(thumbs: np.ndarray, rate: float, wanted: np.ndarray, *, jumps: bool = True) -> list[Transition]:
    """The transitions among thumbs [N, 27, 48, 3] uint8 at `rate` frames a second, in order.

    wanted: [N] bool, frames where a transition is suspected: only there, and around, is anything computed. jumps: whether
    cuts within a scene count.
    """
    every = max(1, round(rate / RATE))
    seen = thumbs[::every]
    near = np.add.reduceat(wanted, np.arange(0, len(wanted), every)) > 0
    near = np.convolve(near, np.ones(2 * REACH + 1))[REACH : REACH + len(seen)] > 0
    found = []
    for start, end in runs(near):
        for q in decide(judge()(seen[start:end]), jumps):
            found.append(placed(thumbs, start + q.start, start + q.end, q.kind, every))
    return found


def decide(odds: np.ndarray, jumps: bool = True) -> list[Transition]:
    """Transitions out of the network's answers [N, 6]: the peaks of the first column, and the stretches where the third
    is low. A cut at a stretch belongs to it, unless the stretch is hardly longer than a cut."""
    cut, gradual = odds[:, 0], 1 - odds[:, 2]
    cuts = [t for t in range(1, len(odds)) if cut[t] >= CERTAIN and cut[t] == cut[max(0, t - 2) : t + 3].max()]
    found = []
    for start, end in runs(gradual > 0.8 * CERTAIN):
        inside = [t for t in cuts if start - 1 <= t <= end + 1]
        if end - start < 2 or gradual[start:end].max() < CERTAIN or (inside and end - start <= 3):
            continue
        kind = GRADUAL[int(odds[start:end, 3:].sum(0).argmax())]
        if kind != "fade" and (start <= 2 or end >= len(odds) - 2):
            continue  # of two pictures one is not there
        while kind == "wipe" and start > 1 and odds[start - 1, 5] > FAINT:
            start -= 1
        while kind == "wipe" and end < len(odds) - 1 and odds[end, 5] > FAINT:
            end += 1
        found.append(Transition(start, end, kind))
        cuts = [t for t in cuts if t not in inside]
    for t in cuts:
        kind = "jump" if odds[t, 1] >= WITHIN else "cut"
        if jumps or kind == "cut":
            found.append(Transition(t, t, kind))
    return sorted(found, key=lambda q: (q.start, q.end))


def placed(thumbs: np.ndarray, start: int, end: int, kind: str, every: int) -> Transition:
    """A transition between every `every`-th frame as one between all frames: a cut lies at the largest step."""
    if every == 1:
        return Transition(start, end, kind)
    if start < end:
        first = max(0, (start - 1) * every + 1) if start else 0
        return Transition(first, min(len(thumbs), end * every), kind)
    between = thumbs[(start - 1) * every : start * every + 1].astype(np.int16)
    at = (start - 1) * every + 1 + int(np.abs(np.diff(between, axis=0)).mean((1, 2, 3)).argmax())
    return Transition(at, at, kind)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def dilated(x: np.ndarray, weight: np.ndarray, step: int) -> np.ndarray:
    """[N, C] to [N, D] by a convolution of three taps `step` frames apart, weight [D, C, 3]; zeros beyond the ends."""
    padded = np.pad(x, ((step, step), (0, 0)))
    return sum(padded[k * step : k * step + len(x)] @ weight[..., k].T for k in range(3))


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of the stretches where the mask is true."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
