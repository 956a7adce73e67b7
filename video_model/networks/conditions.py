"""A video network that is conditioned on other things than before: what one stage of training hands to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from video_model.networks.layers import zero
from video_model.networks.unet import SpaceTimeUNet
from video_model.networks.unet_config import UNetConfig


def reconditioned(network: SpaceTimeUNet, vectors: Sequence[str], concat_channels: int) -> SpaceTimeUNet:
    """The same video network with other numbers and appended channels; it itself where these are its own.

    A number that it knew keeps its weights, one that is new has no effect yet, one that is gone had better not matter.
    Appended channels start without effect, unless they are as many as before.
    """
    before = network.config
    if before.vectors == tuple(vectors) and before.concat_channels == concat_channels:
        return network
    changes = {"vectors": tuple(vectors), "concat_channels": concat_channels}
    made = SpaceTimeUNet(UNetConfig(**{**before.model_dump(), **changes}))
    state = network.state_dict()
    if concat_channels != before.concat_channels:
        state.pop("concat_in.weight", None)
        if concat_channels:
            zero(made.concat_in)
    if tuple(vectors) != before.vectors:
        known = {name: value for name, value in state.items() if name.startswith("vector_embedding.")}
        state = {name: value for name, value in state.items() if name not in known}
        if vectors:
            _embed(made, before, known)
    made.load_state_dict(state, strict=False)
    return made.to(network.conv_in.weight).to(memory_format=torch.channels_last)


def _embed(made: SpaceTimeUNet, before: UNetConfig, known: dict[str, torch.Tensor]) -> None:
    """The embedding of the numbers: columns of those that were known, zeros for the others."""
    width, names = before.vector_width, made.config.vectors
    if not known:
        zero(made.vector_embedding[2])
        return
    first = known.pop("vector_embedding.0.weight")
    columns = first.new_zeros(first.shape[0], len(names), width)
    for place, name in enumerate(names):
        if name in before.vectors:
            columns[:, place] = first.view(-1, len(before.vectors), width)[:, before.vectors.index(name)]
    state = {"vector_embedding.0.weight": columns.flatten(1), **known}
    made.load_state_dict(state, strict=False)
