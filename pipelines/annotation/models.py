"""Which adapter a model section of the config means, and the shelf from which the stages of one worker take them."""

from __future__ import annotations

from typing import Any

from pipelines import config as c


def adapter(section: Any, config: c.Config) -> tuple[type, dict[str, Any]]:
    """(class, keyword arguments) of the model that a section names. Nothing is loaded, only its module imported."""
    plain = section.model_dump(exclude={"kind"}, exclude_none=True)
    threads = {"threads": config.execution.threads}
    match section:
        case c.Shots():
            from curate.models.transnet import TransNet

            return TransNet, {}
        case c.EasyOcr():
            from curate.models.textboxes import Craft

            return Craft, plain
        case c.RapidOcr():
            from curate.models.textboxes import RapidOcr

            return RapidOcr, plain | threads
        case c.Conse():
            from curate.models.embedded.conse import ConSE

            return ConSE, {}
        case c.OpenClip():
            from curate.models.full.clip import OpenClipEmbedder

            return OpenClipEmbedder, plain
        case c.Laion():
            from curate.models.full.aesthetic import LaionAesthetic

            return LaionAesthetic, plain
        case c.Brisque():
            from curate.models.quality import Brisque

            return Brisque, {}
        case c.OpenNsfw():
            from curate.models.safety import OpenNsfw

            return OpenNsfw, threads
        case c.Tags():
            from curate.models.embedded.tags import ConceptTags

            return ConceptTags, {}
        case c.Coca():
            from curate.models.full.coca import CoCaCaptioner

            return CoCaCaptioner, plain
        case c.Facts():
            from curate.models.embedded.facts import MeasuredFacts

            return MeasuredFacts, {}
        case c.VideoBlip():
            from curate.models.full.video_blip import VideoBlipCaptioner

            return VideoBlipCaptioner, plain
        case c.VideoChat():
            from curate.models.full.video_chat import VideoChatCaptioner

            return VideoChatCaptioner, plain
        case c.SmolLm():
            from curate.models.embedded.smollm import SmolMerger

            return SmolMerger, plain | threads
        case c.TransformersLm():
            from curate.models.full.merge import TransformersMerger

            return TransformersMerger, plain
        case c.Endpoint():
            from curate.models.full.endpoint import EndpointMerger

            return EndpointMerger, plain
    raise TypeError(f"no adapter for {type(section).__name__}")


class Shelf:
    """The models of one worker, each loaded once, when the first stage that needs it is built."""

    def __init__(self, config: c.Config) -> None:
        self.config = config
        self._loaded: dict[str, Any] = {}
        self._parts: dict[str, Any] = {}

    def get(self, section: Any) -> Any:
        """The model of a section; None for None."""
        if section is None:
            return None
        key = section.model_dump_json()
        if key not in self._loaded:
            kind, arguments = adapter(section, self.config)
            self._loaded[key] = kind(**arguments, **self._shared(section))
        return self._loaded[key]

    def _shared(self, section: Any) -> dict[str, Any]:
        """The networks that several adapters of the embedded pack are made around, each once."""
        names = {c.Conse: ("imagenet", "sentences"), c.Tags: ("imagenet",), c.SmolLm: ("sentences",)}
        return {name: self._part(name) for name in names.get(type(section), ())}

    def _part(self, name: str) -> Any:
        if name not in self._parts:
            from curate.models.embedded.imagenet import ImageNet
            from curate.models.embedded.minilm import MiniLM

            self._parts[name] = ImageNet() if name == "imagenet" else MiniLM()
        return self._parts[name]
