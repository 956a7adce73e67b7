"""T5 encoders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from curate.base.packaged import WeightsMissing
from video_model.encoders.fingerprint import digest
from video_model.encoders.protocol import EncoderSection, FrozenEncoder, TextEncoder, TextOutline, batched
from video_model.errors import first_line


class T5(EncoderSection):
    """Token states of a T5 encoder."""

    kind: Literal["t5"] = "t5"
    folder: str = Field(description="a T5 encoder in transformers' layout")

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        return T5States(self.folder, device=device, dtype=dtype)

    def outline(self) -> TextOutline:
        path = Path(self.folder) / "config.json"
        if not path.is_file():
            raise WeightsMissing("T5 encoder", f"no config.json in {path.parent}", "give a folder of a T5 model")
        shape = json.loads(path.read_text())
        dim, gates = shape["d_model"], 3 if "gated" in str(shape.get("feed_forward_proj")) else 2
        attention = 4 * dim * shape["num_heads"] * shape["d_kv"]
        layers = shape["num_layers"] * (attention + gates * dim * shape["d_ff"])
        return TextOutline(dim, 128, layers + shape["vocab_size"] * dim)


class T5States(FrozenEncoder):
    """Last hidden states of a T5 encoder (Raffel et al. 2020) from a local folder in transformers' format.

    Texts beyond `longest` tokens are cut.
    """

    at_once = 16

    def __init__(
        self,
        path: Path | str,
        longest: int = 128,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(device, dtype)
        self.path, self.longest = Path(path), longest
        self.name = f"T5 encoder in {self.path.name}"

    @property
    def dim(self) -> int:
        return int(self._loaded[1].config.d_model)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokenizer, model = self._loaded
        return batched(texts, self.at_once, lambda part: self._states(tokenizer, model, part), self.dim)

    @torch.inference_mode()
    def _states(self, tokenizer: Any, model: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        rows = rows.to(next(model.parameters()).device)
        ids, mask = rows["input_ids"], rows["attention_mask"]
        return model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()

    @cached_property
    def fingerprint(self) -> str:
        tokenizer, model = self._loaded
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        return digest(model.state_dict(), "T5", vocabulary, str(self.longest))

    def _lowered(self, network: nn.Module) -> nn.Module:
        network = super()._lowered(network)
        if self.dtype == torch.float16:  # whose range the last projection of its feed-forward layers leaves
            for name, module in network.named_modules():
                if name.endswith(".wo"):
                    module.float()
        return network

    def _read(self) -> tuple[Any, nn.Module]:
        from transformers import AutoTokenizer, T5EncoderModel

        fix = "give a folder with config.json, model.safetensors and tokenizer files of a T5 model"
        if not (self.path / "config.json").is_file():
            raise WeightsMissing("T5 encoder", f"no config.json in {self.path}", fix)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            model = T5EncoderModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsMissing("T5 encoder", f"{self.path} cannot be read ({first_line(error)})", fix) from error
        return tokenizer, model.float()
