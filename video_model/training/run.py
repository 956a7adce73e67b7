"""A training run on disk, and how its parts are built from its config.

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

import torch
from pydantic import ValidationError
from torch import nn

from curate.base.files import write_json
from video_model.codecs.public_vae import DiffusersCodec
from video_model.codecs.small import Codec, CodecConfig, SmallCodec
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner, FirstFrameSlot, TextSlot, VectorSlot
from video_model.encoders.text import MiniLMStates, OpenClipText, T5States, TextEncoder
from video_model.errors import RunError, first_line
from video_model.networks.unet import SpaceTimeUNet, UNetConfig, inflate
from video_model.public.weights import import_unet
from video_model.training import checkpoints
from video_model.training.checkpoints import Checkpoint
from video_model.training.optimisation import choose_trained
from video_model.training.workers import load_whole

# What may differ when a run is gone on with: nothing of it changes what a step computes.
FREE = (
    "loop.save_every",
    "loop.keep",
    "loop.log_every",
    "loop.evaluate_every",
    "loop.wandb",
    "samples",
    "data.workers",
)
MENDABLE = ("lr", "clip", "warmup")  # of a stage that is not done: what helps against a loss that is not finite


@dataclass(frozen=True)
class Run:
    """An existing run."""

    root: Path
    config: TrainConfig

    @classmethod
    def begin(cls, root: str | Path, config: TrainConfig, resume: bool) -> Run:
        """Make the folder; or go on with it, if `resume` is given and its config is this one."""
        root = Path(root)
        if root.exists() and any(root.iterdir()):
            if not resume:
                raise RunError(f"{root}: is not empty: go on with --resume, or choose another --out")
            if not (root / "config.json").exists():
                raise RunError(f"{root}: is not a run: choose another --out")
            made = cls.open(root).config
            if other := cls(root, made).differences(config):
                raise RunError(
                    f"{root}: was begun with another config (different: {', '.join(other)}): choose another --out"
                )
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "config.json", config.model_dump(mode="json"))
        return cls(root, config)

    @classmethod
    def open(cls, root: str | Path) -> Run:
        root = Path(root)
        try:
            return cls(root, TrainConfig.model_validate_json((root / "config.json").read_text()))
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
                changed -= {f"stages.{name}.{key}" for key in MENDABLE}
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
        raise RunError(f"{self.root}: has no checkpoint yet: go on with winnow train ... --resume")

    @property
    def facts(self) -> dict[str, Any]:
        """data.json: sources, clips, typical motion; {} before there is one."""
        path = self.root / "data.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def codec(self) -> Codec:
        """The run's codec, as it was trained. Raises CodecError."""
        if self.config.codec.kind == "diffusers":
            return DiffusersCodec(self.config.codec.folder)
        return SmallCodec.load(self.root / "codec")

    def network(self, stage: str, checkpoint: Checkpoint, codec: Codec, encoder: TextEncoder) -> nn.Module:
        """The average of the weights at a checkpoint of a stage. Raises RunError where they do not fit the config."""
        temporal = self.config.stages[stage].temporal
        network = build_network(self.config, codec, encoder, temporal)
        try:
            load_whole(network, checkpoint.tensors("ema"))
        except (KeyError, RuntimeError) as error:
            raise RunError(f"{checkpoint.path}: is not of this config's network ({first_line(error)})") from None
        return network.eval()


def build_encoder(config: TrainConfig) -> TextEncoder:
    chosen = config.text
    if chosen.kind == "minilm":
        return MiniLMStates()
    return T5States(chosen.folder) if chosen.kind == "t5" else OpenClipText(chosen.file, chosen.model)


