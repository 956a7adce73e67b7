"""The paper's pack, number for number: each adapter against its reference library, on tiny random weights.

Nothing here is downloaded: the hub's cache is an empty folder and its offline switch is on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import open_clip.coca_model
import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from curate.models import ClipView
from curate.models.full.aesthetic import LaionAesthetic
from curate.models.full.clip import OpenClipEmbedder
from curate.models.full.coca import END, PAD, CoCaCaptioner, clean, greedy
from curate.models.full.merge import INSTRUCTION, TransformersMerger, read_answer, request
from tests.curate.tiny_models import (
    PAIRS,
    PREPROCESS,
    TINY_CLIP,
    TINY_COCA,
    PublishedMlp,
    into_cache,
    isolate,
    pictures,
    save_llama,
    save_open_clip,
    shake,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub")
    isolate(monkeypatch, cache)
    return cache


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("clip"), TINY_CLIP, shake(open_clip.CLIP(**TINY_CLIP)))


def test_clip_equals_open_clip(clip_folder):
    adapter = OpenClipEmbedder(folder=str(clip_folder), device="cpu", batch=2)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    images = [*pictures(3), *pictures(2, seed=1, height=90, width=33)]
    texts = ["a dog on the beach", "", "two people in the rain " * 40]
    with torch.no_grad():
        pixels = torch.stack([preprocess(PIL.Image.fromarray(image)) for image in images])
        expected = model.eval().encode_image(pixels)
        expected /= expected.norm(dim=-1, keepdim=True)
        expected_text = model.encode_text(tokenize(texts))
        expected_text /= expected_text.norm(dim=-1, keepdim=True)
    got, got_text = adapter.images(images), adapter.texts(texts)
    assert got.dtype == np.float32 and got.shape == (5, 16) and adapter.dim == 16
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(got_text, expected_text.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert adapter.images([]).shape == (0, 16) and adapter.texts([]).shape == (0, 16)


def test_clip_in_bfloat16_is_near_and_of_unit_length(clip_folder):
    exact = OpenClipEmbedder(folder=str(clip_folder), device="cpu").images(pictures(4))
    rough = OpenClipEmbedder(folder=str(clip_folder), device="cpu", dtype="bfloat16").images(pictures(4))
    assert rough.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-6)
    assert ((exact * rough).sum(1) > 0.99).all()


def test_a_bare_checkpoint_gets_its_tags_activation_and_preprocessing(clip_folder, monkeypatch, no_network):
    """OpenAI's weights need QuickGELU, which the architecture of the same name lacks; a path alone loses that."""
    tag = {**PREPROCESS, "quick_gelu": True, "hf_hub": "org/tiny/"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY_CLIP)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    file = clip_folder / "open_clip_model.safetensors"
    into_cache(no_network, "org/tiny", file.name, file)
    images = pictures(3)
    wanted = {}
    for quick in (True, False):
        model = open_clip.CLIP(**TINY_CLIP, quick_gelu=quick).eval()
        model.load_state_dict(load_file(file))
        transform = open_clip.image_transform(
            28, is_train=False, mean=PREPROCESS["mean"], std=PREPROCESS["std"], interpolation="bicubic"
        )
        with torch.no_grad():
            pixels = torch.stack([transform(PIL.Image.fromarray(image)) for image in images])
            wanted[quick] = model.encode_image(pixels, normalize=True).numpy()
    assert np.abs(wanted[True] - wanted[False]).max() > 1e-3
    for folder in (str(file), None):  # named, and found in the hub's cache
        adapter = OpenClipEmbedder(model="tiny", pretrained="openai", folder=folder, device="cpu")
        np.testing.assert_allclose(adapter.images(images), wanted[True], atol=1e-6)


# -- the aesthetic head


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_aesthetic_head_equals_the_published_one(kind, suffix, tmp_path):
    torch.manual_seed(3)
    reference = torch.nn.Linear(768, 1) if kind == "linear" else PublishedMlp()
    file = tmp_path / f"head{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(reference.state_dict(), file)
    rows = torch.nn.functional.normalize(torch.randn(7, 768), dim=1)
    with torch.no_grad():
        expected = (reference if kind == "linear" else reference.eval().layers)(rows)[:, 0].numpy()
    adapter = LaionAesthetic(file=str(file), device="cpu")
    got = adapter.scores(rows.numpy())
    assert got.dtype == np.float32 and got.shape == (7,)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert kind in adapter.name.lower()


def test_aesthetic_head_refuses_other_embeddings_and_other_files(tmp_path):
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"\[N, 768\].*ViT-L/14"):
        LaionAesthetic(file=str(tmp_path / "head.pth"), device="cpu").scores(np.zeros((2, 512), np.float32))
    torch.save(torch.nn.Linear(768, 5).state_dict(), tmp_path / "classes.pth")
    with pytest.raises(ValueError, match="not a LAION aesthetic head"):
        LaionAesthetic(file=str(tmp_path / "classes.pth"), device="cpu")


# -- CoCa


