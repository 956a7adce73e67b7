"""Text towers of open_clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from curate.base.packaged import WeightsMissing, load_exactly
from video_model.encoders.fingerprint import digest
from video_model.encoders.protocol import EncoderSection, FrozenEncoder, TextEncoder, TextOutline, batched
from video_model.published import TEXT_2


class OpenClipText(EncoderSection):
    """Token states of an open_clip text tower: ViT-H-14 is that of Stable Diffusion 2.1."""

    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-H-14"
    file: str = Field(description="safetensors of the weights")

    def make(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEncoder:
        return OpenClipStates(self.file, self.model, device=device, dtype=dtype)

    def outline(self) -> TextOutline:
        import open_clip

        config = open_clip.get_model_config(self.model)
        if config is None or "width" not in config["text_cfg"]:
            raise WeightsMissing(self.model, "is not a model of open_clip with a text tower of its own", "name another")
        text = config["text_cfg"]
        width, tokens = text["width"], text["context_length"]
        return TextOutline(width, tokens, width * (text["vocab_size"] + tokens + 12 * width * text["layers"]))


class OpenClipStates(FrozenEncoder):
    """Token states of an open_clip text tower (Cherti et al. 2023), as Stable Diffusion 2 uses it: [N, 77, D].

    path: a folder in the hub's format (open_clip_config.json, open_clip_model.safetensors), or a safetensors file; then
    `model` names its architecture, e.g. "ViT-H-14" (D = 1024). layer: "penultimate" (without the last block) or "last";
    the final norm is applied in both. mask_padding: False as in the public networks, which attend to padding as well;
    True hides what comes after the end-of-text mark.
    """

    at_once = 32

    def __init__(
        self,
        path: Path | str,
        model: str = "ViT-H-14",
        layer: str = "penultimate",
        mask_padding: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(device, dtype)
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

    def _read(self) -> tuple[Any, nn.Module]:
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
        for prefix in ("text.", TEXT_2):  # of a custom text tower; of an original single file of Stable Diffusion 2.x
            if any(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        load_exactly(tower, state, self.name, weights)
        return open_clip.SimpleTokenizer(context_length=tower.context_length), tower

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
