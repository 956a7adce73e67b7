"""What a network is conditioned on. To add a slot: a file here, and its class in the list; keys of `conditioning` follow it."""

from video_model.diffusion.slots.base import Conditions, Models, Slot, shown_to
from video_model.diffusion.slots.first_frame import FirstFrameSlot
from video_model.diffusion.slots.fps import FpsSlot
from video_model.diffusion.slots.image import ImageSlot
from video_model.diffusion.slots.key_frames import KeyFramesSlot
from video_model.diffusion.slots.motion import MotionSlot
from video_model.diffusion.slots.number import NumberSlot
from video_model.diffusion.slots.text import TextSlot

SLOTS = [TextSlot, FpsSlot, MotionSlot, FirstFrameSlot, KeyFramesSlot, ImageSlot]

__all__ = [
    "SLOTS",
    "Conditions",
    "FirstFrameSlot",
    "FpsSlot",
    "ImageSlot",
    "KeyFramesSlot",
    "Models",
    "MotionSlot",
    "NumberSlot",
    "Slot",
    "TextSlot",
    "shown_to",
]
