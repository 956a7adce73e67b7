"""How a network's output is read as clean data. To add one: a file here, and its class in the list."""

from video_model.diffusion.parametrisations.base import Parametrisation, Scales
from video_model.diffusion.parametrisations.edm import Edm
from video_model.diffusion.parametrisations.epsilon import Epsilon
from video_model.diffusion.parametrisations.flow import RectifiedFlow
from video_model.diffusion.parametrisations.v import VPrediction

PARAMETRISATIONS = [Edm, VPrediction, Epsilon, RectifiedFlow]

__all__ = ["PARAMETRISATIONS", "Edm", "Epsilon", "Parametrisation", "RectifiedFlow", "Scales", "VPrediction"]
