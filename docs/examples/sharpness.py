"""A score of one's own: how sharp a clip's middle still is."""

import cv2

from curate.plugin import Column, Stage, stills, types


class Sharpness(Stage):
    name = "sharpness"
    needs = ("stills",)
    columns = (
        Column(
            "sharpness",
            types.float32(),
            formula="variance of the Laplacian of the middle still's luma",
            range="0.., higher is sharper",
            source="Pech-Pacheco et al. 2000",
        ),
    )

    def process(self, clips):
        for clip in clips:
            pictures = stills(clip)
            luma = cv2.cvtColor(pictures[len(pictures) // 2], cv2.COLOR_RGB2GRAY)
            clip.values["sharpness"] = float(cv2.Laplacian(luma, cv2.CV_64F).var())


PARTS = [Sharpness]
