"""A training run on disk.

RUN/config.json, RUN/data.json        the resolved config; the sources, and what is typical of them
RUN/codec/                            the codec, where it was trained in the run
RUN/stages/<name>/checkpoints/        see checkpoints.py; log.jsonl, samples/, evaluation beside it
RUN/tensorboard/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.base.files import write_json
from video_model.codecs import Codec
from video_model.config import TrainConfig
from video_model.diffusion.slots import Models
from video_model.errors import RunError, first_line
from video_model.training import checkpoints
from video_model.training.build import build_network
from video_model.training.checkpoints import Checkpoint
from video_model.training.steps.workers import load_whole

# What may differ when a run is resumed: nothing of it changes what a step computes.
FREE = (
    "loop.save_every",
    "loop.keep",
    "loop.log_every",
    "loop.evaluate_every",
    "loop.wandb",
    "samples",
    "data.workers",
)
REPAIRS = ("lr", "clip", "warmup")  # of a stage that is not done: what helps against a loss that is not finite


@dataclass(frozen=True)
class Run:
    """An existing run."""

    root: Path
    config: TrainConfig

    @classmethod
    def begin(cls, root: str | Path, config: TrainConfig, resume: bool) -> Run:
        """Make the folder; or resume it, if `resume` is given and its config is this one."""
        root = Path(root)
        if root.exists() and any(root.iterdir()):
            if not resume:
                raise RunError(f"{root}: is not empty: resume it with --resume, or choose another --out")
            if not (root / "config.json").exists():
                raise RunError(f"{root}: is not a run: choose another --out")
            made = cls.open(root, type(config)).config
            if other := cls(root, made).differences(config):
                raise RunError(
                    f"{root}: was begun with another config (different: {', '.join(other)}): choose another --out"
                )
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "config.json", config.model_dump(mode="json"))
        return cls(root, config)

    @classmethod
    def open(cls, root: str | Path, schema: type[TrainConfig] = TrainConfig) -> Run:
        """schema: the config's class, where the run was begun with parts of one's own (see config.train_config)."""
        root = Path(root)
        try:
            return cls(root, schema.model_validate_json((root / "config.json").read_text()))
        except FileNotFoundError:
            raise RunError(f"{root}: is not a run of winnow train: it has no config.json") from None
        except ValueError as error:
            raise RunError(f"{root}/config.json: does not fit this version: {first_line(error)}") from None

    def differences(self, other: TrainConfig) -> list[str]:
        """Keys whose values differ and matter.

        A stage that has no checkpoint yet may change, and the last one get more steps where its rate does not decay.
        """
        a, b = _flat(self.config.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        changed = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key) and not key.startswith(FREE)}
        for name, stage in other.stages.items():
            key = f"stages.{name}.steps"
            if checkpoints.latest(self.stage(name) / "checkpoints") is None:
                changed = {other for other in changed if not other.startswith(f"stages.{name}.")}
            elif self.done(name) is None:
                changed -= {f"stages.{name}.{key}" for key in REPAIRS}
            if name == [*other.stages][-1] and stage.decay == "none" and b.get(key, 0) > a.get(key, 0):
                changed.discard(key)
        return sorted(changed)

    def stage(self, name: str) -> Path:
        return self.root / "stages" / name

    def done(self, name: str) -> Checkpoint | None:
        """The last checkpoint of a stage that was trained to its end."""
        found = checkpoints.latest(self.stage(name) / "checkpoints")
        return found if found and found.facts.get("done") else None

    def newest(self, stage: str | None = None) -> tuple[str, Checkpoint]:
        """The last stage that has a checkpoint, finished or not; or that of `stage`."""
        if stage is not None and stage not in self.config.stages:
            raise RunError(f"--stage {stage}: this run's stages are {', '.join(self.config.stages)}")
        for name in [stage] if stage else reversed(self.config.stages):
            if found := checkpoints.latest(self.stage(name) / "checkpoints"):
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
        network = build_network(self.config, stage, models)
        try:
            load_whole(network, checkpoint.tensors("ema"))
        except (KeyError, RuntimeError) as error:
            raise RunError(f"{checkpoint.path}: is not of this config's network ({first_line(error)})") from None
        return network.eval()


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value for name, inner in tree.items() for key, value in _flat(inner, f"{path}.{name}".lstrip(".")).items()
    }
