"""A pack as an object: it makes each model at most once, when it is first asked for, so that stages can share them."""

from __future__ import annotations

from functools import cached_property

from curate.models import Weights
from curate.models.embedded.conse import ConSE
from curate.models.embedded.facts import MeasuredFacts
from curate.models.embedded.imagenet import ImageNet
from curate.models.embedded.minilm import MiniLM
from curate.models.embedded.smollm import SmolMerger
from curate.models.embedded.tags import ConceptTags


class EmbeddedPack:
    """The embedded pack's models for embedding and captions. confidence: of tags. threads: of llama.cpp.

    Nothing is loaded by the constructor; `weights()` says what the whole pack needs.
    """

    name = "embedded"

    def __init__(self, *, confidence: float | None = None, threads: int = 1) -> None:
        self._tags = {} if confidence is None else {"confidence": confidence}
        self._threads = threads

    @classmethod
    def weights(cls) -> list[Weights]:
        return [*ImageNet.weights(), *MiniLM.weights(), *SmolMerger.weights()[:1]]

    @cached_property
    def imagenet(self) -> ImageNet:
        return ImageNet()

    @cached_property
    def sentences(self) -> MiniLM:
        return MiniLM()

    @cached_property
    def embedder(self) -> ConSE:
        return ConSE(imagenet=self.imagenet, sentences=self.sentences)

    @cached_property
    def frame_captioner(self) -> ConceptTags:
        return ConceptTags(imagenet=self.imagenet, **self._tags)

    @cached_property
    def video_captioner(self) -> MeasuredFacts:
        return MeasuredFacts()

    @cached_property
    def merger(self) -> SmolMerger:
        return SmolMerger(sentences=self.sentences, threads=self._threads)
