"""Transitions between shots: a small trained network over features of thumbs, and a rule that decodes its output.

The network is an ensemble of temporal convolutions (residual, dilated; 72 features a frame in, 6 out, 30 to 70 thousand
weights each) with a receptive field of two seconds to either side. It was trained on synthetic films only (`tests/benchmarks/judge.py`):
moving crops of free pictures, sprites, drawings and single shots, joined by transitions at known frames, with flashes,
shakes, whip pans, borders, titles and the like between them. Its input are differences of pictures, never pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from curate.observers.thumbs import transition_features

RATE = 27.0  # frames a second of its training; of faster footage it gets every second or third frame
REACH = 80  # receptive field: frames to either side
THRESHOLD = 0.5  # least probability of a transition
JUMP_THRESHOLD = 0.75  # least probability of a jump: high, since a cut taken for one is lost with jumps=False
WIPE_THRESHOLD = 0.1  # least probability at the ends of a wipe, which change few points
GRADUAL = ("dissolve", "fade", "wipe")


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) belong to no shot. kind: "cut" or "jump" (a cut within a scene), where end == start, "dissolve",
    "fade" (including black, white or a title in between) or "wipe"."""

    start: int
    end: int
    kind: str


class TransitionNetworks:
    """The trained networks, in numpy: an ensemble whose outputs are averaged. Loads in the constructor."""

    def __init__(self) -> None:
        data = load(weights_bytes())
        self.members: dict[str, dict[str, np.ndarray]] = {}
        for name, array in data.items():
            member, part = name.split(".", 1)
            self.members.setdefault(member, {})[part] = array.astype(np.float32)

    def __call__(self, thumbs: np.ndarray) -> np.ndarray:
        """[N, 27, 48, 3] uint8 to probabilities [N, 6]: first frame after a cut; given that, after a jump; in no gradual
        transition, in a dissolve, a fade, a wipe (these four sum to one)."""
        seen = transition_features(thumbs)
        return np.mean([predict(weights, seen) for weights in self.members.values()], 0)


def weights_bytes() -> bytes:
    """Content of the weights file that ships with Winnow."""
    return weights_path().read_bytes()


def weights_path() -> Path:
    """Path of the weights file that ships with Winnow."""
    return Path(str(files("curate.observers").joinpath("transitions.safetensors")))


def predict(w: dict[str, np.ndarray], seen: np.ndarray) -> np.ndarray:
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
def transition_networks() -> TransitionNetworks:
    return TransitionNetworks()


def transitions(thumbs: np.ndarray, rate: float, wanted: np.ndarray, *, jumps: bool = True) -> list[Transition]:
    """The transitions among thumbs [N, 27, 48, 3] uint8 at `rate` frames a second, in order.

    wanted: [N] bool, frames where a transition is suspected: only these and their surroundings are computed. jumps: whether
    cuts within a scene count.
    """
    every = max(1, round(rate / RATE))
    seen = thumbs[::every]
    near = np.add.reduceat(wanted, np.arange(0, len(wanted), every)) > 0
    near = np.convolve(near, np.ones(2 * REACH + 1))[REACH : REACH + len(seen)] > 0
    found = []
    for start, end in runs(near):
        for q in find_transitions(transition_networks()(seen[start:end]), jumps):
            found.append(at_full_rate(thumbs, start + q.start, start + q.end, q.kind, every))
    return found


def find_transitions(odds: np.ndarray, jumps: bool = True) -> list[Transition]:
    """Transitions from the network's probabilities [N, 6]: peaks of the first column are cuts, runs with a low third
    column are gradual. A cut at a run is part of it, unless the run is hardly longer than a cut."""
    cut, gradual = odds[:, 0], 1 - odds[:, 2]
    cuts = [t for t in range(1, len(odds)) if cut[t] >= THRESHOLD and cut[t] == cut[max(0, t - 2) : t + 3].max()]
    found = []
    for start, end in runs(gradual > 0.8 * THRESHOLD):
        inside = [t for t in cuts if start - 1 <= t <= end + 1]
        if end - start < 2 or gradual[start:end].max() < THRESHOLD or (inside and end - start <= 3):
            continue
        kind = GRADUAL[int(odds[start:end, 3:].sum(0).argmax())]
        if kind != "fade" and (start <= 2 or end >= len(odds) - 2):
            continue  # one of its two pictures is missing
        while kind == "wipe" and start > 1 and odds[start - 1, 5] > WIPE_THRESHOLD:
            start -= 1
        while kind == "wipe" and end < len(odds) - 1 and odds[end, 5] > WIPE_THRESHOLD:
            end += 1
        found.append(Transition(start, end, kind))
        cuts = [t for t in cuts if t not in inside]
    for t in cuts:
        kind = "jump" if odds[t, 1] >= JUMP_THRESHOLD else "cut"
        if jumps or kind == "cut":
            found.append(Transition(t, t, kind))
    return sorted(found, key=lambda q: (q.start, q.end))


def at_full_rate(thumbs: np.ndarray, start: int, end: int, kind: str, every: int) -> Transition:
    """Map a transition from every `every`-th frame to all frames: a cut goes to the largest step."""
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
