"""The names for plugins: `from curate.plugin import Column, Stage, stills` (docs/extending.md)."""

import pyarrow as types  # of columns: types.float32(), types.string() ...
from pydantic import Field

from curate.base.section import Section
from curate.clip import Clip, Column
from curate.models.adapter import Adapter, HubOptions
from curate.models.roles import (
    AESTHETIC,
    EMBEDDER,
    FRAME_CAPTION,
    MERGE,
    NSFW,
    QUALITY,
    TEXT,
    VIDEO_CAPTION,
)
from curate.observers.observer import Observer
from curate.pipeline_part import Role
from curate.selection.presets import Preset
from curate.stages.pictures import stills
from curate.stages.stage import Stage
from curate.video.frame import Frame
from curate.video.timeline import Timeline
from curate.weights import Weights

__all__ = [
    "AESTHETIC", "EMBEDDER", "FRAME_CAPTION", "MERGE", "NSFW", "QUALITY", "TEXT", "VIDEO_CAPTION",
    "Adapter", "Clip", "Column", "Field", "Frame", "HubOptions", "Observer", "Preset", "Role", "Section", "Stage", "Timeline",
    "Weights", "stills", "types",
]  # fmt: skip