@pytest.fixture(scope="module")
def coca_folder(tmp_path_factory) -> Path:
    model = shake(open_clip.CoCa(**{k: v for k, v in TINY_COCA.items() if k != "custom_text"}), seed=1)
    with torch.no_grad():  # let it say twelve words and the end only, so that sentences end at different lengths
        sayable = torch.zeros(49408)
        sayable[[*range(320, 332), END]] = 1
        model.text_decoder.text_projection.mul_(sayable)
    return save_open_clip(tmp_path_factory.mktemp("coca"), TINY_COCA, model)


@pytest.fixture
def reference_generate(monkeypatch):
    """open_clip's own `generate`, made callable again: one missing import of beam search switches off all of it."""
    module = open_clip.coca_model
    for name in (
        *("LogitsProcessorList", "MinLengthLogitsProcessor", "RepetitionPenaltyLogitsProcessor"),
        *("MaxLengthCriteria", "StoppingCriteriaList"),
    ):
        monkeypatch.setattr(module, name, getattr(transformers, name), raising=False)
    monkeypatch.setattr(module, "_has_transformers", True)
    monkeypatch.setitem(module.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper)
    return lambda model, pixels, **limits: model.generate(pixels, generation_type="top_k", top_k=1, **limits)


def test_coca_equals_open_clips_generate(coca_folder, reference_generate):
    adapter = CoCaCaptioner(folder=str(coca_folder), device="cpu", batch=4, max_tokens=16)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{coca_folder}")
    images = pictures(12)
    pixels = torch.stack([preprocess(PIL.Image.fromarray(image)) for image in images])
    expected = reference_generate(model, pixels, seq_len=16, min_seq_len=5)
    assert torch.equal(greedy(adapter.model, pixels, 5, 16), expected)
    lengths = {int((row == END).nonzero()[0]) for row in expected}
    assert len(lengths) > 2, "the test must see sentences of several lengths"
    assert (expected == PAD).any() and min(lengths) >= 5 and max(lengths) == 15

    clips = [ClipView(stills=[images[0] * 0, image, images[0] * 0], frames=[], facts={}) for image in images]
    expected_captions = [clean(open_clip.decode(row)) for row in expected]
    assert adapter.captions([*clips, ClipView(stills=[], frames=[], facts={})]) == [*expected_captions, None]
    assert len(set(expected_captions)) > 2 and not any("<" in text for text in expected_captions)


def test_coca_text_is_cleaned():
    assert clean("<start_of_text>a dog , on  a beach . <end_of_text>!!!") == "a dog, on a beach."
    assert clean("<start_of_text><end_of_text>") is None


def test_coca_refuses_a_clip_without_decoder(clip_folder):
    with pytest.raises(ValueError, match="not a CoCa model"):
        CoCaCaptioner(folder=str(clip_folder), device="cpu")


# -- the merging language model


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory) -> Path:
    return save_llama(
        tmp_path_factory.mktemp("llama"),
        "<s> question {{ messages[0]['content'] }}{% if add_generation_prompt %} answer{% endif %}",
    )


@pytest.mark.parametrize("template", [True, False])
def test_merger_equals_transformers_one_by_one(template, llama_folder, tmp_path):
    folder = llama_folder if template else save_llama(tmp_path, None)
    adapter = TransformersMerger(folder=str(folder), device="cpu", dtype="float32", max_tokens=10, batch=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = []
    for pair in PAIRS:
        text = request(*pair)
        if template:
            chat = [{"role": "user", "content": text}]
            inputs = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            inputs = tokenizer(text, return_tensors="pt")
        ids = inputs["input_ids"]
        assert (ids == 5).sum() == 1, "one start token, from the template or the tokenizer, not both"
        with torch.no_grad():
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
        answer = tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
        expected.append(read_answer(answer, *pair))
    assert adapter.merge(PAIRS) == expected
    assert len(set(expected)) > 1, "the test must see several answers"


def test_merger_only_asks_about_complete_pairs(llama_folder, monkeypatch):
    adapter = TransformersMerger(folder=str(llama_folder), device="cpu", dtype="float32", max_tokens=3)
    monkeypatch.setattr(adapter, "_answers", lambda pairs: [f'Merged caption: "{a} {b}"' for a, b in pairs])
    pairs = [("a", None), (None, "b"), (None, None), ("", "b"), ("a", "b")]
    assert adapter.merge(pairs) == ["a", "b", None, "b", "a b"]
    assert adapter.merge([]) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('"A dog runs."\nI merged both.', "A dog runs."),
        ("\n\nMerged caption: a  dog", "a dog"),
        ("It's a dog's ball", "It's a dog's ball"),
        ("", "the longer"),
        ("...\n", "the longer"),
    ],
)
def test_answers_are_read_the_same_way(answer, expected):
    assert read_answer(answer, "short", "the longer") == expected
    assert INSTRUCTION in request("x", "y")


def test_architectures_that_would_fetch_parts_from_the_hub_are_refused(clip_folder):
    with pytest.raises(ValueError, match=r"takes its tokenizer from the hub.*`folder`"):
        OpenClipEmbedder(model="ViT-B-16-SigLIP", folder=str(clip_folder / "open_clip_model.safetensors"), device="cpu")
    with pytest.raises(ValueError, match="no architecture 'ViT-Z'"):
        OpenClipEmbedder(model="ViT-Z", folder=str(clip_folder / "open_clip_model.safetensors"), device="cpu")
