"""Networks and their parts. To add a network: a file here, and its section in the list."""

from video_model.networks.section import NetworkSection, VideoNetwork
from video_model.networks.unet_section import UNet

NETWORKS = [UNet]

__all__ = ["NETWORKS", "NetworkSection", "UNet", "VideoNetwork"]
