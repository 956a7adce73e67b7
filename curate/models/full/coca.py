"""CoCa (Yu et al. 2022) through open_clip: one sentence for the middle still, decoded greedily.

open_clip's own `CoCa.generate` needs `BeamSearchScorer`, which transformers 5 removed: it stops at an assertion there.
The decoder below is its `generation_type="top_k", top_k=1` (the most probable token at each step, so the same picture
always gives the same sentence), written over the model's forward pass, and equal to it token for token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from curate.models import ClipView, hub
from curate.models.adapter import Adapter, HubOptions, Precision
from curate.models.full.clip import load_open_clip, open_clip_weights, stack
from curate.models.full.loading import batches, placement
from curate.models.roles import FRAME_CAPTION
from curate.weights import Weights

if TYPE_CHECKING:
    import torch

START, END, PAD = 49406, 49407, 0  # of the CLIP vocabulary
MODEL, PRETRAINED = "coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k"


class CocaOptions(HubOptions):
    kind: Literal["coca"] = "coca"
    model: str = MODEL
    pretrained: str = PRETRAINED
    dtype: Precision = "float32"
    batch: int = Field(16, ge=1)


class CoCaCaptioner(Adapter):
    """Captioner of stills: the middle one of each clip (the first that exists where a clip has fewer than three).

    folder: local open_clip folder or checkpoint, searched instead of the hub. min_tokens, max_tokens: length of the
    token sequence, start and end counted (open_clip's defaults). MissingWeights if the weights are not on this machine;
    ValueError if the folder holds a model that cannot caption.
    """

    roles = (FRAME_CAPTION,)
    Options = CocaOptions
    gpu = True
    memory = 1.0e9
    gpu_passes, gpu_flops = 20, 1.2e12  # a sentence of 20 tokens, each a whole pass of the decoder
    sizes = {MODEL: 0.638e9}  # noqa: RUF012
    frames = 0

    def __init__(
        self,
        *,
        model: str = MODEL,
        pretrained: str = PRETRAINED,
        folder: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch: int = 16,
        min_tokens: int = 5,
        max_tokens: int = 30,
        allow_download: bool = False,
    ) -> None:
        import open_clip

        if not 1 < min_tokens < max_tokens:
            raise ValueError(f"CoCa: 1 < min_tokens < max_tokens must hold (got {min_tokens}, {max_tokens})")
        self.device, self.dtype = placement(device, dtype)
        self.batch, self.min_tokens, self.max_tokens = batch, min_tokens, max_tokens
        self.model, self.preprocess, self.tokenizer = load_open_clip(
            "caption_frame", model, pretrained, folder, self.device, dtype, allow_download
        )
        if not hasattr(self.model, "text_decoder"):
            raise ValueError(f"caption_frame: {folder or model} is not a CoCa model: it has no text decoder")
        if not isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            raise ValueError(
                f"caption_frame: {folder or model} does not use CLIP's own vocabulary, which this adapter decodes"
            )
        if max_tokens > self.model.context_length:
            raise ValueError(f"CoCa: max_tokens must be <= {self.model.context_length} for {model} (got {max_tokens})")
        self.name = f"CoCa {hub.label(f'{model} {pretrained}', folder)} (open_clip {open_clip.__version__}, greedy)"

    @classmethod
    def weights(
        cls,
        *,
        model: str = MODEL,
        pretrained: str = PRETRAINED,
        folder: str | None = None,
        allow_download: bool = False,
        **_: object,
    ) -> list[Weights]:
        return [open_clip_weights("caption_frame", model, pretrained, folder, allow_download)]

    def captions(self, clips: Sequence[ClipView]) -> list[str | None]:
        """One sentence a clip; None for a clip without stills or where the model ends at once."""
        shown = [(i, clip.stills[len(clip.stills) // 2]) for i, clip in enumerate(clips) if len(clip.stills)]
        out: list[str | None] = [None] * len(clips)
        for part in batches(shown, self.batch):
            pixels = stack([still for _, still in part], self.preprocess, self.device, self.dtype)
            tokens = greedy(self.model, pixels, self.min_tokens, self.max_tokens)
            for (i, _), row in zip(part, tokens, strict=True):
                out[i] = clean(self.tokenizer.decode(row.tolist()))
        return out


def greedy(model: torch.nn.Module, pixels: torch.Tensor, min_tokens: int, max_tokens: int) -> torch.Tensor:
    """[N, L] int64 token ids, L <= max_tokens, from START to END and PAD after it.

    No END before `min_tokens`, END forced as the last token. The pictures are encoded once; the text is run again at
    each step, as open_clip keeps no cache.
    """
    import torch

    with torch.inference_mode():
        latent, tokens = model._encode_image(pixels)
        out = torch.full((len(pixels), 1), START, dtype=torch.long, device=pixels.device)
        while out.shape[1] < max_tokens:
            done = (out[:, -1] == END) | (out[:, -1] == PAD)
            if done.all():
                break
            logits = model(pixels, out, image_latent=latent, image_embs=tokens, output_labels=False)["logits"][:, -1]
            if out.shape[1] < min_tokens:
                logits[:, END] = -torch.inf
            best = logits.argmax(-1)
            if out.shape[1] + 1 == max_tokens:
                best = torch.full_like(best, END)
            out = torch.cat([out, torch.where(done, PAD, best)[:, None]], dim=1)
        return out


def clean(text: str) -> str | None:
    """The sentence between the markers, spaces fixed: "a dog on a beach ." becomes "a dog on a beach."."""
    text = text.split("<end_of_text>")[0].replace("<start_of_text>", " ")
    text = re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.split()))
    return text or None
