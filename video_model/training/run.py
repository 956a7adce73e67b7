"""A training run on disk.

RUN/config.json, RUN/data.json        the resolved config; the sources, and what is typical of them
RUN/resumed.jsonl                     keys that were changed when it was resumed: date, stage, step, key, old, new
RUN/codec/                            the codec, where it was trained in the run
RUN/stages/<name>/checkpoints/        see checkpoints.py; log.jsonl, samples/, evaluation beside it
RUN/tensorboard/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curate.base.files import write_json
from video_model.codecs import Codec
from video_model.config import TrainConfig
from video_model.diffusion.slots import Models
from video_model.errors import RunError, first_line
from video_model.training.build import trained_network
from video_model.training.storage import checkpoints
from video_model.training.storage.checkpoints import Checkpoint
from video_model.training.storage.mirror import Mirror, local_run
from video_model.training.watching import Silent, TrainingWatcher

# What may differ when a run is resumed: nothing of it changes what a step computes.
FREE = (
    "loop.save_every",
    "loop.background_saves",
    "loop.keep",
    "loop.log_every",
    "loop.evaluate_every",
    "loop.wandb",
    "samples",
    "data.workers",
)
# What may differ too, and is told: how a step is computed, not what. Sums are taken in another order, so that the run is no
# longer the same to the bit. `precision` is not among them: it changes every product by far more than that.
MEMORY = ("micro_batch", "memory_gb", "accumulate", "checkpointing", "threads", "compile", "strategy", "ema_device")
REPAIRS = ("lr", "clip", "warmup")  # of a stage that is not done: what helps against a loss that is not finite


@dataclass(frozen=True)
class Run:
    """An existing run."""

    root: Path
    config: TrainConfig
    mirror: Mirror | None = None  # of a run in a store

    @classmethod
    def begin(
        cls,
        root: str | Path,
        config: TrainConfig,
        resume: bool,
        watcher: TrainingWatcher | None = None,
        mirror: Mirror | None = None,
    ) -> Run:
        """Make the folder; or resume it, if `resume` is given and its config is this one, but for what may change.

        mirror: of a run in a store, which was fetched."""
        root = Path(root)
        named = mirror.store.url if mirror else root
        if root.exists() and any(not (mirror and path.name.startswith(".")) for path in root.iterdir()):
            if not resume:
                raise RunError(f"{named}: is not empty: resume it with --resume, or choose another --out")
            if not (root / "config.json").exists():
                raise RunError(f"{named}: is not a run: choose another --out")
            before = cls.open(root, type(config))
            if other := before.differences(config):
                raise RunError(
                    f"{named}: was begun with another config (different: {', '.join(other)}): choose another --out"
                )
            before.note_changes(config, watcher or Silent())
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "config.json", config.model_dump(mode="json"))
        return cls(root, config, mirror)

    @classmethod
    def open(cls, root: str | Path, schema: type[TrainConfig] = TrainConfig) -> Run:
        """A run at a path, or at a URL, from which it is fetched. schema: the config's class, where the run was begun with
        parts of one's own (see config.train_config)."""
        named, root = root, local_run(root)
        try:
            return cls(root, schema.model_validate_json((root / "config.json").read_text()))
        except FileNotFoundError:
            raise RunError(f"{named}: is not a run of winnow train: it has no config.json") from None
        except ValueError as error:
            raise RunError(f"{named}/config.json: does not fit this version: {first_line(error)}") from None

    def differences(self, other: TrainConfig) -> list[str]:
        """Keys whose values differ and matter.

        A stage that has no checkpoint yet may change, and the last one get more steps where its rate does not decay.
        """
        pairs = self._changed(other)
        changed = {key for key in pairs if not key.startswith(FREE) and not _is_memory(key)}
        for name, stage in other.stages.items():
            key = f"stages.{name}.steps"
            if self._newest(name) is None:
                changed = {other for other in changed if not other.startswith(f"stages.{name}.")}
            elif self.done(name) is None:
                changed -= {f"stages.{name}.{key}" for key in REPAIRS}
            if name == [*other.stages][-1] and stage.decay == "none":
                old, new = pairs.get(key, (0, 0))
                changed -= {key} if (new or 0) > (old or 0) else set()
        return sorted(changed)

    def note_changes(self, other: TrainConfig, watcher: TrainingWatcher) -> None:
        """Write down what is changed now, in RUN/resumed.jsonl; and tell where it is no longer the same run to the bit."""
        pairs = self._changed(other)
        if not pairs:
            return
        stage, step = next(
            ((name, found.step) for name in reversed(self.config.stages) if (found := self._newest(name))), (None, 0)
        )
        date = datetime.now(UTC).isoformat(timespec="seconds")
        with open(self.root / "resumed.jsonl", "a", encoding="utf-8") as lines:
            for key, (old, new) in pairs.items():
                line = {"date": date, "stage": stage, "step": step, "key": key, "old": old, "new": new}
                lines.write(json.dumps(line) + "\n")
        told = {key: f"{key} {old} -> {new}" for key, (old, new) in pairs.items()}
        if memory := [told[key] for key in pairs if _is_memory(key)]:
            watcher.note(f"resumed with {', '.join(memory)}: the same run, but no longer to the bit")
        if repairs := [told[key] for key in pairs if key.startswith("stages.") and key.rpartition(".")[2] in REPAIRS]:
            watcher.note(f"resumed with {', '.join(repairs)}: another run from step {step} of stage {stage} on")

    def _changed(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Keys whose values differ: what they are here, and there."""
        a, b = _flat(self.config.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [*a, *(key for key in b if key not in a)]
        return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}

    def _newest(self, name: str) -> Checkpoint | None:
        return checkpoints.latest(self.stage(name) / "checkpoints")

    def stage(self, name: str) -> Path:
        return self.root / "stages" / name

    def done(self, name: str) -> Checkpoint | None:
        """The last checkpoint of a stage that was trained to its end."""
        found = self._newest(name)
        return found if found and found.facts.get("done") else None

    def newest(self, stage: str | None = None) -> tuple[str, Checkpoint]:
        """The last stage that has a checkpoint, finished or not; or that of `stage`."""
        if stage is not None and stage not in self.config.stages:
            raise RunError(f"--stage {stage}: this run's stages are {', '.join(self.config.stages)}")
        for name in [stage] if stage else reversed(self.config.stages):
            if found := self._newest(name):
                return name, found
        raise RunError(f"{self.root}: has no checkpoint yet: resume it with winnow train ... --resume")

    @property
    def facts(self) -> dict[str, Any]:
        """data.json: sources, clips, typical motion; {} before there is one."""
        path = self.root / "data.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def codec(self) -> Codec:
        """The run's codec, as it was trained. Raises CodecError."""
        return self.config.codec.load(self.root / "codec")

    def network(self, stage: str, checkpoint: Checkpoint, models: Models) -> Any:
        """The average of the weights at a checkpoint of a stage. Raises RunError where they do not fit the config."""
        return trained_network(self.config, stage, checkpoint, models).eval()


def _is_memory(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in MEMORY and (section == "loop" or section.startswith("stages."))


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value for name, inner in tree.items() for key, value in _flat(inner, f"{path}.{name}".lstrip(".")).items()
    }
