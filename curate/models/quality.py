"""Technical quality without a reference picture: BRISQUE (Mittal, Moorthy & Bovik 2012)."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from curate.base.section import Section
from curate.models import Image
from curate.models.adapter import Adapter
from curate.models.packaged import packaged, require
from curate.models.roles import QUALITY
from curate.weights import Weights


class BrisqueOptions(Section):
    kind: Literal["brisque"] = "brisque"


class Brisque(Adapter):
    """BRISQUE by the package `brisque`: 0 undistorted, 100 badly distorted, a little beyond at times; LOWER is better.

    Equal to the package's scores, to the bit. Its constants are in a pickle, which is read here without unpickling.
    Raises MissingWeights; ValueError for a picture too flat to have statistics.
    """

    roles = (QUALITY,)
    cpu_seconds = 0.22
    Options = BrisqueOptions
    name = "BRISQUE (package brisque)"

    @classmethod
    def weights(cls) -> list[Weights]:
        found = [
            packaged("technical_quality", cls.name, "brisque", "brisque", f"models/{file}")
            for file in ("svm.txt", "normalize.pickle")
        ]
        return found

    def __init__(self) -> None:
        machine, constants = (require(weights) for weights in self.weights())
        from brisque import BRISQUE
        from libsvm import svmutil

        self._model = BRISQUE.__new__(BRISQUE)  # its constructor unpickles
        self._model.url = False
        self._model.model = svmutil.svm_load_model(str(machine))
        self._model.scale_params = read_constants(constants)

    def scores(self, images: Sequence[Image]) -> np.ndarray:
        """[N] float32, LOWER is better."""
        return np.array([self._score(image) for image in images], dtype=np.float32)

    def _score(self, image: Image) -> float:
        from skimage.color import rgb2gray

        # As BRISQUE.score, without the full-size coefficients that it computes and discards.
        grey = rgb2gray(image)
        half = cv2.resize(grey, None, fx=1 / 2, fy=1 / 2, interpolation=cv2.INTER_CUBIC)
        with np.errstate(all="ignore"):
            features = np.concatenate([self._model.calculate_brisque_features(scale) for scale in (grey, half)])
        values = np.array([float(np.asarray(feature).item()) for feature in features])
        if not np.isfinite(values).all():
            raise ValueError("the picture is flat: BRISQUE has no statistics to go by")
        return float(self._model.calculate_image_quality_score(values))


def read_constants(path: Path) -> dict[str, list[float]]:
    """The two lists of 36 numbers in a pickle, `min_` and `max_`, read without executing it.

    Raises ValueError for any other content.
    """
    lists: dict[str, list[float]] = {}
    with open(path, "rb") as stream:
        for opcode, value, _ in pickletools.genops(stream):
            if opcode.name == "SHORT_BINUNICODE":
                current = lists.setdefault(value, [])
            elif opcode.name == "BINFLOAT" and lists:
                current.append(value)
    if lists.keys() != {"min_", "max_"} or any(len(values) != 36 for values in lists.values()):
        raise ValueError(f"{path}: not the 36 minima and maxima of BRISQUE's features; reinstall the package brisque")
    return lists
