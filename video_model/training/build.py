"""How the parts of a run are built from its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from video_model.codecs import Codec
from video_model.config import Conditioning, TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.slots import Models
from video_model.encoders import TextEncoder
from video_model.errors import RunError, first_line
from video_model.networks.lora import add_lora, merge
from video_model.public.formats import format_of
from video_model.training.steps.adapters import add_saved_lora, chosen_lora
from video_model.training.steps.optimisation import choose_trained
from video_model.training.steps.workers import load_network
from video_model.training.storage import checkpoints
from video_model.training.storage.checkpoints import Checkpoint


def build_network(config: TrainConfig, stage: str, models: Models) -> Any:
    """A fresh network of a stage's shape; a video network is an inflated image network. Raises RunError."""
    return _built(config, stage, models.codec.channels, models.encoder)


def inflated(network: Any, config: TrainConfig, stage: str, latent_channels: int) -> Any:
    """A network as a video stage has it: an image network with temporal layers, a video network with other conditions.

    What is new has no effect yet.
    """
    conditioning = config.conditioning_of(stage)
    appended = sum(slot.concat_channels(latent_channels) for slot in config.slots_of(stage))
    return config.network.video(network, conditioning.vectors, appended)


def first_network(config: TrainConfig, stage: str, models: Models) -> Any:
    """What the first stage starts from: public weights or a finished run if the config names some, else fresh ones.

    With LoRA it is what all stages add to, and nothing in it is fresh. Raises WeightsError, RunError.
    """
    if config.start is None:
        return build_network(config, stage, models)
    run = run_at_start(config)
    network = _result_of(run, config, stage, models) if run else format_of(config.network).load(config.start)
    wanted = build_network(config, stage, models)
    if config.stages[stage].temporal and not config.lora and (run or not network.temporal):
        network = inflated(network, config, stage, models.codec.channels)
    elif network.temporal and not run:
        frames_unscaled(network, config, stage, models.codec)
    if not hasattr(wanted, "config"):
        return network
    differ = [
        name
        for name in type(network.config).model_fields
        if getattr(network.config, name) != getattr(wanted.config, name)
    ]
    if differ:
        listed = "; ".join(
            f"{name}: {getattr(network.config, name)} there, {getattr(wanted.config, name)} here" for name in differ
        )
        kind = ", a video network, for an image stage" if network.temporal and not wanted.temporal else ""
        raise RunError(
            f"{config.start}: is not a network of this config ({listed}{kind}): change network, codec, text or "
            "conditioning of the config to fit the checkpoint"
        )
    return network


def trained_network(config: TrainConfig, stage: str, checkpoint: Checkpoint, models: Models) -> Any:
    """The average of the weights at a checkpoint of a stage, with its LoRA where there is one. Raises RunError."""
    if config.lora:
        base = first_network(config, stage, models)
        network = add_saved_lora(base, checkpoint.facts, config.start, str(checkpoint.path))
    else:
        network = build_network(config, stage, models)
    try:
        load_network(network, checkpoint.part("ema"))
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{checkpoint.path}: is not of this config's network ({first_line(error)})") from None
    return network


def run_at_start(config: TrainConfig) -> Path | None:
    """The run that `start` names, or of which it names a stage (RUN/stages/NAME)."""
    folder = Path(config.start) if config.start else Path()
    if (folder / "checkpoints").is_dir() and folder.parent.name == "stages":
        return folder.parent.parent
    return folder if config.start and (folder / "stages").is_dir() else None


