"""The data of a run's stages: what each is trained on, and what is held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curate.base.files import atomic_folder, write_json
from video_model.codecs import Codec
from video_model.config import TrainConfig, as_rates
from video_model.data.buckets import Size, usable_sizes
from video_model.data.decoders import read_picture
from video_model.data.excerpts import sample_windows
from video_model.data.index import check_captions, matching, open_index
from video_model.data.mapped import map_columns, write_columns
from video_model.data.rows import Index, among, join
from video_model.data.sources import whole_path
from video_model.data.windows import kept_for
from video_model.diffusion.generate import Request
from video_model.encoders import TextEncoder
from video_model.errors import DataError, RunError
from video_model.latents.batches import Batches, BatchSpec
from video_model.latents.build import LatentOptions, cache_for
from video_model.latents.live import LiveLatents
from video_model.latents.together import locked
from video_model.training.held_out import held_out_batches
from video_model.training.run import Run
from video_model.training.watching import TrainingWatcher
from video_model.workers import TrainingWorker, first_goes_ahead

Pair = tuple[tuple[str, ...], str | None]  # sources, condition
SIDES = "train", "held_out"
HELD_OUT_ROWS, WINDOWS = 256, 8  # of the loss that is followed, at most: in all, and of one clip


@dataclass(frozen=True)
class Unread:
    """Latents of which nothing is known: enough to plan batches."""

    rates: tuple[float, ...] | None
    max_frames: int
    folder: Path | None = None
    state: str = "unread"

    def unusable(self, index: Index, rows: Any, size: Size) -> dict[int, str]:
        return {}


class Stores:
    """The data of all stages: their indices, split into clips to train on and clips held out, the same in all stages.

    config: what it was made with, and what slots learned from the clips. cache: folder where what is found out of the clips is
    kept, to be mapped by all; None: in memory. worker: of several that all make one; the first goes ahead.
    """

    def __init__(
        self,
        config: TrainConfig,
        sources: Sequence[str],
        cache: Path | None = None,
        worker: TrainingWorker | None = None,
    ) -> None:
        self.config, self.cache = config, cache
        self.sources = {
            name: [whole_path(source) for source in ([] if stage.only_sources else [*sources]) + stage.sources]
            for name, stage in config.stages.items()
        }
        for name, found in self.sources.items():
            if not found:
                raise DataError(
                    f"stage {name}: has no data: name a curated folder with --data, or stages.{name}.sources"
                )
        with first_goes_ahead(worker or TrainingWorker()):
            if cache is None:
                self._open()
            else:
                (cache / "index").mkdir(parents=True, exist_ok=True)
                with locked(cache / "index"):
                    self._open()

    def _open(self) -> None:
        """Find the parts of all stages, or what was found before."""
        config = self.config
        opened = {
            tuple(found): open_index(
                found, None, config.data.captions, tuple(config.columns), partial=True, cache=self.cache
            )
            for found in self.sources.values()
        }
        files = {file.path: file for index in opened.values() for file in index.files}
        check_captions(list(files.values()), config.data.captions)
        wanted = {name: (tuple(self.sources[name]), stage.where) for name, stage in config.stages.items()}
        pairs = list(dict.fromkeys(wanted.values()))  # stages of the same clips share them
        home = self.cache and self.cache / "index" / f"parts-{_key(config, opened, pairs)}"
        if home is None or not (home / "parts.json").exists():
            told, parts = self._divided(opened, wanted)
            if home is not None:
                _write(home, told, [parts[pair] for pair in pairs])
        if home is not None:
            told = json.loads((home / "parts.json").read_text())
            parts = {pair: _mapped(home, number, opened[pair[0]]) for number, pair in enumerate(pairs)}
        self.parts: dict[str, tuple[Index, Index]] = {name: parts[pair] for name, pair in wanted.items()}
        self.clips: int = told["clips"]
        self._motion: list[float] | None = told["motion_10_50_90"]
        self.config = _fitted(config, told)

    def _divided(
        self, opened: Mapping[tuple[str, ...], Index], wanted: Mapping[str, Pair]
    ) -> tuple[dict[str, Any], dict[Pair, tuple[Index, Index]]]:
        """What is typical of all clips, as JSON values; clips trained on and held out, of each sources and condition."""
        config, whole = self.config, join(*opened.values())
        fitted = config.fitted(whole.number)
        motion = whole.motion[np.isfinite(whole.motion)]
        told = {
            "clips": len(whole),
            "motion_10_50_90": np.quantile(motion, (0.1, 0.5, 0.9)).tolist() if len(motion) else None,
            "conditioning": fitted.conditioning.model_dump(mode="json"),
            "stages": {
                name: stage.conditioning.model_dump(mode="json")
                for name, stage in fitted.stages.items()
                if stage.conditioning is not None
            },
        }
        apart = whole.split(config.data.held_out, config.seed)[1].text("video_id").unique().to_pylist()
        parts: dict[Pair, tuple[Index, Index]] = {}
        for name, (sources, where) in wanted.items():
            if (sources, where) in parts:
                continue
            index = opened[sources]
            if where:
                try:
                    kept = tuple(dict.fromkeys(("motion_score", *config.columns)))
                    index = matching(index, where, kept, ", ".join(sources))
                except DataError as error:
                    raise DataError(f"stage {name}: {error}") from None
            away = among(index.text("video_id"), apart)
            if away.all():
                raise DataError(
                    f"stage {name}: all of its {len(index)} clips are held out for evaluation: loosen stages.{name}.where, "
                    f"or lower data.held_out ({config.data.held_out:g})"
                )
            parts[sources, where] = index.select(np.flatnonzero(~away)), index.select(np.flatnonzero(away))
        return told, parts

    @property
    def training(self) -> Index:
        """All clips that some stage trains on."""
        return join(*(train for train, _ in self.parts.values()))

    def open(
        self,
        codec: Codec,
        encoder: TextEncoder,
        cache: Path,
        watcher: TrainingWatcher,
        worker: TrainingWorker | None = None,
    ) -> Any:
        """Latents and text states of all that the stages need: cached (each worker encodes a part), or made as they are
        asked for."""
        data = self.config.data
        rates, most = self.thinning
        if not data.cache:
            return LiveLatents(
                codec, encoder, rates=rates, max_frames=most, workers=data.workers, timeout=data.decode_seconds
            )

        def report(what: str, done: int, total: int, skipped: int) -> None:
            name = "states of captions" if what == "texts" else f"latents of {what}"
            watcher.phase(name + (f", {skipped} skipped" if skipped else ""), done, total)

        needs = [(part, self.sizes(name)) for name, parts in self.parts.items() for part in parts if len(part)]
        options = LatentOptions(rates, most, data.cache_dtype, data.workers, data.decode_seconds)
        return cache_for(needs, codec, encoder, cache, options, report, worker)

    @property
    def thinning(self) -> tuple[tuple[float, ...] | None, int]:
        """The frame rates that some stage wants (of a range the highest), and the most frames of a clip."""
        wanted = [as_rates(stage) for stage in self.config.stages.values() if stage.temporal]
        return kept_for(wanted), self.config.data.frames_per_clip

    def sizes(self, name: str) -> list[Size]:
        """A stage's sizes; without those of too few clips, where the config merges small buckets."""
        stage = self.config.stages[name]
        if self.config.data.small_buckets == "error":
            return stage.sizes
        return usable_sizes(self.parts[name][0].shape, stage.sizes, min(stage.batch, stage.image_batch or stage.batch))

    def spec(self, name: str) -> BatchSpec:
        stage = self.config.stages[name]
        return BatchSpec(
            frames=stage.frames,
            sizes=self.sizes(name),
            rates=as_rates(stage),
            batch=stage.batch,
            images=stage.images,
            image_batch=stage.image_batch,
            seed=_seed(self.config, name),
            merge=self.config.data.small_buckets == "merge",
            columns=self.config.conditioning_of(name).columns,
            pixels=any(slot.wants_pixels for slot in self.config.slots_of(name)),
            workers=self.config.data.workers,
            timeout=self.config.data.decode_seconds,
        )

    def batches(self, name: str, store: Any) -> Batches:
        try:
            return Batches(self.parts[name][0], store, self.spec(name))
        except DataError as error:
            raise DataError(f"stage {name}: {error}") from None

    def held_out(self, name: str, store: Any, rows: int = HELD_OUT_ROWS) -> list[Any]:
        """Batches of fixed windows of held-out clips; [] where there are none."""
        index = self.parts[name][1]
        spec = replace(self.spec(name), seed=0)
        return held_out_batches(index, store, min(rows, WINDOWS * len(index)), spec) if len(index) else []

    def prompts(self, name: str) -> list[str]:
        """The config's, or captions of held-out clips (of the training ones, where none are held out)."""
        samples = self.config.samples
        if samples.prompts:
            return list(samples.prompts)
        train, held_out = self.parts[name]
        index = held_out if len(held_out) else train
        captions = dict.fromkeys(index.caption(row, 0.0) for row in range(min(len(index), 64 * samples.count)))
        return [caption for caption in captions if caption][: samples.count]

    def windows(self, name: str, request: Request) -> tuple[torch.Tensor | None, list[str]]:
        """What samples of an image-to-video stage begin with, [N, T, 3, H, W] in [-1, 1], and their captions.

        samples.images, or windows of held-out clips where the stage cannot do without; (None, []) else, or where there are
        none. Raises DataError for a picture that cannot be read.
        """
        samples, (_, held_out) = self.config.samples, self.parts[name]
        slots = self.config.slots_of(name)
        if samples.images:
            try:
                stills = np.stack([read_picture(Path(path), request.size) for path in samples.images])
            except OSError as error:
                raise DataError(
                    f"samples.images: {error.filename} cannot be read ({error.strerror}): name a picture"
                ) from None
            pixels = stills[:, None].transpose(0, 1, 4, 2, 3)
            captions: list[str] = []
        elif any(slot.required for slot in slots) and len(held_out):
            rate, workers = request.fps or 8.0, self.config.data.workers
            try:
                found = sample_windows(
                    held_out,
                    request.size,
                    request.frames,
                    rate,
                    samples.count,
                    0,
                    workers,
                    self.config.data.decode_seconds,
                )
            except DataError:
                return None, []
            pixels, captions = found[0], found[1]
        else:
            return None, []
        return torch.from_numpy(pixels).float() / 127.5 - 1, captions

    def compare(self, run: Run) -> None:
        """Raise RunError where the run was begun on other clips: it would not be the same run."""
        before = run.facts.get("fingerprints", {})
        for name, (now, _) in self.parts.items():
            if before.get(name, now.fingerprint) != now.fingerprint:
                raise RunError(f"{run.root}: stage {name} was begun on other clips than these: choose another --out")

    def facts(self) -> dict[str, Any]:
        """What data.json holds."""
        return {
            "sources": self.sources,
            "fingerprints": {name: train.fingerprint for name, (train, _) in self.parts.items()},
            "clips": {name: {"train": len(a), "held_out": len(b)} for name, (a, b) in self.parts.items()},
            "motion_10_50_90": self._motion,
        }


