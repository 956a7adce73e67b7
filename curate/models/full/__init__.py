"""The paper's model pack: CLIP and the LAION aesthetic head, CoCa, VideoBLIP (or any chat VLM), and an instruct LLM.

Importing these modules is cheap: torch, open_clip and transformers are imported when an adapter is made.
"""

from curate.models.full.aesthetic import LaionAesthetic
from curate.models.full.clip import OpenClipEmbedder
from curate.models.full.coca import CoCaCaptioner
from curate.models.full.endpoint import EndpointMerger
from curate.models.full.merge import TransformersMerger
from curate.models.full.video_blip import VideoBlipCaptioner
from curate.models.full.video_chat import VideoChatCaptioner

__all__ = [
    "CoCaCaptioner",
    "EndpointMerger",
    "LaionAesthetic",
    "OpenClipEmbedder",
    "TransformersMerger",
    "VideoBlipCaptioner",
    "VideoChatCaptioner",
]
