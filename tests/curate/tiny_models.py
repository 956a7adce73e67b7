"""Tiny models with random weights, saved as the libraries save theirs, and an empty hub cache to look for them in."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

SPECIAL = ["<pad>", "</s>", "<unk>", "<image>", "<video>", "<s>"]
WORDS = [
    *("a", "the", "dog", "cat", "man", "runs", "walks", "on", "at", "beach", "street", "red", "blue", "ball", "throws"),
    *("two", "people", "and", "rain", "night", ".", ",", "video", "of", "question", "what", "answer", "is", "can"),
    *("happening", "this", "in", "you", "give", "detailed", "description"),
]
VOCABULARY = SPECIAL + WORDS

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}


def save_open_clip(folder: Path, config: dict, model: torch.nn.Module) -> Path:
    """A folder as open_clip publishes them."""
    folder.mkdir(exist_ok=True)
    settings = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


TINY_COCA = {
    "embed_dim": 16,
    "vision_cfg": {
        **TINY_CLIP["vision_cfg"],
        **{"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True},
    },
    "text_cfg": {**TINY_CLIP["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {
        **{"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, "attn_pooler_heads": 2}
    },
    "custom_text": True,
}

PAIRS = [
    ("a dog on the beach", "the dog runs at the beach and throws a red ball"),
    ("two people", "a man walks in the rain at night"),
    ("a cat", "the cat runs , the dog runs , the man runs on the street"),
]


def isolate(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """An empty hub cache and the offline switch on, for the library (read at import) and for us (read when asked)."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TRANSFORMERS_OFFLINE", "1")
    patch.setenv("XDG_CACHE_HOME", str(cache / "xdg"))


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of the size that lets signals through, so that different inputs give different outputs."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                scale = 1.5 / max(1, weight[0].numel()) ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=random) * scale)
    return model.eval()


def pictures(count: int, seed: int = 0, height: int = 40, width: int = 60) -> list[np.ndarray]:
    """Noise of random colour and contrast, [h, w, 3] uint8."""
    random = np.random.default_rng(seed)
    base, noise = random.integers(0, 256, (count, 1, 1, 3)), random.integers(0, 256, (count, height, width, 3))
    weight = random.random((count, 1, 1, 1))
    return list((base * weight + noise * (1 - weight)).astype(np.uint8))


def word_tokenizer(**special: str) -> transformers.PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 5)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"},
    )


def into_cache(cache: Path, repo: str, name: str, source: Path) -> None:
    """Puts a file where the hub's cache would have it."""
    root = cache / ("models--" + repo.replace("/", "--"))
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("0123abcd")
    (root / "snapshots" / "0123abcd").mkdir(parents=True, exist_ok=True)
    (root / "snapshots" / "0123abcd" / name).write_bytes(source.read_bytes())


class PublishedMlp(torch.nn.Module):
    """The V2 head as its author published it."""

    def __init__(self) -> None:
        super().__init__()
        linear, dropout = torch.nn.Linear, torch.nn.Dropout
        self.layers = torch.nn.Sequential(
            *(linear(768, 1024), dropout(0.2), linear(1024, 128), dropout(0.2)),
            *(linear(128, 64), dropout(0.1), linear(64, 16), linear(16, 1)),
        )


def save_llama(folder: Path, template: str | None = None) -> Path:
    """A causal language model and its tokenizer, with a chat template or without."""
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=5,
    )
    shake(transformers.LlamaForCausalLM(config), seed=4).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
