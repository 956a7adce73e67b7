"""The space-time UNet as a part of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from video_model.networks.conditions import reconditioned
from video_model.networks.mixers import ATTENTION_MIXERS, CONV_MIXERS, AttentionMixing, ConvMixing, mixer_named
from video_model.networks.section import NetworkSection
from video_model.networks.unet import SpaceTimeUNet, inflate
from video_model.networks.unet_config import UNetConfig


class UNet(NetworkSection):
    """The space-time UNet. Levels are as many as `channels`; each but the last halves the latents."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (64, 128)
    layers: int | tuple[int, ...] = Field(2, description="residual blocks of a level, or by level")
    attention: tuple[bool, ...] | None = Field(None, description="levels with transformers; unset: all")
    head_dim: int = Field(32, ge=1, description="channels of an attention head")
    heads: int | tuple[int, ...] | None = Field(
        None, description="attention heads, or by level, instead of head_dim: Stable Diffusion 1.x has 8 everywhere"
    )
    transformer_layers: int | tuple[int, ...] = Field(1, description="depth of the transformers, or by level")
    up_transformer_layers: tuple[int, ...] | None = Field(
        None, description="by level, on the way up; unset: the same as on the way down"
    )
    vector_width: int = Field(256, ge=2, description="sinusoids of each number that it is conditioned on")
    groups: int = Field(32, ge=1, description="of group normalisation")
    pooled_text: bool = Field(
        False,
        description="condition every residual block on the text as one vector too; learns sooner, maps onto no checkpoint",
    )
    frame_index: bool = Field(
        False,
        description="frame-time embedding: condition a video network on the time of each frame together with the text; "
        "without it what moves where is learned late; a video network that has it maps onto no checkpoint",
    )
    epsilon: Literal["sd", "svd"] = Field(
        "svd", description="of norms in residual blocks, as the checkpoint in `start` has it"
    )
    linear_projection: bool = Field(
        True, description="around transformers; false: 1x1 convolutions, as Stable Diffusion 1.x"
    )
    up_transformer_layers: tuple[int, ...] | None = Field(
        None, description="attention blocks by level on the way up; unset: the same as on the way down"
    )
    conv_mixing: ConvMixing = Field(
        "alpha", description="temporal convolutions: Stable Video Diffusion's alpha blend, or others of networks/mixers"
    )
    attention_mixing: AttentionMixing = Field(
        "alpha", description="temporal attention; joint: all positions of all frames, for small latents"
    )

    @model_validator(mode="after")
    def _knows_time(self) -> UNet:
        for name, mixers, key in (
            (self.conv_mixing, CONV_MIXERS, "conv_mixing"),
            (self.attention_mixing, ATTENTION_MIXERS, "attention_mixing"),
        ):
            if mixer_named(name, mixers, key).needs_frame_index and not self.frame_index:
                raise ValueError(f"network: {key} {name} knows no order of frames by itself: set frame_index")
        return self

    @property
    def multiple(self) -> int:
        return 2 ** (len(self.channels) - 1)

    def image(self, latent_channels: int, text_dim: int | None) -> SpaceTimeUNet:
        shape = UNetConfig(
            in_channels=latent_channels,
            out_channels=latent_channels,
            channels=self.channels,
            layers=self.layers,
            attention=self.attention or (True,),
            heads=self.heads or tuple(max(1, channels // self.head_dim) for channels in self.channels),
            transformer_layers=self.transformer_layers,
            up_transformer_layers=self.up_transformer_layers,
            vector_width=self.vector_width,
            norm_groups=self.groups,
            pooled_text=self.pooled_text,
            epsilon=self.epsilon,
            linear_projection=self.linear_projection,
            context_dim=text_dim,
        )
        return SpaceTimeUNet(shape)

    def video(self, network: SpaceTimeUNet, vectors: Sequence[str], concat_channels: int) -> SpaceTimeUNet:
        if network.temporal:
            return reconditioned(network, vectors, concat_channels)
        return inflate(
            network,
            conv_mixing=self.conv_mixing,
            attention_mixing=self.attention_mixing,
            frame_index=self.frame_index,
            concat_channels=concat_channels,
            vectors=tuple(vectors),
        )