def build_network(config: TrainConfig, codec: Codec, encoder: TextEncoder, temporal: bool) -> SpaceTimeUNet:
    """A fresh network of the config's shape; a temporal one is an inflated image network. Raises RunError."""
    chosen = config.network
    try:
        image = UNetConfig(
            in_channels=codec.channels,
            out_channels=codec.channels,
            channels=chosen.channels,
            layers=(chosen.layers,),
            attention=chosen.attention or (True,),
            heads=tuple(max(1, channels // chosen.head_dim) for channels in chosen.channels),
            transformer_layers=(chosen.transformer_layers,),
            norm_groups=chosen.groups,
            pooled_text=chosen.pooled_text,
            epsilon=chosen.epsilon,
            linear_projection=chosen.linear_projection,
            context_dim=encoder.dim,
        )
    except ValidationError as error:
        raise RunError(f"network: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    network = SpaceTimeUNet(image)
    return inflated(network, config) if temporal else network


def inflated(image: SpaceTimeUNet, config: TrainConfig) -> SpaceTimeUNet:
    """The image network as a video network that computes the same: temporal layers, conditions of videos."""
    first, chosen = config.conditioning.first_frame, config.network
    return inflate(
        image,
        conv_mixing=chosen.conv_mixing,
        attention_mixing=chosen.attention_mixing,
        frame_index=chosen.frame_index,
        concat_channels=image.config.in_channels + first.mask if first else 0,
        vectors=vector_names(config),
    )


def first_network(config: TrainConfig, codec: Codec, encoder: TextEncoder) -> SpaceTimeUNet:
    """What the first stage starts from: public weights if the config names some, else fresh ones. Raises WeightsError."""
    stage = next(iter(config.stages.values()))
    if config.start is None:
        return build_network(config, codec, encoder, stage.temporal)
    network = import_unet(config.start)
    found, wanted = network.config, build_network(config, codec, encoder, network.config.temporal).config
    differ = [name for name in type(found).model_fields if getattr(found, name) != getattr(wanted, name)]
    if differ or found.temporal > stage.temporal:
        said = "; ".join(f"{name}: {getattr(found, name)} there, {getattr(wanted, name)} here" for name in differ)
        raise RunError(
            f"{config.start}: is not a network of this config ({said or 'a video network, for an image stage'}): change "
            "network, codec, text or conditioning of the config to fit the checkpoint"
        )
    return inflated(network, config) if stage.temporal and not found.temporal else network


def vector_names(config: TrainConfig) -> tuple[str, ...]:
    slots, augmented = config.conditioning, config.conditioning.first_frame is not None
    names = {"fps": slots.fps is not None, "motion": slots.motion is not None, "augment": augmented}
    return tuple(name for name, wanted in names.items() if wanted)


def check_network(config: TrainConfig, encoder: TextEncoder) -> None:
    """Raise RunError or NothingToTrain for a network that cannot be built, or a stage that would train nothing of it.

    Takes no memory and no time, and so is asked before anything else is made. For the codec that is trained in the run;
    a public one says its channels when it is loaded.
    """
    if config.codec.kind != "own":
        return
    codec = codec_config(config)
    with torch.device("meta"):
        for stage in config.stages.values():
            choose_trained(build_network(config, codec, encoder, stage.temporal), stage.train)


def codec_config(config: TrainConfig) -> CodecConfig:
    """Of the codec that is trained in the run. Raises RunError."""
    chosen = config.codec
    try:
        return CodecConfig(factor=chosen.factor, channels=chosen.channels, widths=chosen.widths)
    except ValidationError as error:
        raise RunError(f"codec: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def build_conditioner(config: TrainConfig, temporal: bool) -> Conditioner:
    """The slots of a stage: an image network is told the text only."""
    slots: list[Any] = [TextSlot(dropout=config.conditioning.text)]
    if temporal:
        if first := config.conditioning.first_frame:
            slots.append(
                FirstFrameSlot(
                    dropout=first.dropout, noise_mean=first.noise_mean, noise_std=first.noise_std, mask=first.mask
                )
            )
        for name in vector_names(config):  # "augment" is left out with the frame that it speaks of
            slots.append(VectorSlot(name, dropout=getattr(config.conditioning, name, 0.0)))
    return Conditioner(slots)


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value for name, inner in tree.items() for key, value in _flat(inner, f"{path}.{name}".lstrip(".")).items()
    }
