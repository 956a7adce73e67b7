"""The shape of a space-time UNet."""

from typing import Literal

from pydantic import model_validator

from curate.base.section import Section
from video_model.networks.mixers import AttentionMixing, ConvMixing


class UNetConfig(Section):
    """Shape of a SpaceTimeUNet; a tuple that is given as one number holds for every level."""

    in_channels: int = 4  # of the noisy latent
    out_channels: int = 4
    concat_channels: int = 0  # of what conditioning appends to it
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # by level; each level halves height and width
    layers: tuple[int, ...] = (2,)  # residual blocks of a level on the way down; one more on the way up
    attention: tuple[bool, ...] = (True, True, True, False)  # levels that have transformers
    middle_attention: bool = True
    heads: tuple[int, ...] = (5, 10, 20, 20)
    transformer_layers: tuple[int, ...] = (1,)  # the last level's holds in the middle too
    up_transformer_layers: tuple[int, ...] | None = None  # by level, on the way up; None: the same as on the way down
    context_dim: int | None = 1024  # channels of text states; None: no text
    ff_multiple: int = 4  # width of the feed-forward layers; public checkpoints have 4
    pooled_text: bool = False  # condition every residual block on the text as one vector too; no public network has it
    frame_index: bool = False  # frame-time embedding, in a temporal network; no public network has it
    norm_groups: int = 32
    epsilon: Literal["sd", "svd"] = "svd"  # of residual blocks: 1e-5 everywhere, or as in the released video model
    vectors: tuple[str, ...] = ()  # names of the numbers a sample is conditioned on; "fps" is embedded as fps - 1
    vector_width: int = 256  # sinusoids of each
    temporal: bool = False
    conv_mixing: ConvMixing = "alpha"  # of a temporal network
    attention_mixing: AttentionMixing = "alpha"
    linear_projection: bool = True  # for export only: projections around a transformer are linear, or 1x1 convolutions

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_levels(cls, values: dict) -> dict:
        values = dict(values)
        levels = len(values.get("channels", cls.model_fields["channels"].default))
        for name in ("layers", "attention", "heads", "transformer_layers"):
            value = values.get(name, cls.model_fields[name].default)
            value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
            values[name] = value * levels if len(value) == 1 else value
        up = values.get("up_transformer_layers")
        if up is not None and tuple(up) == values["transformer_layers"]:
            values["up_transformer_layers"] = None  # one network has one config
        return values

    @model_validator(mode="after")
    def _consistent(self):
        for name in ("layers", "attention", "heads", "transformer_layers", "up_transformer_layers"):
            if len(getattr(self, name) or self.channels) != len(self.channels):
                raise ValueError(
                    f"{name} {getattr(self, name)} must have one value, or one for each of the levels of channels {self.channels}"
                )
        counts = (*self.layers, *self.heads, *self.transformer_layers, *(self.up_transformer_layers or ()))
        if min(counts) < 1:
            raise ValueError(
                f"layers {self.layers}, heads {self.heads} and transformer_layers {self.transformer_layers} must be 1 or more"
            )
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % self.norm_groups or channels % heads:
                raise ValueError(
                    f"channels {channels} must be divisible by norm_groups {self.norm_groups} and heads {heads}"
                )
        return self