def config_of(run: Path, schema: type[TrainConfig]) -> TrainConfig:
    """The config of the run that `start` names. Raises RunError."""
    try:
        return schema.model_validate_json((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"start: {run}: is no run of this version ({first_line(error)})") from None


def _result_of(run: Path, config: TrainConfig, stage: str, models: Models) -> Any:
    """The network that a finished run made, for a stage of another; LoRA is in its weights."""
    made = config_of(run, type(config))
    chosen = Path(config.start or "").name if Path(config.start or "") != run else None
    for name in [chosen] if chosen in made.stages else reversed(made.stages):
        found = checkpoints.latest(run / "stages" / name / "checkpoints")
        if found and found.facts.get("done"):
            network = merge(trained_network(made, name, found, models))
            frames_as_given(network, made.conditioning_of(name), config.conditioning_of(stage), models.codec)
            return network
    what = f"stage {chosen} of this run is not done" if chosen else "no stage of this run is done"
    raise RunError(f"start: {run}: {what}: train it first, or name another")


def frames_as_given(network: Any, before: Conditioning, now: Conditioning, codec: Codec) -> None:
    """Let a network that was given the first frame's latent as `before` says take it as `now` does: scaled, or as the VAE has it.

    Nothing is done where the appended channels are not the same: then they start anew.
    """
    was, slot = (getattr(section, "first_frame", None) for section in (before, now))
    if was is None or slot is None or was.released == slot.released or was.mask != slot.mask:
        return
    if not getattr(network.config, "concat_channels", 0):
        return
    _scale_frames(network, codec, slot.released)


def frames_unscaled(network: Any, config: TrainConfig, stage: str, codec: Codec, back: bool = False) -> None:
    """Let a public network, which is given the first frame's latent unscaled, take the scaled latents of this config; or back.

    Nothing is done where the stage gives unscaled ones itself (first_frame.released), or no frame at all.
    """
    slot = getattr(config.conditioning_of(stage), "first_frame", None)
    if slot is None or slot.released or not network.config.concat_channels:
        return
    _scale_frames(network, codec, back)


def _scale_frames(network: Any, codec: Codec, unscaled: bool) -> None:
    """Let a network that took the other take unscaled latents of the first frame, or scaled ones."""
    scale = getattr(codec, "scale", 1.0)
    with torch.no_grad():
        network.concat_in.weight[:, : network.config.in_channels] *= scale if unscaled else 1 / scale


def check_network(config: TrainConfig, encoder: TextEncoder) -> None:
    """Raise RunError or NothingToTrain for a network that cannot be built, or a stage that would train nothing of it.

    Takes no memory and no time, and so is asked before anything else is made. A public codec's channels are known only when
    it is loaded; then nothing is checked.
    """
    for name in config.stages:
        before = config.before(name)
        if before and _context(config, name, encoder) != _context(config, before, encoder):
            raise RunError(
                f"stage {name}: attends to tokens of {_context(config, name, encoder)} channels, and stage {before}, which it "
                f"starts from, to {_context(config, before, encoder)}: give both as many (conditioning.text, conditioning.image)"
            )
        if config.lora and before and _given(config, name) != _given(config, before):
            raise RunError(
                f"stage {name}: is conditioned on other things than stage {before}, and LoRA is added to one network: give "
                "all stages the same conditioning (only dropout may differ), or train without lora"
            )
    try:
        channels = config.codec.latent_channels
    except ValidationError as error:
        raise RunError(f"codec: {_reason(error)}") from None
    if channels is None:
        return
    with torch.device("meta"):
        for name, stage in config.stages.items():
            network = _built(config, name, channels, encoder)
            if config.lora:
                add_lora(network, chosen_lora(network, config.lora, config.network).shapes)
            choose_trained(network, stage.train)


def build_conditioner(config: TrainConfig, stage: str, models: Models) -> Conditioner:
    """The slots of a stage. Raises RunError for slots that do not go together."""
    try:
        return Conditioner(config.slots_of(stage), models)
    except ValueError as error:
        raise RunError(f"stage {stage}: {error}") from None


def _built(config: TrainConfig, stage: str, latent_channels: int, encoder: TextEncoder) -> Any:
    try:
        network = config.network.image(latent_channels, _context(config, stage, encoder))
    except ValidationError as error:
        raise RunError(f"network: {_reason(error)}") from None
    return inflated(network, config, stage, latent_channels) if config.stages[stage].temporal else network


def _given(config: TrainConfig, stage: str) -> list[Any]:
    """What a stage is conditioned on, however often."""
    return [slot.model_copy(update={"dropout": 0.0}) for slot in config.slots_of(stage)]


def _context(config: TrainConfig, stage: str, encoder: TextEncoder) -> int | None:
    """Channels of the tokens that a stage's network attends to; None: to nothing."""
    conditioning = config.conditioning_of(stage)
    return conditioning.context_dim if conditioning.text is None else encoder.dim


def _reason(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
