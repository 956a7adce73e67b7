"""Small random models: what is on the GPU, and what is computed there is what a CPU computes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.gpu_check.rows import Row
from tests.gpu_check.setting import Setting
from tests.video_model.clips import clips, write_clips
from tests.video_model.svd_pipeline import FRAMES, HEIGHT, WIDTH, picture, saved_pipeline
from tests.video_model.training import task
from video_model.diffusion.slots import image
from video_model.encoders.clip import ClipStates
from video_model.encoders.open_clip import OpenClipStates
from video_model.encoders.t5 import T5States
from video_model.training.loop import train_stage
from video_model.training.released import run_of_pipeline
from video_model.training.sampler import Sampler
from video_model.training.stages import train
from video_model.training.storage import checkpoints

TEXTS = ["a red circle", "a dog on the beach"]
PARITY = 1e-3


def samples(setting: Setting) -> Iterator[Row]:
    """`winnow sample` of a StableVideoDiffusionPipeline's folder: the frames that a CPU draws."""
    pipeline, root = setting.folder / "svd", setting.folder / "drawn"
    saved_pipeline(pipeline)
    run_of_pipeline(pipeline, root, (HEIGHT, WIDTH))
    with exact(setting):
        cpu, other = (_drawn(root, device, "float32") for device in ("cpu", setting.device))
    furthest = float((cpu - other).abs().max())
    what = f"samples, CPU against {setting.device}, in float32 without TF32"
    yield Row(what, f"furthest pixel {furthest:.1e} of [-1, 1]", f"{PARITY:g} at most", furthest <= PARITY)
    low = _drawn(root, setting.device, "bfloat16")
    away = (cpu - low).abs()
    yield Row("the same in bfloat16", f"mean {float(away.mean()):.1e}, furthest {float(away.max()):.1e}")


def _drawn(root: Path, device: str, precision: str) -> torch.Tensor:
    config = json.loads((root / "config.json").read_text())
    config["loop"] |= {"precision": precision, "frozen_precision": precision}
    (root / "config.json").write_text(json.dumps(config))
    sampler = Sampler(root, device=device)
    tower = image._tower(config["conditioning"]["image"]["folder"])
    tower.precision = torch.float32 if precision == "float32" else None  # by itself a GPU's is bfloat16
    asked = {"steps": 4, "seed": 5, "fps": 7, "motion": 90, "augment": 0.05, "frames": FRAMES}
    return sampler(sampler.request([""], first_frame=picture(), **asked))[0]


