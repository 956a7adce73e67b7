"""The merged caption: an instruct language model merges the frame caption and the video caption into one sentence.

Blattmann et al. 2023 (section 3) have an LLM summarise the two captions of each clip; their prompt is not published,
so this one is ours. The model runs locally through transformers, or behind an endpoint (see `endpoint`), with the same
prompt and the same parsing of answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from curate.models import hub
from curate.models.adapter import Adapter, HubOptions, Precision
from curate.models.full.loading import batches, placement, pretrained
from curate.models.roles import MERGE
from curate.weights import Weights

MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
INSTRUCTION = (
    "Two models described the same short video clip: one saw a single frame, the other the whole clip. "
    "Merge their captions into one sentence in plain English. Keep what either of them states, say it once, "
    "and add nothing of your own. Where they contradict each other, keep what the video caption says. "
    "Answer with the sentence only."
)
QUOTES = "\"'`“”‘’"
Pair = tuple[str | None, str | None]


def request(frame: str, video: str) -> str:
    """The prompt for one pair."""
    return f"{INSTRUCTION}\n\nFrame caption: {frame}\nVideo caption: {video}\nMerged caption:"


def read_answer(answer: str, frame: str, video: str) -> str:
    """The sentence in a model's answer: its first line that has words, without quotes or an echoed label.

    For an empty answer the longer caption is returned.
    """
    for line in answer.splitlines():
        text = line.strip()
        if text.lower().startswith("merged caption:"):
            text = text[len("merged caption:") :].strip()
        while len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES:
            text = text[1:-1].strip()
        if any(c.isalnum() for c in text):
            return " ".join(text.split())
    return max(frame, video, key=len)


def merge_pairs(pairs: Sequence[Pair], ask: Callable[[list[tuple[str, str]]], list[str]]) -> list[str | None]:
    """One caption a pair. Only complete pairs go to the model; otherwise the caption that exists is returned."""
    full = [i for i, (frame, video) in enumerate(pairs) if frame and video]
    answers = ask([pairs[i] for i in full]) if full else []  # type: ignore[misc]
    merged: list[str | None] = [frame or video or None for frame, video in pairs]
    for i, answer in zip(full, answers, strict=True):
        merged[i] = read_answer(answer, *pairs[i])  # type: ignore[arg-type]
    return merged


class TransformersOptions(HubOptions):
    kind: Literal["transformers"] = "transformers"
    model: str = "mistralai/Mistral-7B-Instruct-v0.2"
    max_tokens: int = Field(96, ge=1)
    dtype: Precision = "float32"
    batch: int = Field(8, ge=1)


class TransformersMerger(Adapter):
    """Merger: any causal language model of transformers, on this machine, greedy.

    model: hub repository. folder: local copy, searched instead. The tokenizer's chat template is used if there is one,
    else the request as plain text. max_tokens: new tokens at most. batch: pairs at a time, padded on the left.
    MissingWeights if the weights are not on this machine.
    """

    roles = (MERGE,)
    Options = TransformersOptions
    gpu = True
    memory = 2.0e9
    gpu_passes, gpu_flops = 40, 3e12  # 200 tokens of prompt, an answer of 40
    sizes = {"mistralai/Mistral-7B-Instruct-v0.2": 7.24e9, MODEL: 1.54e9}  # noqa: RUF012

    def __init__(
        self,
        *,
        model: str = MODEL,
        folder: str | None = None,
        device: str = "auto",
        dtype: str = "bfloat16",
        batch: int = 8,
        max_tokens: int = 80,
        allow_download: bool = False,
    ) -> None:
        import transformers

        if max_tokens < 1:
            raise ValueError(f"caption_merged: max_tokens must be >= 1 (got {max_tokens})")
        [found] = self.weights(model=model, folder=folder, allow_download=allow_download)
        path = hub.obtain(found, repo=model, allow_download=allow_download)
        self.device, self.dtype = placement(device, dtype)
        self.batch, self.max_tokens = batch, max_tokens
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = pretrained(transformers.AutoModelForCausalLM, path, device=self.device, dtype=self.dtype)
        self.name = f"{hub.label(model, folder)} (greedy, transformers {transformers.__version__})"

    @classmethod
    def weights(
        cls, *, model: str = MODEL, folder: str | None = None, allow_download: bool = False, **_: object
    ) -> list[Weights]:
        return [hub.weights_of_folder(role="caption_merged", model=model, folder=folder, allow_download=allow_download)]

    def merge(self, pairs: Sequence[Pair]) -> list[str | None]:
        """One caption for each (frame caption, video caption); None only where both are missing."""
        return merge_pairs(pairs, self._answers)

    def prompt(self, frame: str, video: str) -> str:
        """The text that is tokenised: the request in the model's chat template, if it has one."""
        text = request(frame, video)
        if self.tokenizer.chat_template is None:
            return text
        chat = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    def _answers(self, pairs: list[tuple[str, str]]) -> list[str]:
        import torch

        answers = []
        for part in batches(pairs, self.batch):
            # A chat template includes the special tokens; the tokenizer must not add them again.
            inputs = self.tokenizer(
                [self.prompt(*pair) for pair in part],
                return_tensors="pt",
                padding=True,
                add_special_tokens=self.tokenizer.chat_template is None,
                return_token_type_ids=False,
            ).to(self.device)
            with torch.inference_mode():
                tokens = self.model.generate(
                    **inputs,
                    max_new_tokens=self.max_tokens,
                    do_sample=False,
                    num_beams=1,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            new = tokens[:, inputs["input_ids"].shape[1] :]
            answers += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return answers
