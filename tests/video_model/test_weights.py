import itertools
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.video_model.networks import TINY, inputs, randomised, tiny
from video_model.public.names import original_name
from video_model.public.weights import NAME, WeightsError, export_pipeline, export_unet, import_unet

CLOSE = dict(rtol=1e-4, atol=3e-5)
VECTORS = ("fps", "motion", "augment")


def _image(**changes):
    from diffusers import UNet2DConditionModel

    settings = dict(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        layers_per_block=2,
        attention_head_dim=4,
    )
    return randomised(UNet2DConditionModel(**{**settings, **changes})).eval()


def _video(**changes):
    from diffusers import UNetSpatioTemporalConditionModel

    settings = dict(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_attention_heads=(2, 4),
        cross_attention_dim=16,
        layers_per_block=1,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=3,
    )
    return randomised(UNetSpatioTemporalConditionModel(**{**settings, **changes})).eval()


def _public_image(model, x, c_noise, cond):
    frames = x.shape[1]
    text = cond["text"].repeat_interleave(frames, 0)
    return model(x.flatten(0, 1), c_noise.repeat_interleave(frames), text).sample.view(*x.shape[:2], -1, *x.shape[3:])


def _public_video(model, x, c_noise, cond):
    ids = cond["vectors"] - torch.tensor([1.0, 0.0, 0.0])  # the public model takes fps - 1
    return model(torch.cat([x, cond["concat"]], 2), c_noise, cond["text"], ids).sample


def _video_inputs(seed=1, text=5):
    x, c_noise, cond = inputs(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    concat = torch.randn(x.shape, generator=generator)
    vectors = torch.tensor([[7.0, 127.0, 0.02], [24.0, 30.0, 0.1]])
    return x, c_noise, {"text": cond["text"][:, :text], "concat": concat, "vectors": vectors}


def _same_tensors(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


IMAGES = {
    "1.x: convolutions around the transformers, 4 heads everywhere": {},
    "2.x: linear layers, heads by level": {"use_linear_projection": True, "attention_head_dim": (2, 4, 4)},
    "two blocks a transformer, one layer": {"transformer_layers_per_block": 2, "layers_per_block": 1},
    "inpainting: more channels in": {"in_channels": 9},
}


@pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES.keys())
@torch.no_grad()
def test_image_unet_in_and_out(changes, tmp_path):
    from diffusers import UNet2DConditionModel

    model = _image(**changes)
    model.save_pretrained(tmp_path / "in")
    network = import_unet(tmp_path / "in")
    x, c_noise, cond = inputs()
    whole = x
    if changes.get("in_channels"):
        cond["concat"] = torch.randn(2, 3, 5, 8, 8)
        whole = torch.cat([x, cond["concat"]], 2)
    torch.testing.assert_close(network(x, c_noise, cond), _public_image(model, whole, c_noise, cond), **CLOSE)
    export_unet(network, tmp_path / "out")
    _same_tensors(model, UNet2DConditionModel.from_pretrained(tmp_path / "out"))


VIDEOS = {
    "as released, one image token": {},
    "two blocks a transformer": {"transformer_layers_per_block": 2},
    "three levels": {
        "block_out_channels": (32, 64, 64),
        "num_attention_heads": (2, 2, 4),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        "layers_per_block": 2,
    },
}


@pytest.mark.parametrize("changes", VIDEOS.values(), ids=VIDEOS.keys())
@torch.no_grad()
def test_video_unet_in_and_out(changes, tmp_path):
    from diffusers import UNetSpatioTemporalConditionModel

    model = _video(**changes)
    model.save_pretrained(tmp_path / "in")
    network = import_unet(tmp_path / "in")
    assert network.config.vectors == VECTORS
    for text in (1, 5):
        x, c_noise, cond = _video_inputs(text=text)
        torch.testing.assert_close(network(x, c_noise, cond), _public_video(model, x, c_noise, cond), **CLOSE)
    export_unet(network, tmp_path / "out")
    again = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "out")
    _same_tensors(model, again)
    _same_tensors(network, import_unet(tmp_path / "out"))


