"""Optimisers of training. To add one: a file here, and its class in the list."""

from video_model.optimizers.adafactor import Adafactor
from video_model.optimizers.adamw import AdamW
from video_model.optimizers.adamw_8bit import AdamW8bit
from video_model.optimizers.base import OptimizerSection

OPTIMIZERS = [AdamW, AdamW8bit, Adafactor]

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "AdamW8bit", "OptimizerSection"]
