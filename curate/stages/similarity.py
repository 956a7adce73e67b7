"""Similarity of each caption to the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from curate.clip import Clip, Column
from curate.models import Embedder
from curate.models.embedding_cache import embed_stills
from curate.models.loading import loaded
from curate.models.roles import EMBEDDER
from curate.stages.pictures import batches, flattened, stills
from curate.stages.stage import Stage, attempt

CAPTIONS = {"frame": "captions.frame", "video": "captions.video", "merged": "captions.merge"}  # column -> its model


class Similarity(Stage):
    """Fills similarity_frame, similarity_video and similarity_merged; null, and no error, where there is no caption.

    embedder: the one of Appearance, whose recent embeddings of stills are reused; or a factory; None leaves the columns
    null.
    """

    name = "similarity"
    needs = ("stills", "captions")
    models = (replace(EMBEDDER, column="similarity"),)
    prefiltered = True
    columns = tuple(
        Column(
            f"similarity_{which}",
            pa.float32(),
            formula=f"cosine of the embeddings of caption_{which} and each still, mean of stills; null without it",
            range="-1..1, higher is better; comparable within one embedder only",
            source="CLIP ViT-L/14 on three frames, as in Blattmann et al. 2023 (full); ConSE (embedded)",
            models=(captioner, EMBEDDER.key),
        )
        for which, captioner in CAPTIONS.items()
    )

    def __init__(self, embedder: Embedder | Callable[[], Embedder] | None) -> None:
        self.embedder: Embedder | None = loaded(embedder)

    def process(self, clips: Sequence[Clip]) -> None:
        for batch in batches(clips, self.at_once):
            attempt(self._score, batch, self.name, self.columns)

    def _score(self, clips: Sequence[Clip]) -> None:
        wanted = []
        for clip in clips:
            for which in CAPTIONS:
                clip.values[f"similarity_{which}"] = None
                if self.embedder and clip.values.get(f"caption_{which}"):
                    wanted.append((clip, which))
        if not wanted:
            return
        captioned = list({id(clip): clip for clip, _ in wanted}.values())
        pictures, places = flattened([stills(clip) for clip in captioned])
        rows = embed_stills(self.embedder, pictures)
        seen = {id(clip): rows[place] for clip, place in zip(captioned, places, strict=True)}

        # A merged caption often repeats one of the two: each sentence is embedded once.
        sentences = list(dict.fromkeys(clip.values[f"caption_{which}"] for clip, which in wanted))
        rows_of_text = dict(zip(sentences, self.embedder.texts(sentences), strict=True))
        for clip, which in wanted:
            cosines = seen[id(clip)].astype(np.float64) @ rows_of_text[clip.values[f"caption_{which}"]].astype(
                np.float64
            )
            clip.values[f"similarity_{which}"] = float(cosines.mean())
