"""Temporal mixers: the layers through which frames see each other. To add one: a file here, and its class in a list.

All have one call, `mixer(x [B, T, N, C], given, depth) -> [B, T, N, C]`, where N are the positions of a frame. All
change nothing when freshly made, bit for bit, because the last layer of what they *add* starts at zero; and nothing in
rows that are images, ever. A convolution mixer stands after each residual block, an attention mixer after each spatial
attention block.
"""

from typing import Annotated

from pydantic import AfterValidator

from video_model.networks.mixers.base import AttentionPlace, ConvPlace, Mixer
from video_model.networks.mixers.convolution import AlphaConv, ResidualConv
from video_model.networks.mixers.dirac import DiracConv
from video_model.networks.mixers.joint import JointAttention
from video_model.networks.mixers.relative import RelativeAttention
from video_model.networks.mixers.transformer import AlphaAttention, ResidualAttention

CONV_MIXERS: list[type[Mixer]] = [AlphaConv, ResidualConv, DiracConv, Mixer]
ATTENTION_MIXERS: list[type[Mixer]] = [AlphaAttention, ResidualAttention, RelativeAttention, JointAttention, Mixer]


def mixer_named(name: str, mixers: list[type[Mixer]], key: str) -> type[Mixer]:
    """Raises ValueError, which names the config's key and the names that there are."""
    for mixer in mixers:
        if mixer.name == name:
            return mixer
    raise ValueError(f"network.{key} must be one of {', '.join(mixer.name for mixer in mixers)} (got {name!r})")


# Checked against the lists when a config is read, so that a mixer in a list is a name in configs
ConvMixing = Annotated[str, AfterValidator(lambda name: mixer_named(name, CONV_MIXERS, "conv_mixing").name)]
AttentionMixing = Annotated[
    str, AfterValidator(lambda name: mixer_named(name, ATTENTION_MIXERS, "attention_mixing").name)
]


def conv_mixer(name: str, place: ConvPlace) -> Mixer:
    """The mixer that stands after a residual block."""
    return mixer_named(name, CONV_MIXERS, "conv_mixing")(place)


def attention_mixer(name: str, place: AttentionPlace) -> Mixer:
    """The mixer that stands after each spatial attention block of a transformer."""
    return mixer_named(name, ATTENTION_MIXERS, "attention_mixing")(place)


__all__ = [
    "ATTENTION_MIXERS",
    "CONV_MIXERS",
    "AttentionMixing",
    "AttentionPlace",
    "ConvMixing",
    "ConvPlace",
    "Mixer",
    "attention_mixer",
    "conv_mixer",
    "mixer_named",
]
