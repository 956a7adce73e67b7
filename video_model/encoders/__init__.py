"""Text encoders. To add one: a file here, and its section in the list."""

from video_model.encoders.open_clip import OpenClip
from video_model.encoders.t5 import T5
from video_model.encoders.text import EncoderSection, MiniLm, TextEncoder

ENCODERS = [MiniLm, OpenClip, T5]

__all__ = ["ENCODERS", "T5", "EncoderSection", "MiniLm", "OpenClip", "TextEncoder"]
