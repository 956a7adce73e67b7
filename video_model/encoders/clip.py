"""CLIP text encoders as public pipelines hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from curate.base.packaged import WeightsMissing, load_exactly
from video_model.encoders.fingerprint import digest
from video_model.encoders.original_clip import text_of_file
from video_model.encoders.protocol import EncoderSection, FrozenEncoder, TextEncoder, batched
from video_model.errors import first_line
from video_model.published import NotPublished, part_folder, tensors_of, weight_files

FIX = "give a pipeline's folder with text_encoder/ and tokenizer/, as it is published"


class ClipText(EncoderSection):
    """Token states of a public pipeline's text encoder: Stable Diffusion 1.x (D = 768) and 2.x (D = 1024) as published."""

    kind: Literal["clip"] = "clip"
    folder: str | None = Field(None, description="of a pipeline: text_encoder/ and tokenizer/ are read")
    file: str | None = Field(
        None,
        description="instead: an original single file (.safetensors) of Stable Diffusion 1.x or 2.x; needs open_clip",
    )

    @model_validator(mode="after")
    def _one(self) -> ClipText:
        if (self.folder is None) == (self.file is None):
            raise ValueError("text: name a folder or a file, one of the two")
        return self

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        return ClipStates(self.folder or self.file or "", device, dtype)


class Tokens(NamedTuple):
    """How texts become tokens [N, L]; and all that these depend on, as a text."""

    tokenize: Callable[[list[str]], Tensor]
    vocabulary: str


class ClipStates(FrozenEncoder):
    """Last hidden states, after the final norm, of a CLIPTextModel (Radford et al. 2021): [N, 77, D].

    path: a pipeline's folder (or its text_encoder/, with tokenizer/ beside it), or an original single file, whose tokens are
    open_clip's. Padding is attended to and kept, as public networks were trained with it. Equal to transformers' model on the
    same tokens. Raises WeightsMissing.
    """

    at_once = 32

    def __init__(self, path: Path | str, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(device, dtype)
        self.path = Path(path)
        self.name = f"CLIP text encoder in {self.path.name}"

    @property
    def dim(self) -> int:
        return int(self._loaded[1].config.hidden_size)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens, model = self._loaded
        return batched(texts, self.at_once, lambda part: self._states(tokens, model, part), self.dim)

    @torch.inference_mode()
    def _states(self, tokens: Tokens, model: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokens.tokenize(texts).to(next(model.parameters()).device)
        return model(input_ids=ids).last_hidden_state, torch.ones(ids.shape, dtype=torch.bool, device=ids.device)

    @cached_property
    def fingerprint(self) -> str:
        tokens, model = self._loaded
        return digest(model.state_dict(), "CLIP text", str(model.config.hidden_act), tokens.vocabulary)

    def _read(self) -> tuple[Tokens, Any]:
        try:
            if self.path.is_file():
                model, end = text_of_file(self.path)
                return Tokens(_open_clip_tokens(model.config.max_position_embeddings, end), f"open_clip {end}"), model
            folder = part_folder(self.path, "text_encoder")
            model = _model(folder)
        except NotPublished as error:
            raise WeightsMissing("CLIP text encoder", str(error), FIX) from error
        tokenizer = _tokenizer(folder, self.path)
        longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)

        def tokenize(texts: list[str]) -> Tensor:
            options = {"padding": "max_length", "max_length": longest, "truncation": True, "return_tensors": "pt"}
            return tokenizer(texts, **options)["input_ids"]

        vocabulary = json.dumps([longest, tokenizer.pad_token_id, sorted(tokenizer.get_vocab().items())])
        return Tokens(tokenize, vocabulary), model


def _model(folder: Path) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        facts = json.loads((folder / "config.json").read_text())
        config = CLIPTextConfig(**facts)
        model = CLIPTextModel(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsMissing("CLIP text encoder", f"{folder / 'config.json'}: {first_line(error)}", FIX) from error
    if "CLIP" not in "".join(facts.get("architectures") or ["CLIP"]):
        raise WeightsMissing("CLIP text encoder", f"{folder} holds a {facts['architectures'][0]}", FIX)
    tensors = tensors_of(weight_files(folder, "model"))
    bare = {
        name.removeprefix("text_model."): tensor for name, tensor in tensors.items()
    }  # libraries differ in the prefix
    state = {
        name: bare[name.removeprefix("text_model.")]
        for name in model.state_dict()
        if name.removeprefix("text_model.") in bare
    }
    load_exactly(model, state, "CLIP text encoder", folder)
    return model.float()


def _tokenizer(folder: Path, root: Path) -> Any:
    from transformers import CLIPTokenizer

    places = [
        place for place in (root / "tokenizer", folder.parent / "tokenizer", folder) if (place / "vocab.json").is_file()
    ]
    places += [
        place for place in (root / "tokenizer", folder.parent / "tokenizer") if (place / "tokenizer.json").is_file()
    ]
    if not places:
        raise WeightsMissing("CLIP text encoder", f"{root} has no tokenizer/ with vocab.json and merges.txt", FIX)
    try:
        return CLIPTokenizer.from_pretrained(places[0], local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsMissing("CLIP text encoder", f"{places[0]} cannot be read ({first_line(error)})", FIX) from error


def _open_clip_tokens(longest: int, pad_with_end: bool) -> Callable[[list[str]], Tensor]:
    """CLIP's own vocabulary, out of the package open_clip."""
    try:
        import open_clip
    except ImportError as error:
        fix = "install open_clip_torch, or give a pipeline's folder, which has its tokenizer"
        raise WeightsMissing(
            "CLIP text encoder", f"a single file has no tokenizer ({first_line(error)})", fix
        ) from error
    tokenizer = open_clip.SimpleTokenizer(context_length=longest)

    def tokenize(texts: list[str]) -> Tensor:
        ids = tokenizer(texts)
        if pad_with_end:
            after = torch.arange(ids.shape[1]) > ids.argmax(1, keepdim=True)  # the end mark has the highest number
            ids = ids.masked_fill(after, tokenizer.eot_token_id)
        return ids

    return tokenize
