"""Frame captions of the embedded pack: the class of the middle still, where the classifier is certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from curate.base.section import Section
from curate.models import ClipView
from curate.models.adapter import Adapter
from curate.models.embedded.imagenet import ImageNet
from curate.models.roles import FRAME_CAPTION
from curate.weights import Weights

# On the middle stills of 40 real clips: 10 tags at .3 with both views agreeing, 8 of them right; between .15 and .3
# about half are wrong, and the median confidence is .2. A tag reads as a fact, so uncertain ones are left out.
CONFIDENCE = 0.3


class TagOptions(Section):
    kind: Literal["tags"] = "tags"


class ConceptTags(Adapter):
    """Captions such as "A photo of a jeep.": the best ImageNet class of the middle still; None where it is uncertain.

    Certain: its probability (mean of the two views) is at least `confidence`, and both views name it. Its classes are
    objects, not people or actions.

    imagenet: the network that the embedder has; loaded here when not given.
    """

    roles = (FRAME_CAPTION,)
    cpu_seconds = 0.01
    Options = TagOptions
    shares = (("imagenet", ImageNet),)
    name = "concept tags (EfficientNet-Lite2)"
    frames = 0

    @classmethod
    def weights(cls, **_: object) -> list[Weights]:
        return ImageNet.weights()

    def __init__(self, *, imagenet: ImageNet | None = None, confidence: float = CONFIDENCE) -> None:
        if not 0.0 < confidence <= 1.0:
            raise ValueError(f"confidence must be in (0, 1] (got {confidence})")
        self._imagenet = imagenet or ImageNet()
        self._confidence = confidence

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One caption a clip from its middle still, or None."""
        if not clips:
            return []
        posteriors = self._imagenet.posteriors([clip.stills[len(clip.stills) // 2] for clip in clips])
        captions: list[str | None] = []
        for views in posteriors:  # [2, 1000]
            together = views.mean(0)
            best = int(together.argmax())
            sure = together[best] >= self._confidence and (views.argmax(-1) == best).all()
            captions.append(f"A photo of {with_article(self._imagenet.classes[best])}." if sure else None)
        return captions


def with_article(name: str) -> str:
    """A name with its article, "a jeep", "an ambulance"; by the first letter."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
