"""What a network is conditioned on. To add a slot: a file here, and its class in the list; keys of `conditioning` follow it."""

from video_model.diffusion.slots.base import Conditions, Models, Slot
from video_model.diffusion.slots.first_frame import FirstFrame
from video_model.diffusion.slots.fps import Fps
from video_model.diffusion.slots.motion import Motion
from video_model.diffusion.slots.number import Number
from video_model.diffusion.slots.text import Text

SLOTS = [Text, Fps, Motion, FirstFrame]

__all__ = ["SLOTS", "Conditions", "FirstFrame", "Fps", "Models", "Motion", "Number", "Slot", "Text"]
