"""Text: how much of the picture is covered by text (titles, subtitles, logos)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from curate.clip import Clip, Column
from curate.models import TextDetector
from curate.models.loading import loaded
from curate.models.roles import TEXT
from curate.stages.pictures import batches, flattened, stills
from curate.stages.stage import Stage, attempt


class Text(Stage):
    """Fills `text_area` and `text_boxes` from the stills.

    detector: a TextDetector, or a factory of one. Errors: a clip without readable stills has null columns and a reason.
    """

    name = "text"
    needs = ("stills",)
    models = (TEXT,)
    columns = (
        Column(
            "text_area",
            pa.float32(),
            formula="area of the union of the detected text quads / area of the picture; the largest of the stills",
            range="0..1",
            source="CRAFT (Baek et al. 2019) on first, middle and last frame, as in Blattmann et al. 2023",
        ),
        Column(
            "text_boxes",
            pa.int32(),
            formula="number of text quads detected in one still; the largest of the stills",
            range="0..",
            source="as text_area",
        ),
    )

    def __init__(self, detector: TextDetector | Callable[[], TextDetector]) -> None:
        self.detector: TextDetector = loaded(detector)

    def process(self, clips: Sequence[Clip]) -> None:
        for batch in batches(clips, self.at_once):
            attempt(self._score, batch, self.name, self.columns)

    def _score(self, clips: Sequence[Clip]) -> None:
        pictures, places = flattened([stills(clip) for clip in clips])
        quads = self.detector.quads(pictures)
        areas = [covered_share(found, *picture.shape[1::-1]) for found, picture in zip(quads, pictures, strict=True)]
        for clip, place in zip(clips, places, strict=True):
            clip.values["text_area"] = max(areas[place])
            clip.values["text_boxes"] = max(len(found) for found in quads[place])


def covered_share(quads: Sequence[np.ndarray], width: int, height: int) -> float:
    """Share of a picture of width x height px that quads ([4, 2] points x, y) cover; overlaps count once, 0..1."""
    from shapely import MultiPoint, box, union_all

    # The convex hull, because a quad's corners may be in any order.
    shapes = [MultiPoint(np.asarray(quad, dtype=np.float64)).convex_hull for quad in quads]
    return float(union_all(shapes).intersection(box(0, 0, width, height)).area / (width * height))
