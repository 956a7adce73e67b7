"""The latent cache: frames of every clip encoded once, and the text states of every caption.

    CACHE/latents-<key>/about.json              what the key stands for: encoder, size, rates, limit, type
    CACHE/latents-<key>/<data file>/<id>.safetensors  latents of some clips and the times of
        their frames; its header names them, and those skipped
    CACHE/texts-<key>/<id>.safetensors          states of some captions
    CACHE/latents-<key>/places-<key>.arrow, CACHE/texts-<key>/places-<key>.arrow    where each lies, see places.py
    CACHE/index/, CACHE/plans/, CACHE/complete/ rows of the data, buckets of stages, what was found whole: made again if lost
    CACHE/skipped.json                          the clips of the last build that could not be decoded, and why

The shards are the record of what is done. A build adds what is missing, so other runs, other stages and stricter
conditions share what they have in common, and a build that was killed is resumed with the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from video_model.codecs import Codec
from video_model.data.buckets import Size
from video_model.data.rows import Index, digests_of
from video_model.data.sources import DataFile
from video_model.data.windows import Thinned, Window, chosen, rate_of
from video_model.encoders import TextEncoder
from video_model.errors import DataError
from video_model.latents.packed import write_whole
from video_model.latents.places import latent_places, state_of, text_places

FRAMES = "nearest in time, with their times"  # how they are chosen; part of the key
DTYPES = {"float16": np.float16, "float32": np.float32}


class Taken(NamedTuple):
    """Frames of a clip. latents: [T, C, h, w] float32. fps: their true mean rate; 0 for a single one. first: of the window."""

    latents: torch.Tensor
    fps: float
    first: int


class Cache:
    """Latents and text states, read through memory maps. Made by `build_cache`.

    rates, max_frames: how clips were thinned, see `windows.Thinned`. skipped: (clip id, size) -> why there is nothing. state: of
    what there is.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[DataFile],
        codec: Codec,
        encoder: TextEncoder,
        sizes: Sequence[Size],
        rates: Sequence[float] | None,
        max_frames: int | None,
        dtype: str,
    ) -> None:
        self.folder, self.rates, self.max_frames = folder, rates, max_frames
        identities = [file.identity for file in files]
        self._clips = {
            tuple(size): latent_places(latents_folder(folder, codec, size, rates, max_frames, dtype), identities)
            for size in sizes
        }
        self._texts = text_places(texts_folder(folder, encoder, dtype))
        self.skipped: dict[tuple[str, Size], str] = {
            (key, size): reason for size, places in self._clips.items() for key, reason in places.skipped.items()
        }
        self.state = state_of([f"{size} {places.state}" for size, places in self._clips.items()])

    def why_not(self, key: str, size: Size) -> str | None:
        """Why a clip that was tried has no latents, or None. Raises DataError for one that was never tried."""
        places = self._clips.get(size)
        if places is None or (found := places.find(*digests_of([key])))[0] < 0:
            raise DataError(
                f"{self.folder}: has no latents of {key} at {size[0]}x{size[1]}; build the cache with the same index "
                "and sizes as the batches"
            )
        return None if places.holds(found)[0] else self.skipped[key, size]

    def unusable(self, index: Index, rows: np.ndarray, size: Size) -> dict[int, str]:
        """Those of the rows that have no latents, and why. Raises DataError for one that was never tried."""
        places = self._clips.get(size)
        have = places.holds(places.find(*index.digests(rows))) if places else np.zeros(len(rows), bool)
        return {row: str(self.why_not(index.key(row), size)) for row in rows[~have].tolist()}

    def latents(self, index: Index, wanted: Iterable[tuple[int, Size, Window]], clips: Thinned) -> list[Taken | str]:
        """The frames of each (row, size, window), or why there are none."""
        found: list[Taken | str] = []
        for row, size, window in wanted:
            (at,) = self._clips[size].find(*index.digests(np.array([row])))
            arrays, first, count = self._clips[size].read(at)
            times = arrays["times"][first : first + count]
            place, positions = chosen(times, clips.rate(row), window)
            if place < 0:
                found.append(window.unfilled(len(positions)))
                continue
            latents = torch.from_numpy(arrays["latents"][first + positions].astype(np.float32))
            found.append(Taken(latents, rate_of(times[positions]), place))
        return found

    def texts(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """[L, D] float32 of each text."""
        found = []
        for text, place in zip(texts, self._texts.find(*digests_of(texts)).tolist(), strict=True):
            if place < 0:
                raise DataError(f"{self.folder}: has no states of the caption {text[:60]!r}; build the cache with it")
            arrays, first, count = self._texts.read(place)
            found.append(torch.from_numpy(arrays["states"][first : first + count].astype(np.float32)))
        return found

    def close(self) -> None:
        """Nothing to end; so that every source of latents can be closed."""


def latents_folder(
    folder: Path, codec: Codec, size: Size, rates: Sequence[float] | None, max_frames: int | None, dtype: str
) -> Path:
    """Where latents of a codec at a size lie; what decides it is written beside them."""
    encoder = codec.encoder_fingerprint if hasattr(codec, "encoder_fingerprint") else codec.fingerprint
    about = {"codec": encoder, "size": list(size), "max_frames": max_frames, "dtype": dtype, "frames": FRAMES}
    about |= {"rates": None if rates is None else list(rates)}
    return _home(folder, "latents", about)


def texts_folder(folder: Path, encoder: TextEncoder, dtype: str) -> Path:
    return _home(folder, "texts", {"encoder": encoder.fingerprint, "dtype": dtype})


def pad(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(states [N, L, D], mask [N, L] bool) of states [Li, D]; L is a multiple of 8, so that shapes seldom change.

    A text without tokens counts one, of zeros: attention over nothing is not defined.
    """
    longest = max(1, *(len(states) for states in texts))
    length = -(-longest // 8) * 8
    states = torch.zeros(len(texts), length, texts[0].shape[1])
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    for i, text in enumerate(texts):
        states[i, : len(text)] = text
        mask[i, : max(1, len(text))] = True
    return states, mask


def account_of(skipped: dict[tuple[str, Size], str]) -> bytes:
    """What could not be decoded, as JSON."""
    rows = [{"clip_id": key, "size": list(size), "reason": reason} for (key, size), reason in sorted(skipped.items())]
    counts = dict(Counter(skipped.values()).most_common())
    text = json.dumps({"counts": counts, "clips": rows}, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _home(folder: Path, what: str, about: dict[str, Any]) -> Path:
    text = json.dumps(about, sort_keys=True)
    home = folder / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not (home / "about.json").exists():
        write_whole(home / "about.json", text.encode())
    return home