@contextmanager
def exact(setting: Setting) -> Iterator[None]:
    """Without TF32, and the same sums each time."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(False)


@contextmanager
def seen() -> Iterator[dict[str, set[tuple[str, str]]]]:
    """Name of each class of modules that is called meanwhile -> where its outputs are, and in what precision."""
    found: dict[str, set[tuple[str, str]]] = {}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        values = out.values() if isinstance(out, Mapping) else out if isinstance(out, (tuple, list)) else [out]
        for value in values:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                name = f"{type(module).__module__.split('.')[0]} {type(module).__name__}"
                found.setdefault(name, set()).add((value.device.type, str(value.dtype).removeprefix("torch.")))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def devices(setting: Setting) -> Iterator[Row]:
    """Text encoders as a run makes them; then a run with a public VAE and a CLIP token: all of them work on the GPU."""
    low = "bfloat16" if setting.gpu else "float32"
    dtype = getattr(torch, low)
    for name, make in (("open_clip", _open_clip), ("t5", _t5), ("clip", _clip)):
        folder = setting.folder / name
        folder.mkdir(parents=True)
        kind = make(folder)
        encoder = kind(folder, device=setting.place, dtype=dtype)
        with seen() as found:
            states, _ = encoder.encode(TEXTS)
        exactly, _ = kind(folder).encode(TEXTS)
        off = float((states - exactly).norm() / exactly.norm())
        weights = {(p.device.type, str(p.dtype).removeprefix("torch.")) for p in encoder._loaded[1].parameters()}
        worked = set.union(*found.values())
        ok = weights == {(setting.device, low)} and {place for place, _ in worked} == {setting.device} and off < 0.03
        figure = f"weights {_said(weights)}; worked on {_said(worked)}; {off:.1e} off a CPU's"
        yield Row(f"text encoder {name}", figure, f"{setting.device} {low}, within 3%", ok)
    yield from _released(setting, low)


def _released(setting: Setting, low: str) -> Iterator[Row]:
    from tests.video_model.test_svd_pipeline import STAGE, config

    pipeline = setting.folder / "released"
    saved_pipeline(pipeline)
    curated = write_clips(setting.folder / "released-data", clips(12))
    chosen = config(
        pipeline, stages={"video": STAGE | {"steps": 2}}, data={"held_out": 0.3}, samples={"count": 1, "steps": 2}
    )
    with seen() as found:
        train(chosen, [str(curated)], setting.folder / "released-run", worker=setting.worker)
    for part, name in (
        ("latents by a public VAE", "diffusers Encoder"),
        ("CLIP's image token", "transformers CLIPVisionModelWithProjection"),
    ):
        where = found.get(name, set())
        yield Row(part, f"worked on {_said(where)}", f"{setting.device} {low}", where == {(setting.device, low)})
    where = found.get("video_model SpaceTimeUNet", set())
    yield Row(
        "the network, trained and sampled",
        f"worked on {_said(where)}",
        setting.device,
        {d for d, _ in where} == {setting.device},
    )


def _said(where: set[tuple[str, str]]) -> str:
    return ", ".join(sorted(" ".join(one) for one in where)) or "nothing"


def _open_clip(folder: Path) -> Any:
    from open_clip import CLIP

    tower = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    vision = {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
    shape = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": tower}
    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape, "preprocess_cfg": {}}))
    save_file(CLIP(**shape).state_dict(), folder / "open_clip_model.safetensors")
    return OpenClipStates


def _t5(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {word: at for at, word in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "circle", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    shape = T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(shape).save_pretrained(folder)
    return T5States


def _clip(folder: Path) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    facts = {"model_max_length": 12, "pad_token": "!", "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(facts))
    torch.manual_seed(0)
    shape = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=12, eos_token_id=len(words) - 1, bos_token_id=len(words) - 2,
    )  # fmt: skip
    CLIPTextModel(shape).save_pretrained(folder / "text_encoder")
    return ClipStates


def optimisers(setting: Setting) -> Iterator[Row]:
    """Steps with each; a run with fused AdamW that is stopped and resumed is the same to the bit."""
    with exact(setting):
        whole = _trained(setting, "whole", 4, {"kind": "adamw", "fused": True})
        begun = _trained(setting, "begun", 2, {"kind": "adamw", "fused": True})
        resumed = _trained(setting, "begun", 4, {"kind": "adamw", "fused": True}, begun)
    one, other = (found.tensors("network") for found in (whole, resumed))
    furthest = max(float((one[name] - other[name]).abs().max()) for name in one)
    yield Row("fused AdamW, resumed", f"weights {furthest:.1e} apart", "to the bit", furthest == 0)
    for name, stage in (
        ("ema_device: cpu", {"ema_device": "cpu"}),
        ("adamw_8bit", {"optimizer": {"kind": "adamw_8bit"}}),
    ):
        if name == "adamw_8bit" and not (setting.gpu and importlib.util.find_spec("bitsandbytes")):
            yield Row(name, why="bitsandbytes is not installed" if setting.gpu else "needs a GPU")
            continue
        made = task(setting.folder / name.split(":")[0], worker=setting.worker, steps=3, **stage)
        done = train_stage(made)
        moved = max(float((a - b).abs().max()) for a, b in _pairs(done, "ema", whole))
        yield Row(name, f"{done.step} steps; the average is {moved:.1e} from fused AdamW's", "3 steps", done.step == 3)


def _pairs(found: Any, part: str, other: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    one, two = found.tensors(part), other.tensors(part)
    return [(one[name], two[name]) for name in one]


def _trained(setting: Setting, name: str, steps: int, optimizer: dict[str, Any], start: Any = None) -> Any:
    made = task(setting.folder / name, worker=setting.worker, steps=4, optimizer=optimizer)
    if steps < 4:
        asked = iter([False] * (steps - 1))
        made = replace(made, stop=lambda: next(asked, True))
        try:
            train_stage(made, start)
        except KeyboardInterrupt:  # Interrupted
            return checkpoints.latest(made.folder / "checkpoints")
    return train_stage(made, start)