def _key(config: TrainConfig, opened: Mapping[tuple[str, ...], Index], pairs: Sequence[Pair]) -> str:
    """Of what decides how clips are divided, and what is learned of them."""
    given = [
        [[list(sources), index.fingerprint] for sources, index in opened.items()],
        [[list(sources), where] for sources, where in pairs],
        config.data.captions, config.data.held_out, config.seed, config.conditioning.model_dump(mode="json"),
        [stage.conditioning and stage.conditioning.model_dump(mode="json") for stage in config.stages.values()],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]


def _fitted(config: TrainConfig, told: Mapping[str, Any]) -> TrainConfig:
    """The config with what its slots learned."""
    kind = type(config.conditioning)
    stages = {
        name: stage.model_copy(update={"conditioning": kind.model_validate(told["stages"][name])})
        if stage.conditioning is not None
        else stage
        for name, stage in config.stages.items()
    }
    return config.model_copy(update={"conditioning": kind.model_validate(told["conditioning"]), "stages": stages})


def _write(home: Path, told: Mapping[str, Any], parts: Sequence[tuple[Index, Index]]) -> None:
    with atomic_folder(home) as folder:
        for number, pair in enumerate(parts):
            for side, part in zip(SIDES, pair, strict=True):
                about = {"report": part.report, "fingerprint": part.fingerprint}
                write_columns(folder / f"{number}-{side}.arrow", {"at": part.at}, about)
        write_json(folder / "parts.json", told)


def _mapped(home: Path, number: int, of: Index) -> tuple[Index, Index]:
    found = []
    for side in SIDES:
        columns, about = map_columns(home / f"{number}-{side}.arrow")
        found.append(Index(of.files, of.rows, of.captions, about["report"], columns["at"], about["fingerprint"]))
    return found[0], found[1]


def _seed(config: TrainConfig, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{config.seed}/{name}".encode()).digest()[:4], "little")
