"""Captions: of the middle frame, of the whole clip, and one merged from both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from curate.clip import Clip, Column
from curate.models import Captioner, ClipView, Merger
from curate.models.loading import loaded
from curate.models.roles import FRAME_CAPTION, MERGE, VIDEO_CAPTION
from curate.stages.pictures import batches, decode, stills
from curate.stages.stage import Stage, attempt

FRAME = Column(
    "caption_frame",
    pa.string(),
    formula="caption of the middle still; null where the captioner has nothing that it can stand by",
    source="CoCa (full); concept tags (embedded)",
    models=("captions.frame",),
)
VIDEO = Column(
    "caption_video",
    pa.string(),
    formula="caption of the clip from evenly spaced frames, or from its measured columns; null as for caption_frame",
    source="V-BLIP (full); measured facts (embedded)",
    models=("captions.video",),
)
MERGED = Column(
    "caption_merged",
    pa.string(),
    formula="one caption out of caption_frame and caption_video",
    source="a language model, as in Blattmann et al. 2023, sec. 3; model in dataset.json",
    models=("captions.merge",),
)
MERGED_FROM = Column(
    "caption_merged_from",
    pa.string(),
    formula="how caption_merged came about: merged; frame or video (that one as it is); rejected: why, and which was kept",
)


class Captions(Stage):
    """Fills caption_frame, caption_video, caption_merged and caption_merged_from.

    frame, video: captioners; merger: a Merger; each may be None (its columns stay null) or a factory. Each column fails
    alone, with its reason in `errors[column]`; stills that cannot be read fail all, under `errors["captions"]`.
    The frame captioner sees the middle still only.
    """

    name = "captions"
    needs = ("stills", "motion")
    models = (FRAME_CAPTION, VIDEO_CAPTION, MERGE)
    error_keys = ("frames",)  # frames for the video captioner could not be read
    prefiltered = True
    columns = (FRAME, VIDEO, MERGED, MERGED_FROM)

    def __init__(
        self,
        frame: Captioner | Callable[[], Captioner] | None = None,
        video: Captioner | Callable[[], Captioner] | None = None,
        merger: Merger | Callable[[], Merger] | None = None,
    ) -> None:
        self.frame: Captioner | None = loaded(frame)
        self.video: Captioner | None = loaded(video)
        self.merger: Merger | None = loaded(merger)

    @classmethod
    def frames(cls, config: Any) -> int:
        """How many evenly spaced frames of each clip the video captioner needs; 0: it uses the stills."""
        section = config.captions.video
        if section is None:
            return 0
        return getattr(section, "frames", None) or getattr(config.parts.adapter_of(section), "frames", 0)

    def process(self, clips: Sequence[Clip]) -> None:
        for batch in batches(clips, self.at_once):
            attempt(self._caption, batch, self.name, self.columns)

    def _caption(self, clips: Sequence[Clip]) -> None:
        for clip in clips:
            clip.values.update({column.name: None for column in self.columns})
        views = {id(clip): self._view(clip) for clip in clips}

        def fill(captioner: Captioner, column: Column, narrow: Callable[[ClipView], ClipView]) -> None:
            def run(some: Sequence[Clip]) -> None:
                for clip, caption in zip(some, captioner.captions([narrow(views[id(c)]) for c in some]), strict=True):
                    clip.values[column.name] = one_line(caption)

            attempt(run, list(clips), column.name, (column,))

        if self.frame:
            fill(self.frame, FRAME, middle_only)
        if self.video:
            fill(self.video, VIDEO, lambda view: view)
        if self.merger:
            attempt(self._merge, list(clips), MERGED.name, (MERGED, MERGED_FROM))

    def _view(self, clip: Clip) -> ClipView:
        frames = [decode(frame) for frame in clip.frames] if self.video and self.video.frames else []
        return ClipView(stills=stills(clip), frames=frames, facts=clip.values)

    def _merge(self, clips: Sequence[Clip]) -> None:
        pairs = [(clip.values[FRAME.name], clip.values[VIDEO.name]) for clip in clips]
        for clip, pair, (caption, how) in zip(clips, pairs, merge_explained(self.merger, pairs), strict=True):
            clip.values[MERGED.name] = one_line(caption)
            clip.values[MERGED_FROM.name] = how or merged_from(one_line(caption), *pair)


def middle_only(view: ClipView) -> ClipView:
    """The view of the frame captioner: only the middle still (of two, the second)."""
    return ClipView(stills=[view.stills[len(view.stills) // 2]], frames=[], facts=view.facts)


def merge_explained(merger: Merger, pairs: Sequence[tuple[str | None, str | None]]) -> list[tuple[str | None, str]]:
    """Merged captions and how each was made: by the merger's `explained`; "" for a merger without this method."""
    if hasattr(merger, "explained"):
        return merger.explained(pairs)
    return [(caption, "") for caption in merger.merge(pairs)]


def merged_from(merged: str | None, frame: str | None, video: str | None) -> str | None:
    """Which caption a merged one repeats, or "merged"; None for none."""
    if merged is None:
        return None
    return "frame" if merged == frame else "video" if merged == video else "merged"


def one_line(caption: str | None) -> str | None:
    """One line without spaces at its ends; None for an empty one."""
    return " ".join(caption.split()) or None if caption else None
