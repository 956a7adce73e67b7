"""VideoBLIP (V-BLIP; Yu et al. 2023, github.com/yukw777/VideoBLIP): BLIP-2 that sees several frames at once.

The frozen image encoder runs on each frame by itself; the tokens of all frames are laid end to end, and the Q-Former's
queries attend to all of them; the language model continues from these queries and the prompt. Nothing is added to
BLIP-2's weights, so that its own checkpoints (one frame or several) work too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.models import ClipView, Image, hub
from curate.models.adapter import Adapter, HubOptions, Precision
from curate.models.full.loading import batches, placement, pretrained
from curate.models.roles import VIDEO_CAPTION
from curate.weights import Weights

if TYPE_CHECKING:
    import torch

MODEL = "kpyu/video-blip-opt-2.7b-ego4d"
PROMPT = "Question: Can you give a detailed description of what is happening in this video? Answer:"


class VideoBlipOptions(HubOptions):
    kind: Literal["videoblip"] = "videoblip"
    model: str = MODEL
    frames: int = Field(8, ge=1)
    prompt: str | None = None
    dtype: Precision = "float32"
    batch: int = Field(4, ge=1)


class VideoBlipCaptioner(Adapter):
    """Captioner of `frames` evenly spaced frames, for checkpoints of the BLIP-2 family.

    model: hub repository (VideoBLIP, or a plain BLIP-2). folder: local copy, searched instead. prompt: what the
    language model continues; "" for none. max_tokens: new tokens at most. beams: beam search width, 1 is greedy; never
    sampled.
    MissingWeights if the weights are not on this machine; ValueError if they are of another family.
    """

    roles = (VIDEO_CAPTION,)
    Options = VideoBlipOptions
    gpu = True
    memory = 2.0e9
    gpu_passes, gpu_flops = 30, 6e12  # eight frames through ViT-g, four beams of 30 tokens
    sizes = {MODEL: 3.74e9}  # noqa: RUF012 - its name counts the language model only

    def __init__(
        self,
        *,
        model: str = MODEL,
        folder: str | None = None,
        frames: int = 8,
        prompt: str = PROMPT,
        device: str = "auto",
        dtype: str = "float32",
        batch: int = 4,
        max_tokens: int = 48,
        beams: int = 4,
        allow_download: bool = False,
    ) -> None:
        import transformers

        if min(frames, max_tokens, beams) < 1:
            raise ValueError(f"VideoBLIP: frames, max_tokens, beams must be >= 1 (got {frames}, {max_tokens}, {beams})")
        [found] = self.weights(model=model, folder=folder, allow_download=allow_download)
        path = hub.obtain(found, repo=model, allow_download=allow_download)
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        if config.model_type != "blip-2":
            raise ValueError(
                f"caption_video: {folder or model} is a {config.model_type} model, not of the BLIP-2 family; "
                "use the video_chat captioner for chat models"
            )
        self.device, self.dtype = placement(device, dtype)
        self.frames, self.batch, self.beams, self.max_tokens = frames, batch, beams, max_tokens
        self.model = pretrained(transformers.Blip2ForConditionalGeneration, path, device=self.device, dtype=self.dtype)
        self.image_processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        ids = self.tokenizer(prompt).input_ids if prompt else []
        if not ids:  # the language model needs one token to start from
            ids = [config.text_config.bos_token_id]
        self.prompt_ids = ids
        version = transformers.__version__
        self.name = f"VideoBLIP {hub.label(model, folder)} ({frames} frames, {beams} beams, transformers {version})"

    @classmethod
    def weights(
        cls, *, model: str = MODEL, folder: str | None = None, allow_download: bool = False, **_: object
    ) -> list[Weights]:
        return [hub.weights_of_folder(role="caption_video", model=model, folder=folder, allow_download=allow_download)]

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip; None for a clip without frames or an empty answer."""
        out: list[str | None] = [None] * len(clips)
        by_count: dict[int, list[int]] = {}  # short clips have fewer frames; a batch is of one number of frames
        for i, clip in enumerate(clips):
            if len(clip.frames):
                by_count.setdefault(len(clip.frames), []).append(i)
        for rows in by_count.values():
            for part in batches(rows, self.batch):
                for i, text in zip(part, self._describe([clips[i].frames for i in part]), strict=True):
                    out[i] = " ".join(text.split()) or None
        return out

    def _describe(self, videos: Sequence[Sequence[Image]]) -> list[str]:
        import torch

        flat = [frame for video in videos for frame in video]
        pixels = self.image_processor(images=flat, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        with torch.inference_mode():
            queries = video_queries(self.model, pixels.unflatten(0, (len(videos), -1)))
            ids = torch.tensor([self.prompt_ids] * len(videos), device=self.device)
            words = self.model.get_input_embeddings()(ids)
            context = torch.cat([queries.to(words.dtype), words], dim=1)
            tokens = self.model.language_model.generate(
                inputs_embeds=context,
                attention_mask=torch.ones(context.shape[:2], dtype=torch.long, device=self.device),
                max_new_tokens=self.max_tokens,
                num_beams=self.beams,
                do_sample=False,
            )
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def video_queries(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """pixels [B, T, 3, H, W] to what the language model reads, [B, queries, width]; with T = 1 it is BLIP-2 itself."""
    import torch

    count = pixels.shape[:2]
    tokens = model.vision_model(pixel_values=pixels.flatten(0, 1)).last_hidden_state  # [B*T, L, D]
    tokens = tokens.unflatten(0, count).flatten(1, 2)  # [B, T*L, D]
    queries = model.qformer(
        query_embeds=model.query_tokens.expand(count[0], -1, -1),
        encoder_hidden_states=tokens,
        encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device),
    ).last_hidden_state
    return model.language_projection(queries.to(tokens.dtype))  # the Q-Former may be kept in float32
