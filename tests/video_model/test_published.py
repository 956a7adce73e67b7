"""Public models as they are published: variants, shards, single files; tiny random weights beside the libraries they are of."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.base.packaged import WeightsMissing
from tests.video_model.networks import inputs, randomised, tiny
from tests.video_model.test_weights import VECTORS, _image, _original_file, _same_tensors
from video_model.codecs.original_vae import original_vae_name
from video_model.codecs.protocol import CodecError
from video_model.codecs.public_vae import DiffusersCodec, PublicCodec
from video_model.encoders.clip import ClipStates, ClipText
from video_model.encoders.clip_vision import ClipVision
from video_model.encoders.open_clip import OpenClipStates
from video_model.encoders.original_clip import vision_of_file
from video_model.public.weights import WeightsError, import_unet
from video_model.published import NotPublished, weight_files

torch.set_num_threads(1)
TEXTS = ["a red circle", "", "A DOG runs, very far"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder as Stable Diffusion 2.1 is published, with random weights: text_encoder, tokenizer, vae, unet."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    root = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    facts = {"model_max_length": 12, "pad_token": "!", "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(facts))
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=12, hidden_act="gelu", eos_token_id=len(words) - 1, bos_token_id=len(words) - 2,
    )  # fmt: skip
    text = randomised(CLIPTextModel(config)).eval()
    text.save_pretrained(root / "text_encoder")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64), layers_per_block=2, latent_channels=4,
    )  # fmt: skip
    randomised(vae).save_pretrained(root / "vae")
    _image().save_pretrained(root / "unet")
    (root / "model_index.json").write_text("{}")
    return root, text


def _half(folder):
    """The folder with its fp16 variant alone."""
    (file,) = folder.glob("*.safetensors")
    save_file({name: t.half() for name, t in load_file(file).items()}, folder / f"{file.stem}.fp16.safetensors")
    file.unlink()


def _close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=atol)


@torch.no_grad()
def test_the_text_encoder_of_a_pipeline_is_number_for_number_transformers(pipeline):
    from transformers import AutoTokenizer

    root, model = pipeline
    for place in (root, root / "text_encoder"):
        encoder = ClipText(folder=str(place)).make()
        states, mask = encoder.encode(TEXTS)
        tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
        tokens = tokenizer(TEXTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
        _close(states, model(input_ids=tokens["input_ids"]).last_hidden_state, 1e-6)
        assert encoder.dim == 32 and states.shape == (3, 12, 32) and mask.all()
    assert tokens["input_ids"][1].tolist()[2:] == [0] * 10  # padded with "!", as 2.1 is


@torch.no_grad()
def test_names_with_and_without_the_prefix_are_the_same_weights(pipeline, tmp_path):
    """Published files have text_model.*, which newer libraries leave out."""
    root, _ = pipeline
    shutil.copytree(root, tmp_path / "a")
    file = tmp_path / "a" / "text_encoder" / "model.safetensors"
    bare = {name.removeprefix("text_model."): t.clone() for name, t in load_file(file).items()}
    expected = ClipStates(root).encode(TEXTS)[0]
    for prefix in ("", "text_model."):
        ids = {"embeddings.position_ids": torch.arange(12)[None]}  # which old files have
        save_file({prefix + name: t for name, t in (bare | ids).items()}, file)
        assert torch.equal(ClipStates(tmp_path / "a").encode(TEXTS)[0], expected)


@torch.no_grad()
def test_half_precision_variants_are_read_where_there_is_nothing_else(pipeline, tmp_path):
    root, _ = pipeline
    shutil.copytree(root, tmp_path / "half")
    for part in ("text_encoder", "vae", "unet"):
        _half(tmp_path / "half" / part)
    network, whole = import_unet(tmp_path / "half"), import_unet(root)
    assert torch.equal(network.conv_out.weight, whole.conv_out.weight.half().float())
    _close(ClipStates(tmp_path / "half").encode(TEXTS)[0], ClipStates(root).encode(TEXTS)[0], 2e-2)
    pixels = torch.rand(1, 1, 3, 16, 16) * 2 - 1
    half, full = DiffusersCodec(tmp_path / "half"), DiffusersCodec(root)
    assert half.vae.dtype == torch.float32
    _close(half.encode(pixels), full.encode(pixels), 2e-2)


def test_shards_and_full_precision_come_first(tmp_path):
    (tmp_path / "m.fp16.safetensors").write_bytes(b"")
    assert [file.name for file in weight_files(tmp_path, "m")] == ["m.fp16.safetensors"]
    index = {"weight_map": {"a": "m-1.fp16.safetensors", "b": "m-2.fp16.safetensors"}}
    (tmp_path / "m.safetensors.index.fp16.json").write_text(json.dumps(index))
    with pytest.raises(
        NotPublished, match=r"m-1.fp16.safetensors is missing, which m.safetensors.index.fp16.json names"
    ):
        weight_files(tmp_path, "m")
    for name in ("m-1.fp16.safetensors", "m-2.fp16.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in weight_files(tmp_path, "m")] == ["m-1.fp16.safetensors", "m-2.fp16.safetensors"]
    (tmp_path / "m.safetensors").write_bytes(b"")
    assert [file.name for file in weight_files(tmp_path, "m")] == ["m.safetensors"]


def test_wrong_folders_say_what_is_missing_and_what_to_do(pipeline, tmp_path):
    root, _ = pipeline
    shutil.copytree(root, tmp_path / "p")
    for part, name, load, error in (
        ("unet", "diffusion_pytorch_model", import_unet, WeightsError),
        ("vae", "diffusion_pytorch_model", DiffusersCodec, CodecError),
        ("text_encoder", "model", lambda place: ClipStates(place).encode(["a"]), WeightsMissing),
    ):
        file = tmp_path / "p" / part / f"{name}.safetensors"
        file.rename(file.with_suffix(".bin"))
        with pytest.raises(error, match=r"as a pickle alone \(.*\.bin\).*convert its weights to safetensors"):
            load(tmp_path / "p")
        file.with_suffix(".bin").unlink()
        with pytest.raises(error, match=rf"has no {name}.safetensors"):
            load(tmp_path / "p")
        shutil.rmtree(tmp_path / "p" / part)
        with pytest.raises(error, match=rf"this pipeline has no {part}/config.json"):
            load(tmp_path / "p")
        with pytest.raises(error, match=r"there is no such folder"):
            load(tmp_path / "nowhere")
        (tmp_path / "x.ckpt").write_bytes(b"pickle")
        with pytest.raises(error, match=r"x.ckpt is a pickle.*convert it where you trust it"):
            load(tmp_path / "x.ckpt")
    shutil.copytree(root / "text_encoder", tmp_path / "alone" / "text_encoder")
    with pytest.raises(WeightsMissing, match=r"no tokenizer/ with vocab\.json"):
        ClipStates(tmp_path / "alone").encode(["a"])
    for section, words in ((ClipText, "text"), (PublicCodec, "codec")):
        with pytest.raises(ValueError, match=f"{words}: name a folder or a file, one of the two"):
            section()


def _single_vae(vae, levels, file):
    """The VAE as an original single file, by the names of the released ones."""
    tensors = {f"first_stage_model.{original_vae_name(name, levels)}": t for name, t in vae.state_dict().items()}
    for name, tensor in tensors.items():  # attention is made of 1x1 convolutions there
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            tensors[name] = tensor[:, :, None, None]
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)
    return tensors


@torch.no_grad()
def test_the_vae_of_a_single_file_is_the_one_that_diffusers_converts(pipeline, tmp_path):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    codec = DiffusersCodec(pipeline[0])
    tensors = _single_vae(codec.vae, 3, tmp_path / "sd.safetensors")
    theirs = convert_ldm_vae_checkpoint(dict(tensors), dict(codec.vae.config))
    wanted = codec.vae.state_dict()
    assert theirs.keys() == wanted.keys()
    assert all(torch.equal(theirs[name].reshape(t.shape), t) for name, t in wanted.items())
    single = PublicCodec(file=str(tmp_path / "sd.safetensors")).load(tmp_path)
    _same_tensors(single.vae, codec.vae)
    assert (single.scale, single.channels, single.factor) == (0.18215, 4, 4)
    pixels = torch.rand(1, 2, 3, 16, 16) * 2 - 1
    assert torch.equal(single.encode(pixels), codec.encode(pixels))
    assert single.fingerprint == codec.fingerprint


# Names as in the released file of Stable Video Diffusion, with what they are in diffusers' layout
DECODER = {
    "decoder.mid.block_1.mix_factor": "decoder.mid_block.resnets.0.time_mixer.mix_factor",
    "decoder.mid.block_1.norm1.weight": "decoder.mid_block.resnets.0.spatial_res_block.norm1.weight",
    "decoder.mid.block_2.time_stack.in_layers.0.weight": "decoder.mid_block.resnets.1.temporal_res_block.norm1.weight",
    "decoder.mid.block_2.time_stack.in_layers.2.bias": "decoder.mid_block.resnets.1.temporal_res_block.conv1.bias",
    "decoder.up.0.block.2.time_stack.out_layers.0.bias": "decoder.up_blocks.2.resnets.2.temporal_res_block.norm2.bias",
    "decoder.up.2.block.1.time_stack.out_layers.3.weight": "decoder.up_blocks.0.resnets.1.temporal_res_block.conv2.weight",
    "decoder.up.0.block.0.nin_shortcut.weight": "decoder.up_blocks.2.resnets.0.spatial_res_block.conv_shortcut.weight",
    "decoder.up.1.upsample.conv.weight": "decoder.up_blocks.1.upsamplers.0.conv.weight",
    "decoder.conv_out.time_mix_conv.bias": "decoder.time_conv_out.bias",
    "decoder.norm_out.weight": "decoder.conv_norm_out.weight",
    "encoder.down.1.downsample.conv.bias": "encoder.down_blocks.1.downsamplers.0.conv.bias",
    "encoder.mid.attn_1.proj_out.weight": "encoder.mid_block.attentions.0.to_out.0.weight",
}


@torch.no_grad()
def test_the_temporal_decoder_of_a_single_file_is_diffusers(tmp_path):
    from diffusers import AutoencoderKLTemporalDecoder

    blocks = ("DownEncoderBlock2D",) * 3
    vae = AutoencoderKLTemporalDecoder(down_block_types=blocks, block_out_channels=(32, 64, 64), layers_per_block=2)
    vae = randomised(vae).eval()
    names = {original_vae_name(name, 3): name for name in vae.state_dict()}
    assert len(names) == len(vae.state_dict())
    for original, public in DECODER.items():
        assert names[original] == public
    vae.save_pretrained(tmp_path / "vae")
    _single_vae(vae, 3, tmp_path / "svd.safetensors")
    single, folder = DiffusersCodec(tmp_path / "svd.safetensors"), DiffusersCodec(tmp_path)
    assert single.temporal
    latents = torch.randn(1, 3, 4, 4, 4)
    assert torch.equal(single.decode(latents), folder.decode(latents))
    # released without the convolution between encoder and latents: it is then one that changes nothing
    tensors = load_file(tmp_path / "svd.safetensors")
    without = {name: t for name, t in tensors.items() if ".quant_conv." not in name}
    save_file(without, tmp_path / "bare.safetensors")
    weight = DiffusersCodec(tmp_path / "bare.safetensors").vae.quant_conv.weight
    assert torch.equal(weight[:, :, 0, 0], torch.eye(8))
    save_file({**tensors, "first_stage_model.adapter.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(CodecError, match=r"1 tensors of first_stage_model.\* have no place.*adapter.weight"):
        DiffusersCodec(tmp_path / "more.safetensors")
    few = {name: t for name, t in tensors.items() if "mid.block_1.mix_factor" not in name}
    save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(CodecError, match=r"decoder.mid.block_1.mix_factor \[1\] is missing"):
        DiffusersCodec(tmp_path / "few.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CodecError, match=r"has no first_stage_model.encoder.conv_in.weight"):
        DiffusersCodec(tmp_path / "other.safetensors")


@torch.no_grad()
def test_the_text_of_a_2_x_file_is_open_clip_s_state_before_the_last_block(tmp_path):
    """Through transformers' model, renamed, and through open_clip's own tower, with its prefix."""
    import open_clip

    tower = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3}
    vision = {"image_size": 28, "layers": 2, "width": 64, "patch_size": 14, "head_width": 64, "mlp_ratio": 2.0}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=tower).eval()
    model.visual.ln_post.weight.uniform_(0.5, 2)
    state = model.state_dict()
    skipped = ("visual.", "logit_scale")
    tensors = {f"cond_stage_model.model.{k}": t for k, t in state.items() if not k.startswith(skipped)}
    prefix = "conditioner.embedders.0.open_clip.model."
    save_file(
        tensors | {prefix + k: t.clone() for k, t in state.items() if k.startswith("visual.")},
        tmp_path / "2.safetensors",
    )
    encoder = ClipStates(tmp_path / "2.safetensors")
    states, mask = encoder.encode(TEXTS)
    seen = []
    hook = model.transformer.resblocks[1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    model.encode_text(open_clip.SimpleTokenizer(context_length=12)(TEXTS))
    hook.remove()
    _close(states, model.ln_final(seen[0]))
    assert mask.all() and encoder.dim == 64
    (tmp_path / "hub").mkdir()
    facts = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": tower}}
    (tmp_path / "hub" / "open_clip_config.json").write_text(json.dumps(facts))
    shutil.copy(tmp_path / "2.safetensors", tmp_path / "hub" / "open_clip_model.safetensors")
    _close(OpenClipStates(tmp_path / "hub").encode(TEXTS)[0], states)
    # and the picture's embedding
    assert ClipVision(tmp_path / "2.safetensors").dim == 24
    pictures = torch.randn(2, 3, 28, 28)
    _close(vision_of_file(tmp_path / "2.safetensors")(pixel_values=pictures).image_embeds, model.encode_image(pictures))


@torch.no_grad()
def test_the_text_of_a_1_x_file_is_transformers_own(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=12, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    model = randomised(CLIPTextModel(config)).eval()
    named = {
        f"cond_stage_model.transformer.text_model.{n.removeprefix('text_model.')}": t
        for n, t in model.state_dict().items()
    }
    save_file({n: t.clone() for n, t in named.items()}, tmp_path / "1.safetensors")
    states, _ = ClipText(file=str(tmp_path / "1.safetensors")).make().encode(["a", ""])
    ids = torch.tensor(
        [[49406, 320] + [49407] * 10, [49406] + [49407] * 11]
    )  # padded with the end mark; 320 is "a</w>"
    _close(states, model(input_ids=ids).last_hidden_state)
    assert ClipStates(tmp_path / "1.safetensors").fingerprint == ClipStates(tmp_path / "1.safetensors").fingerprint
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsMissing, match=r"has no text encoder of Stable Diffusion 1.x \(cond_stage_model"):
        ClipStates(tmp_path / "other.safetensors").encode(["a"])


@torch.no_grad()
def test_one_whole_file_serves_network_codec_and_text(pipeline, tmp_path):
    """As it is published: all parts in one file, which has a config.json of something else beside it."""
    file = tmp_path / "svd.safetensors"
    network = tiny(temporal=True, concat_channels=4, vectors=VECTORS, layers=2, epsilon="sd")
    tensors = _original_file(network, file)
    del tensors["first_stage_model.encoder.conv_in.weight"]
    tensors |= _single_vae(DiffusersCodec(pipeline[0]).vae, 3, tmp_path / "vae.safetensors")
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)
    (tmp_path / "config.json").write_text("{}")
    again = import_unet(file, heads=(2, 4))
    _same_tensors(again, network)
    x, c_noise, cond = inputs()
    assert torch.equal(again(x, c_noise, cond), network(x, c_noise, cond))
    _same_tensors(DiffusersCodec(file).vae, DiffusersCodec(pipeline[0]).vae)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_single_file_s_middle_is_as_deep_as_it_is(depth, tmp_path):
    network = tiny(layers=2, transformer_layers=(1, depth), epsilon="sd")  # the last level has no attention
    _original_file(network, tmp_path / "sd.safetensors")
    again = import_unet(tmp_path / "sd.safetensors", heads=(2, 4))
    _same_tensors(again, network)
    assert again.config.transformer_layers == (1, depth)
