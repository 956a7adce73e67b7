"""How much the noise levels count in the loss of training. To add a weighting: a file here, and its class in the list."""

from video_model.diffusion.weightings.base import NetworkWeighting, Weighting
from video_model.diffusion.weightings.clean import CleanWeighting
from video_model.diffusion.weightings.debiased import DebiasedWeighting
from video_model.diffusion.weightings.min_snr import MinSnrWeighting
from video_model.diffusion.weightings.snr import SnrWeighting
from video_model.diffusion.weightings.soft_min_snr import SoftMinSnrWeighting

WEIGHTINGS = [
    NetworkWeighting,
    MinSnrWeighting,
    SoftMinSnrWeighting,
    SnrWeighting,
    CleanWeighting,
    DebiasedWeighting,
]

__all__ = [
    "WEIGHTINGS",
    "CleanWeighting",
    "DebiasedWeighting",
    "MinSnrWeighting",
    "NetworkWeighting",
    "SnrWeighting",
    "SoftMinSnrWeighting",
    "Weighting",
]
