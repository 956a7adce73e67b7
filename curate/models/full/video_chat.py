"""Any chat model of transformers with image input (LLaVA-OneVision, Qwen2.5-VL, SmolVLM ...), given a clip's frames.

The frames are passed as images, or as one video if the model has a video input, followed by one question, through the
model's own chat template and processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from curate.models import ClipView, Image, hub
from curate.models.adapter import Adapter, HubOptions, Precision
from curate.models.full.loading import batches, placement, pretrained
from curate.models.roles import VIDEO_CAPTION
from curate.weights import Weights

MODEL = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
PROMPT = (
    "These are evenly spaced frames of one short video clip, in order. "
    "Say in one sentence what happens in the clip: who or what is seen, what moves and how, and where."
)


class VideoChatOptions(HubOptions):
    kind: Literal["video_chat"] = "video_chat"
    model: str = MODEL
    frames: int = Field(8, ge=1)
    prompt: str | None = None
    show: Literal["images", "video"] = "images"
    dtype: Precision = "bfloat16"
    batch: int = Field(2, ge=1)
    max_tokens: int = Field(80, ge=1)


class VideoChatCaptioner(Adapter):
    """Captioner of `frames` evenly spaced frames, for any `AutoModelForImageTextToText` with a chat template.

    model: hub repository. folder: local copy, searched instead. show: "images" (the frames one after another) or
    "video" (one video of these frames, for models that have a video processor). max_tokens: new tokens at most; greedy.
    MissingWeights if the weights are not on this machine; ValueError if the model has no chat template.
    """

    roles = (VIDEO_CAPTION,)
    Options = VideoChatOptions
    gpu = True
    memory = 2.0e9
    gpu_passes, gpu_flops = 60, 12e12  # eight pictures, an answer of 60 tokens
    sizes = {MODEL: 2.25e9}  # noqa: RUF012

    def __init__(
        self,
        *,
        model: str = MODEL,
        folder: str | None = None,
        frames: int = 8,
        prompt: str = PROMPT,
        show: str = "images",
        device: str = "auto",
        dtype: str = "bfloat16",
        batch: int = 2,
        max_tokens: int = 80,
        allow_download: bool = False,
    ) -> None:
        import transformers

        if show not in ("images", "video"):
            raise ValueError(f"caption_video: show must be images or video (got {show!r})")
        if min(frames, max_tokens) < 1:
            raise ValueError(f"caption_video: frames and max_tokens must be >= 1 (got {frames}, {max_tokens})")
        [found] = self.weights(model=model, folder=folder, allow_download=allow_download)
        path = hub.obtain(found, repo=model, allow_download=allow_download)
        self.device, self.dtype = placement(device, dtype)
        self.frames, self.prompt, self.show = frames, prompt, show
        self.batch, self.max_tokens = batch, max_tokens
        self.processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True)
        if getattr(self.processor, "chat_template", None) is None:
            raise ValueError(f"caption_video: {folder or model} has no chat template; use an instruct model")
        self.processor.tokenizer.padding_side = "left"  # new tokens must follow the prompt directly
        self.model = pretrained(transformers.AutoModelForImageTextToText, path, device=self.device, dtype=self.dtype)
        self.name = (
            f"{hub.label(model, folder)} ({frames} frames as {show}, greedy, transformers {transformers.__version__})"
        )

    @classmethod
    def weights(
        cls, *, model: str = MODEL, folder: str | None = None, allow_download: bool = False, **_: object
    ) -> list[Weights]:
        return [hub.weights_of_folder(role="caption_video", model=model, folder=folder, allow_download=allow_download)]

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip; None for a clip without frames or an empty answer."""
        out: list[str | None] = [None] * len(clips)
        shown = [i for i, clip in enumerate(clips) if len(clip.frames)]
        for part in batches(shown, self.batch):
            for i, text in zip(part, self._describe([clips[i].frames for i in part]), strict=True):
                out[i] = " ".join(text.split()) or None
        return out

    def conversation(self, frames: Sequence[Image]) -> list[dict[str, Any]]:
        """The one-turn chat about a clip, in transformers' message format."""
        import PIL.Image

        if self.show == "video":
            seen = [{"type": "video", "video": np.stack(frames)}]
        else:
            seen = [{"type": "image", "image": PIL.Image.fromarray(frame)} for frame in frames]
        return [{"role": "user", "content": [*seen, {"type": "text", "text": self.prompt}]}]

    def _describe(self, videos: Sequence[Sequence[Image]]) -> list[str]:
        import torch

        inputs = self.processor.apply_chat_template(
            [self.conversation(frames) for frames in videos],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device, self.dtype)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        return self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
