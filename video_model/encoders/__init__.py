"""Text encoders. To add one: a file here, and its section in the list."""

from video_model.encoders.open_clip import OpenClipText
from video_model.encoders.t5 import T5
from video_model.encoders.text import EncoderSection, MiniLm, TextEncoder

ENCODERS = [MiniLm, OpenClipText, T5]

__all__ = ["ENCODERS", "T5", "EncoderSection", "MiniLm", "OpenClipText", "TextEncoder"]
