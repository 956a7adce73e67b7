"""How well captions fit videos, offline: a picture classifier and a sentence encoder in one space (ConSE)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from curate.base.files import DiskError, cache_folder, write_atomic
from video_model.encoders.minilm import MiniLMStates
from video_model.evaluation.features import ImageClassifier, checked, resized

TOP, SIDE, STILLS = 10, 260, 3  # classes mixed; px; frames looked at: first, middle, last


class CaptionSimilarity:
    """Cosine of captions with videos, in [-1, 1] (Norouzi et al. 2013, arXiv 1312.5650; centring is ours).

    A picture is the mixture of the sentence embeddings of its ten most probable ImageNet classes, less the mean class
    embedding; a caption is its MiniLM embedding, less the mean embedding of "A video of a {class}.". A video is the mean
    of three pictures of unit length. It knows a thousand things, no people, no actions, no shapes: a number
    means something beside that of real videos with their captions, and with those of others. A measure of CLIP is another one.
    """

    name = "ConSE (EfficientNet-Lite2, all-MiniLM-L6-v2)"

    def __init__(self, classifier: ImageClassifier | None = None, encoder: MiniLMStates | None = None) -> None:
        self.classifier, self.encoder = classifier or ImageClassifier(), encoder or MiniLMStates()

    def cosines(self, videos: Tensor, captions: Sequence[str]) -> Tensor:
        """[N, M]: each of N videos [N, T, 3, H, W] in [-1, 1] with each of M captions."""
        return self.videos(videos) @ self.captions(captions).T

    @torch.inference_mode()
    def videos(self, videos: Tensor) -> Tensor:
        """[N, 384], rows of unit length."""
        names, centre = self._classes[0], self._classes[0].mean(0)
        rows = []
        for video in checked(videos, 1):
            chosen = torch.linspace(0, len(video) - 1, STILLS).round().long().unique()
            best, which = self.classifier.posteriors(resized(video[chosen], SIDE)).topk(TOP, dim=1)
            weight = best / best.sum(1, keepdim=True)
            pictures = (weight[..., None] * names[which]).sum(1) - centre
            rows.append(F.normalize(F.normalize(pictures, dim=1).mean(0), dim=0))
        return torch.stack(rows)

    @torch.inference_mode()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """[M, 384], rows of unit length."""
        return F.normalize(self._sentences(captions) - self._classes[1], dim=1)

    def _sentences(self, texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # equals together: little padding
        states, mask = self.encoder.encode([texts[at] for at in order])
        rows = F.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=1)
        return rows[torch.tensor(order).argsort()]

    @cached_property
    def _classes(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the class names [1000, 384], and the mean embedding of a sentence about each [384].

        Some ten CPU seconds, so they are kept in the user's cache folder; without it they are computed again.
        """
        names = self.classifier.classes
        prompts = [f"A video of a {name}." for name in names]
        key = hashlib.sha256("\n".join([self.encoder.fingerprint, *names, *prompts]).encode()).hexdigest()[:16]
        kept = cache_folder() / f"class-names-{key}.safetensors"
        with contextlib.suppress(OSError, SafetensorError, KeyError):
            found = load_file(kept)
            return found["classes"], found["centre"]
        with torch.inference_mode():
            rows, centre = self._sentences(names), self._sentences(prompts).mean(0)
        with contextlib.suppress(OSError, DiskError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, save({"classes": rows.contiguous(), "centre": centre.contiguous()}), durable=False)
        return rows, centre
