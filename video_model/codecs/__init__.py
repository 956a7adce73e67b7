"""Latent codecs: pixels to latents and back. To add one: a file here, and its section in the list."""

from video_model.codecs.own import OwnCodec
from video_model.codecs.protocol import Codec, CodecError, CodecSection, placed
from video_model.codecs.public_vae import PublicCodec

CODECS = [OwnCodec, PublicCodec]

__all__ = ["CODECS", "Codec", "CodecError", "CodecSection", "OwnCodec", "PublicCodec", "placed"]
