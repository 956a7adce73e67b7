"""Video captioners of the paper's pack, number for number, on tiny random weights: VideoBLIP and chat models that see.

Nothing here is downloaded: the hub's cache is an empty folder and its offline switch is on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file

from curate.models import ClipView
from curate.models.full.video_blip import VideoBlipCaptioner, video_queries
from curate.models.full.video_chat import VideoChatCaptioner
from tests.curate.tiny_models import VOCABULARY, isolate, pictures, save_llama, shake, word_tokenizer


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


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LANGUAGE = {
    "opt": {**SMALL, "model_type": "opt", "vocab_size": len(VOCABULARY), "ffn_dim": 32, "max_position_embeddings": 80}
    | {"word_embed_proj_dim": 16, "tie_word_embeddings": False}
    | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 5},
    "t5": {"model_type": "t5", "vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    | {"num_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
}


def save_blip(folder: Path, language: str) -> Path:
    """A BLIP-2, its picture processor and tokenizer; the language model is a decoder (OPT) or encoder-decoder (T5)."""
    config = transformers.Blip2Config(
        vision_config={**SMALL, "intermediate_size": 32, "image_size": 28, "patch_size": 14},
        qformer_config={**SMALL, "vocab_size": 32, "intermediate_size": 32, "encoder_hidden_size": 16}
        | {"cross_attention_frequency": 1, "max_position_embeddings": 32},
        text_config=LANGUAGE[language],
        num_query_tokens=4,
        image_token_index=3,
    )
    shake(transformers.Blip2ForConditionalGeneration(config), seed=1).save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory) -> Path:
    return save_blip(tmp_path_factory.mktemp("blip"), "opt")


def views(videos: list) -> list[ClipView]:
    return [ClipView(stills=[], frames=video, facts={}) for video in videos]


class FrameByFrame(torch.nn.Module):
    """VideoBLIP's vision model: BLIP-2's on each frame of [B, T, 3, H, W], tokens of all frames end to end."""

    def __init__(self, vision: torch.nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixel_values, **rest):
        seen = [self.vision(pixel_values[:, t], **rest) for t in range(pixel_values.shape[1])]
        seen[0].last_hidden_state = torch.cat([s.last_hidden_state for s in seen], dim=1)
        return seen[0]


@pytest.mark.parametrize(
    ("language", "prompt", "beams"),
    [("opt", "question what is happening answer", 3), ("opt", "", 1), ("t5", "what is happening", 2)],
)
def test_video_blip_equals_transformers(language, prompt, beams, tmp_path):
    """Against `Blip2ForConditionalGeneration.generate` itself, with VideoBLIP's vision model put in."""
    blip_folder = save_blip(tmp_path, language)
    adapter = VideoBlipCaptioner(
        folder=str(blip_folder), device="cpu", prompt=prompt, beams=beams, max_tokens=8, batch=2
    )
    assert adapter.frames == 8
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(blip_folder).eval()
    processor = transformers.BlipImageProcessor.from_pretrained(blip_folder)
    tokenizer = word_tokenizer()
    videos = [pictures(8, seed=s) for s in range(5)]
    pixels = torch.stack([processor(images=video, return_tensors="pt")["pixel_values"] for video in videos])
    ids = torch.tensor([[3] * 4 + (tokenizer(prompt).input_ids if prompt else [5])])

    heard = ids.shape[1] if language == "opt" else 0  # a decoder repeats its prompt, an encoder-decoder does not

    with torch.no_grad():
        one = model.get_image_features(pixels[:, 0]).pooler_output
        torch.testing.assert_close(video_queries(adapter.model, pixels[:, :1]), one, atol=1e-6, rtol=0)
        model.vision_model = FrameByFrame(model.vision_model)
        all_frames = model.get_image_features(pixels).pooler_output
        torch.testing.assert_close(video_queries(adapter.model, pixels), all_frames, atol=1e-6, rtol=0)
        tokens = model.generate(
            pixel_values=pixels,
            input_ids=ids.repeat(len(videos), 1),
            max_new_tokens=8,
            num_beams=beams,
            do_sample=False,
        )
    expected = [
        " ".join(s.split()) or None for s in tokenizer.batch_decode(tokens[:, heard:], skip_special_tokens=True)
    ]
    assert adapter.captions(views(videos)) == expected
    assert len(set(expected)) > 1, "the test must see several captions"


def test_video_blip_takes_clips_of_any_number_of_frames(blip_folder):
    adapter = VideoBlipCaptioner(folder=str(blip_folder), device="cpu", max_tokens=6, batch=8)
    videos = [pictures(8), pictures(3, seed=1), [], pictures(8, seed=2)]
    alone = [adapter.captions(views([video]))[0] for video in videos]
    assert adapter.captions(views(videos)) == alone
    assert alone[2] is None and all(alone[i] for i in (0, 1, 3))


def test_video_blip_reads_checkpoints_of_its_time(blip_folder, tmp_path):
    """kpyu's are of 2023: sharded .bin files, a buffer that has gone since, no image token, a class of their own."""
    shutil.copytree(blip_folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    shards = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        part = {name: tensor for name, tensor in tensors.items() if shards[name] == shard}
        torch.save({**part, "qformer.embeddings.position_ids": torch.arange(4)}, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    config = json.loads((tmp_path / "config.json").read_text())
    config = {k: v for k, v in config.items() if not k.startswith("image_token")}
    config["architectures"] = ["VideoBlipForConditionalGeneration"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    old, new = (VideoBlipCaptioner(folder=str(f), device="cpu", max_tokens=6) for f in (tmp_path, blip_folder))
    videos = [pictures(8, seed=s) for s in range(2)]
    assert old.captions(views(videos)) == new.captions(views(videos))


def test_video_blip_refuses_other_families(tmp_path):
    llama_folder = save_llama(tmp_path)
    with pytest.raises(ValueError, match=r"llama model, not of the BLIP-2 family.*video_chat"):
        VideoBlipCaptioner(folder=str(llama_folder), device="cpu")


# -- chat models that see


CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<' + part['type'] + '>' }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer{% endif %}"
)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlavaOnevisionConfig(
        vision_config={**small, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
        text_config={**small, "model_type": "qwen2", "vocab_size": len(VOCABULARY), "num_key_value_heads": 2}
        | {"tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 5},
        image_token_index=3,
        video_token_index=4,
        image_grid_pinpoints=[[28, 28]],
        vision_feature_layer=-1,
    )
    shake(transformers.LlavaOnevisionForConditionalGeneration(config), seed=2).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[28, 28]]),
        tokenizer=word_tokenizer(),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("show", ["images", "video"])
def test_video_chat_equals_transformers(chat_folder, show):
    adapter = VideoChatCaptioner(
        folder=str(chat_folder), show=show, device="cpu", dtype="float32", max_tokens=8, prompt="what is happening"
    )
    assert adapter.frames == 8
    model = transformers.AutoModelForImageTextToText.from_pretrained(chat_folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(chat_folder)
    expected = []
    videos = [pictures(8, seed=s) for s in range(5)]
    for video in videos:
        frames = [PIL.Image.fromarray(f) for f in video]
        seen = {"images": [frames], "text": "<image> " * 8 + "what is happening answer"}
        if show == "video":
            seen = {"videos": [np.stack(video)], "text": "<video> what is happening answer"}
        inputs = processor(**seen, return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        text = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        expected.append(" ".join(text.split()) or None)
    assert adapter.captions(views(videos)) == expected
    assert len(set(expected)) > 1, "the test must see several captions"
    assert adapter.captions(views([[]])) == [None]