@torch.no_grad()
def test_gradients_of_the_video_unet_are_the_public_ones(tmp_path):
    model = _video()
    model.save_pretrained(tmp_path)
    network = import_unet(tmp_path)
    x, c_noise, cond = _video_inputs()
    with torch.enable_grad():
        (_public_video(model, x, c_noise, cond) ** 2).mean().backward()
        (network(x, c_noise, cond) ** 2).mean().backward()
    for name in ("conv_in", "conv_out"):
        theirs, ours = getattr(model, name).weight.grad, getattr(network, name).weight.grad
        torch.testing.assert_close(ours, theirs[:, :4] if name == "conv_in" else theirs, rtol=1e-3, atol=1e-5)
    theirs = model.down_blocks[0].attentions[0].time_mixer.mix_factor.grad
    ours = network.down[0].layers[0].attention.time.mix_factor.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    theirs = model.mid_block.resnets[0].time_mixer.mix_factor.grad
    torch.testing.assert_close(network.middle.layers[0].time.mix_factor.grad, theirs, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_image_unet_becomes_a_video_network_that_does_the_same(tmp_path):
    model = _image(use_linear_projection=True)
    model.save_pretrained(tmp_path)
    image, video = import_unet(tmp_path), import_unet(tmp_path, temporal=True)
    x, c_noise, cond = inputs()
    assert video.config.temporal
    assert torch.equal(video(x, c_noise, cond), image(x, c_noise, cond))


EXPORTS = {
    "no numbers": {"vectors": ()},
    "two of the numbers, in another order": {"vectors": ("augment", "fps")},
    "plain residuals instead of the blend": {"conv_mixing": "residual", "attention_mixing": "residual"},
}


@pytest.mark.parametrize("changes", EXPORTS.values(), ids=EXPORTS.keys())
@torch.no_grad()
def test_our_own_video_networks_run_in_diffusers(changes, tmp_path):
    from diffusers import UNetSpatioTemporalConditionModel

    network = tiny(temporal=True, concat_channels=4, **{"vectors": VECTORS, **changes})
    export_unet(network, tmp_path)
    model = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    x, c_noise, cond = _video_inputs()
    ours = dict(cond, vectors=cond["vectors"][:, [VECTORS.index(name) for name in network.config.vectors]])
    torch.testing.assert_close(network(x, c_noise, ours), _public_video(model, x, c_noise, cond), **CLOSE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"conv_mixing": "dirac"}, "conv_mixing 'dirac'"),
        ({"attention_mixing": "relative"}, "attention_mixing 'relative'"),
        ({"vectors": ("brightness",)}, "brightness"),
        ({"ff_multiple": 2}, "ff_multiple 2"),
        ({"pooled_text": True}, "pooled_text True"),
        ({"frame_index": True}, "frame_index True"),
        ({"norm_groups": 16}, "norm_groups 16"),
        ({"context_dim": None}, "context_dim None"),
        ({"temporal": False, "vectors": ("fps",)}, "vectors"),
    ],
)
def test_networks_that_diffusers_does_not_have_are_named(changes, named, tmp_path):
    with pytest.raises(WeightsError, match=named):
        export_unet(tiny(**{"temporal": True, **changes}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_epsilon_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="epsilon"):
        export_unet(tiny(epsilon="svd"), tmp_path)


def test_sharded_half_precision_and_pipeline_folders(tmp_path):
    model = _video()
    model.save_pretrained(tmp_path / "pipe" / "unet", max_shard_size="1MB")
    assert len(list((tmp_path / "pipe" / "unet").glob("*.safetensors"))) > 1
    _same_tensors(import_unet(tmp_path / "pipe"), import_unet(tmp_path / "pipe" / "unet"))
    export_unet(import_unet(tmp_path / "pipe"), tmp_path / "half", dtype=torch.float16)
    half = load_file(tmp_path / "half" / NAME)
    assert {t.dtype for t in half.values()} == {torch.float16}
    network = import_unet(tmp_path / "half")
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.conv_out.weight, half["conv_out.weight"].float())


def test_a_network_can_be_written_over_the_file_it_came_from(tmp_path):
    _video().save_pretrained(tmp_path)
    network = import_unet(tmp_path)
    with torch.no_grad():
        network.conv_out.bias += 1
    export_unet(network, tmp_path)
    _same_tensors(import_unet(tmp_path), network)


def _saved(tmp_path, model=None):
    (model or _video()).save_pretrained(tmp_path)
    return load_file(tmp_path / NAME), json.loads((tmp_path / "config.json").read_text())


def _written(tmp_path, tensors, settings):
    save_file(tensors, tmp_path / NAME)
    (tmp_path / "config.json").write_text(json.dumps(settings))


def test_checkpoints_that_do_not_fit_name_the_tensor_and_the_shapes(tmp_path):
    tensors, settings = _saved(tmp_path)

    def error(tensors=tensors, without=None, **changes):
        _written(tmp_path, tensors, {name: v for name, v in {**settings, **changes}.items() if name != without})
        with pytest.raises(WeightsError) as caught:
            import_unet(tmp_path)
        return str(caught.value)

    assert "conv_in.weight is [32, 8, 3, 3]" in error(block_out_channels=[64, 64], num_attention_heads=[2, 4])
    assert "needs [64, 8, 3, 3]" in error(block_out_channels=[64, 64], num_attention_heads=[2, 4])
    assert "attn2.to_k.weight is [32, 16]" in error(cross_attention_dim=24)
    few = {name: t for name, t in tensors.items() if name != "mid_block.attentions.0.time_mixer.mix_factor"}
    assert "mid_block.attentions.0.time_mixer.mix_factor [1] is missing" in error(few)
    assert "1 tensors have no place" in error({**tensors, "adapter.weight": torch.zeros(2, 3)})
    assert "adapter.weight [2, 3]" in error({**tensors, "adapter.weight": torch.zeros(2, 3)})
    assert "UNet3DConditionModel" in error(_class_name="UNet3DConditionModel")
    assert "config.json has no 'out_channels'" in error(without="out_channels")
    assert "up_block_types" in error(up_block_types=settings["up_block_types"][::-1])


