"""Text encoders. To add one: a file here, and its section in the list."""

from video_model.encoders.clip import ClipText
from video_model.encoders.minilm import MiniLm
from video_model.encoders.none import NoText
from video_model.encoders.open_clip import OpenClipText
from video_model.encoders.protocol import EncoderSection, TextEncoder
from video_model.encoders.t5 import T5

ENCODERS = [MiniLm, OpenClipText, T5, ClipText, NoText]

__all__ = ["ENCODERS", "T5", "ClipText", "EncoderSection", "MiniLm", "NoText", "OpenClipText", "TextEncoder"]
