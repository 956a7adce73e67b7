"""How the parts of a run are built from its config."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from video_model.codecs import Codec
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.encoders import TextEncoder
from video_model.errors import RunError
from video_model.public.formats import format_of
from video_model.training.steps.optimisation import choose_trained


def build_network(config: TrainConfig, latent_channels: int, text_dim: int, temporal: bool) -> Any:
    """A fresh network of the config's shape; a video network is an inflated image network. Raises RunError."""
    try:
        network = config.network.image(latent_channels, text_dim)
    except ValidationError as error:
        raise RunError(f"network: {_reason(error)}") from None
    return inflated(network, config, latent_channels) if temporal else network


def inflated(image: Any, config: TrainConfig, latent_channels: int) -> Any:
    """The image network as a video network that computes the same: temporal layers, conditions of videos."""
    slots = config.conditioning.slots(temporal=True)
    appended = sum(slot.concat_channels(latent_channels) for slot in slots)
    return config.network.video(image, config.conditioning.vectors, appended)


def first_network(config: TrainConfig, codec: Codec, encoder: TextEncoder) -> Any:
    """What the first stage starts from: public weights if the config names some, else fresh ones. Raises WeightsError."""
    stage = next(iter(config.stages.values()))
    if config.start is None:
        return build_network(config, codec.channels, encoder.dim, stage.temporal)
    network = format_of(config.network).load(config.start)
    found, wanted = network.config, build_network(config, codec.channels, encoder.dim, network.temporal).config
    differ = [name for name in type(found).model_fields if getattr(found, name) != getattr(wanted, name)]
    if differ or network.temporal > stage.temporal:
        listed = "; ".join(f"{name}: {getattr(found, name)} there, {getattr(wanted, name)} here" for name in differ)
        raise RunError(
            f"{config.start}: is not a network of this config ({listed or 'a video network, for an image stage'}): change "
            "network, codec, text or conditioning of the config to fit the checkpoint"
        )
    return inflated(network, config, codec.channels) if stage.temporal and not network.temporal else network


def check_network(config: TrainConfig, encoder: TextEncoder) -> None:
    """Raise RunError or NothingToTrain for a network that cannot be built, or a stage that would train nothing of it.

    Takes no memory and no time, and so is asked before anything else is made. A public codec's channels are known only when
    it is loaded; then nothing is checked.
    """
    try:
        channels = config.codec.latent_channels
    except ValidationError as error:
        raise RunError(f"codec: {_reason(error)}") from None
    if channels is None:
        return
    with torch.device("meta"):
        for stage in config.stages.values():
            choose_trained(build_network(config, channels, encoder.dim, stage.temporal), stage.train)


def build_conditioner(config: TrainConfig, temporal: bool) -> Conditioner:
    """The slots of a stage."""
    return Conditioner(config.conditioning.slots(temporal))


def _reason(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
