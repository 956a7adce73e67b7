"""Weights of the paper's pack that are found, missing, cut short, half there or downloaded: messages and results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.models import hub
from curate.models.full.aesthetic import MLP_FILE, MLP_REPO, LaionAesthetic
from curate.models.full.clip import OpenClipEmbedder
from curate.models.full.coca import CoCaCaptioner
from curate.models.full.merge import TransformersMerger
from curate.models.full.video_blip import VideoBlipCaptioner
from curate.models.full.video_chat import VideoChatCaptioner
from curate.weights import MissingWeights, Weights
from tests.curate.tiny_models import (
    PAIRS,
    TINY_CLIP,
    PublishedMlp,
    into_cache,
    isolate,
    save_llama,
    save_open_clip,
    shake,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub")
    isolate(monkeypatch, cache)
    return cache


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


MISSING = [
    (OpenClipEmbedder, "image_embedding", "hub timm/vit_large_patch14_clip_224.openai"),
    (LaionAesthetic, "aesthetic_score", "file "),
    (CoCaCaptioner, "caption_frame", "hub laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k"),
    (VideoBlipCaptioner, "caption_video", "hub kpyu/video-blip-opt-2.7b-ego4d"),
    (VideoChatCaptioner, "caption_video", "hub HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
    (TransformersMerger, "caption_merged", "hub Qwen/Qwen2.5-1.5B-Instruct"),
]


@pytest.mark.parametrize(("adapter", "role", "place"), MISSING)
def test_missing_weights_name_role_model_place_and_mend(adapter, role, place, tmp_path, monkeypatch):
    for download in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{download}", lambda *_, **__: pytest.fail("the hub was asked"))
    [found] = adapter.weights()
    assert found.path is None and found.role == role and found.source.startswith(place)
    with pytest.raises(MissingWeights) as error:
        adapter(device="cpu")
    repo = place.removeprefix("hub ")
    fix = "curl -L" if adapter is LaionAesthetic else f"hf download {repo}"
    assert all(word in str(error.value) for word in (role, found.model, found.source, fix))

    option = "file" if adapter is LaionAesthetic else "folder"
    with pytest.raises(MissingWeights, match="empty"):
        adapter(device="cpu", **{option: str(tmp_path / "empty")})
    if adapter is not LaionAesthetic:  # offline wins over a wish to download
        with pytest.raises(MissingWeights, match="HF_HUB_OFFLINE is set"):
            adapter(device="cpu", allow_download=True)


def test_a_snapshot_cut_short_is_missing(llama_folder, no_network):
    """Config and index are there, one of the shards that the index names is not."""
    folder = no_network / "cut"
    folder.mkdir()
    (folder / "config.json").write_bytes((llama_folder / "config.json").read_bytes())
    shards = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert TransformersMerger.weights(folder=str(folder))[0].path is None
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert TransformersMerger.weights(folder=str(folder))[0].path == folder


def test_a_cached_snapshot_is_found(llama_folder, no_network):
    for file in llama_folder.iterdir():
        into_cache(no_network, "org/llama", file.name, file)
    [found] = TransformersMerger.weights(model="org/llama")
    assert found.path is not None and len(found.digest()) == 16
    adapter = TransformersMerger(model="org/llama", device="cpu", dtype="float32", max_tokens=2)
    assert adapter.merge(PAIRS[:1])[0]
    assert adapter.name.startswith("org/llama (")
    copy = TransformersMerger(model="org/llama", folder=str(llama_folder), device="cpu", dtype="float32")
    assert copy.name.startswith(f"local {llama_folder.name} ("), (
        "a local copy may be any model: it goes by its own name"
    )


def test_weights_that_the_files_lack_are_an_error_not_noise(llama_folder, tmp_path):
    for file in llama_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights.*model\.layers\.1\.mlp\.up_proj\.weight"):
        TransformersMerger(folder=str(tmp_path), device="cpu", dtype="float32")


def test_a_download_happens_only_if_asked_for(monkeypatch, tmp_path):
    """With the offline switch off and allow_download on, the hub is asked for exactly the file that is missing."""
    asked = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        raise OSError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(MissingWeights):
        LaionAesthetic(head="mlp", device="cpu")
    assert asked == []
    with pytest.raises(MissingWeights, match="no route to host"):
        LaionAesthetic(head="mlp", device="cpu", allow_download=True)
    assert asked == [(MLP_REPO, MLP_FILE)]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name: str(tmp_path / name))
    missing = Weights("role", "model", None, "hub org/x", "get")
    assert hub.obtain(missing, repo="org/x", names=["w"], allow_download=True) == tmp_path / "w"


def test_devices_and_precisions_are_checked(tmp_path):
    clip_folder = save_open_clip(tmp_path, TINY_CLIP, shake(open_clip.CLIP(**TINY_CLIP)))
    with pytest.raises(ValueError, match=r"dtype must be one of .* \(got 'int8'\)"):
        OpenClipEmbedder(folder=str(clip_folder), device="cpu", dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda requested"):
            OpenClipEmbedder(folder=str(clip_folder), device="cuda")
        assert str(OpenClipEmbedder(folder=str(clip_folder)).device) == "cpu"


def test_aesthetic_heads_are_found_where_the_mend_puts_them(no_network, tmp_path):
    [linear] = LaionAesthetic.weights()
    place = no_network / "xdg" / "winnow" / "sa_0_4_vit_l_14_linear.pth"
    assert linear.path is None and str(place) in linear.get and "curl" in linear.get
    place.parent.mkdir(parents=True)
    torch.save(torch.nn.Linear(768, 1).state_dict(), place)
    assert LaionAesthetic.weights()[0].path == place
    assert LaionAesthetic(device="cpu").scores(np.zeros((1, 768))).shape == (1,)

    save_file(PublishedMlp().state_dict(), tmp_path / MLP_FILE)
    into_cache(no_network, MLP_REPO, MLP_FILE, tmp_path / MLP_FILE)
    assert LaionAesthetic(head="mlp", device="cpu").scores(np.zeros((2, 768))).shape == (2,)