def test_image_unets_of_another_make_are_named(tmp_path):
    tensors, settings = _saved(tmp_path, _image())
    for name, value in (("act_fn", "gelu"), ("class_embed_type", "timestep"), ("addition_embed_type", "text_time")):
        _written(tmp_path, tensors, {**settings, name: value})
        with pytest.raises(WeightsError, match=f"{name} is '{value}'"):
            import_unet(tmp_path)


def test_files_that_are_not_checkpoints_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        import_unet(tmp_path)
    _saved(tmp_path)
    (tmp_path / NAME).write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        import_unet(tmp_path)
    (tmp_path / NAME).unlink()
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match="convert its weights to safetensors"):
        import_unet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read as JSON"):
        import_unet(tmp_path)


def _original_file(network, file):
    """The network as an original single file, written with the rules that are tested here."""
    tensors = network.state_dict()
    if "concat_in.weight" in tensors:
        tensors["conv_in.weight"] = torch.cat([tensors["conv_in.weight"], tensors.pop("concat_in.weight")], 1)
    named = {f"model.diffusion_model.{original_name(k, network.config)}": t.contiguous() for k, t in tensors.items()}
    named["first_stage_model.encoder.conv_in.weight"] = torch.zeros(1)
    save_file(named, file)
    return named


@pytest.mark.parametrize("layers", [1, 2])
def test_original_image_names_are_those_that_diffusers_converts(layers, tmp_path):
    """Our names -> original -> diffusers' own converter -> diffusers' model: the same numbers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model = _image(use_linear_projection=True, layers_per_block=layers)
    model.save_pretrained(tmp_path / "in")
    network = import_unet(tmp_path / "in")
    named = _original_file(network, tmp_path / "sd.safetensors")
    converted = convert_ldm_unet_checkpoint(named, {"layers_per_block": layers})
    theirs = model.state_dict()
    assert converted.keys() == theirs.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in theirs.items())
    again = import_unet(tmp_path / "sd.safetensors", heads=4)
    assert again.config == network.config
    _same_tensors(network, again)


# Names as in the released files of Stable Video Diffusion, with what they are in diffusers' layout
RELEASED = {
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "label_emb.0.0.weight": "add_embedding.linear_1.weight",
    "input_blocks.0.0.weight": "conv_in.weight",
    "input_blocks.1.0.in_layers.2.weight": "down_blocks.0.resnets.0.spatial_res_block.conv1.weight",
    "input_blocks.1.0.time_stack.out_layers.3.weight": "down_blocks.0.resnets.0.temporal_res_block.conv2.weight",
    "input_blocks.1.0.time_stack.emb_layers.1.bias": "down_blocks.0.resnets.0.temporal_res_block.time_emb_proj.bias",
    "input_blocks.1.0.time_mixer.mix_factor": "down_blocks.0.resnets.0.time_mixer.mix_factor",
    "input_blocks.2.1.time_stack.0.ff_in.net.0.proj.weight": (
        "down_blocks.0.attentions.1.temporal_transformer_blocks.0.ff_in.net.0.proj.weight"
    ),
    "input_blocks.2.1.time_stack.0.norm_in.weight": "down_blocks.0.attentions.1.temporal_transformer_blocks.0.norm_in.weight",
    "input_blocks.2.1.time_pos_embed.2.weight": "down_blocks.0.attentions.1.time_pos_embed.linear_2.weight",
    "input_blocks.2.1.time_mixer.mix_factor": "down_blocks.0.attentions.1.time_mixer.mix_factor",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut.weight",
    "middle_block.1.transformer_blocks.0.attn2.to_out.0.bias": (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias"
    ),
    "middle_block.2.time_stack.in_layers.0.bias": "mid_block.resnets.1.temporal_res_block.norm1.bias",
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",  # a level without attention
    "output_blocks.3.1.proj_in.weight": "up_blocks.1.attentions.0.proj_in.weight",
    "out.0.weight": "conv_norm_out.weight",
    "out.2.bias": "conv_out.bias",
}


def test_original_video_names_are_the_released_ones(tmp_path):
    from video_model.public.names import diffusers_name

    network = tiny(temporal=True, concat_channels=4, vectors=VECTORS, layers=2, epsilon="sd")
    names = [name for name in network.state_dict() if not name.startswith("concat_in")]
    found = {original_name(name, network.config): diffusers_name(name, network.config) for name in names}
    assert len(found) == len(names) == len(set(found.values()))
    for original, public in RELEASED.items():
        assert found[original] == public
    _original_file(network, tmp_path / "svd.safetensors")
    again = import_unet(tmp_path / "svd.safetensors", heads=(2, 4))
    assert again.config == network.config
    _same_tensors(network, again)


def test_a_single_file_of_something_else_is_named(tmp_path):
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="original checkpoint of Stable Diffusion"):
        import_unet(tmp_path / "other.safetensors")


def _companions():
    from diffusers import AutoencoderKLTemporalDecoder
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1, latent_channels=4
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    size = {"height": 224, "width": 224}
    return vae, CLIPVisionModelWithProjection(vision).eval(), CLIPImageProcessor(size=size, crop_size=size)


@torch.no_grad()
def test_exported_pipeline_runs_in_diffusers_and_makes_what_our_network_makes(tmp_path):
    from diffusers import StableVideoDiffusionPipeline

    network = tiny(temporal=True, concat_channels=4, vectors=VECTORS)
    vae, vision, processor = _companions()
    vae.save_pretrained(tmp_path / "vae")  # one companion as a folder, the others as objects
    export_pipeline(network, tmp_path / "pipe", tmp_path / "vae", vision, processor, frames=3)
    pipe = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.sigma_max == 700.0
    # At 700 float32 has four digits left of a latent; at 10 the two samplers can be compared more closely
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, sigma_max=10.0)
    picture = Image.fromarray(
        torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    )
    start = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    calls = []  # a hook that returned anything would change the call
    hook = pipe.unet.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    made = pipe(
        picture, 16, 16, num_frames=3, num_inference_steps=2, fps=7, motion_bucket_id=127, latents=start, output_type="latent",
        min_guidance_scale=1.0, max_guidance_scale=3.0, noise_aug_strength=0.02, generator=torch.Generator().manual_seed(2),
    ).frames  # fmt: skip
    hook.remove()
    video = pipe.decode_latents(made, 3, 3)
    assert video.shape == (1, 3, 3, 16, 16) and video.isfinite().all()

    # The same two Euler steps with our network: EDM's c_skip, c_out, c_in and guidance by frame, written out
    args, kwargs = calls[0]
    concat, text = args[0][1:, :, 4:], kwargs["encoder_hidden_states"][1:]
    vectors = torch.tensor([[7.0, 127.0, 0.02]])
    cond = {"text": text, "concat": concat, "vectors": vectors}
    null = {"text": torch.zeros_like(text), "concat": torch.zeros_like(concat), "vectors": vectors}
    pipe.scheduler.set_timesteps(2)
    sigmas, scale = pipe.scheduler.sigmas, torch.linspace(1.0, 3.0, 3)[None, :, None, None, None]
    x = start * pipe.scheduler.init_noise_sigma
    for sigma, following in itertools.pairwise(sigmas):
        c_noise = (sigma.log() / 4)[None]
        outs = [network(x / (sigma**2 + 1) ** 0.5, c_noise, given) for given in (null, cond)]
        f = outs[0] + scale * (outs[1] - outs[0])
        clean = x / (sigma**2 + 1) - f * sigma / (sigma**2 + 1) ** 0.5
        x = x + (x - clean) / sigma * (following - sigma)
    assert made.std() > 0.1
    torch.testing.assert_close(made, x, rtol=1e-4, atol=1e-4)


def test_pipelines_that_would_not_run_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"conditioning.first_frame.mask: false"):
        export_pipeline(tiny(temporal=True, concat_channels=5), tmp_path, "a", "b", "c")
    with pytest.raises(WeightsError, match="inflate the image network"):
        export_pipeline(tiny(concat_channels=4), tmp_path, "a", "b", "c")
    with pytest.raises(WeightsError, match="vae must be a folder or an object"):
        export_pipeline(tiny(temporal=True, concat_channels=4), tmp_path, tmp_path / "none", "b", "c")


def test_weights_need_no_diffusers(tmp_path):
    """In a process where diffusers cannot be imported, a UNet goes out and comes in."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from video_model.networks.unet import SpaceTimeUNet, UNetConfig\n"
        "from video_model.public.weights import export_unet, import_unet\n"
        f"network = SpaceTimeUNet(UNetConfig(**{TINY!r}, temporal=True))\n"
        f"print(import_unet(export_unet(network, {str(tmp_path / 'out')!r})).config.temporal)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
