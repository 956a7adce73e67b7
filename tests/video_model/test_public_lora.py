"""LoRA goes to diffusers and comes back: through peft, their network computes what ours does."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.video_model.networks import inputs, tiny
from tests.video_model.test_weights import VECTORS, _public_image, _public_video, _video_inputs
from video_model.networks.lora import LoraShape, add_lora, layers_for, lora_shapes, merge, merged_state
from video_model.public.lora import METADATA, NAME, export_lora, import_lora
from video_model.public.weights import WeightsError, export_unet, import_unet

VIDEO = dict(temporal=True, concat_channels=4, vectors=VECTORS)
UNEVEN = dict(channels=(32, 96, 64), heads=(4, 3, 2), layers=(1, 2, 1), transformer_layers=(1, 2, 1), attention=(True, True, False))  # fmt: skip
NETWORKS = {
    "attention of a video network": (VIDEO, ["attention"]),
    "temporal layers of uneven widths, heads and depths": (VIDEO | UNEVEN, ["temporal", "attention"]),
    "all but the ends of a video network": (VIDEO, ["down.*", "middle.*", "up.*"]),
    "plain residuals": (VIDEO | {"conv_mixing": "residual", "attention_mixing": "residual"}, ["temporal"]),
    "Stable Diffusion 2.x": ({"epsilon": "sd"}, ["attention", "*.ff.*"]),
    "Stable Diffusion 1.x, projections that are convolutions": (
        UNEVEN | {"epsilon": "sd", "linear_projection": False}, ["attention", "*.proj_*", "*.conv1", "*.skip", "conv_in"],
    ),
}  # fmt: skip


def with_lora(changes, targets, seed=5):
    """A tiny network with a random LoRA whose ranks and alphas differ by layer."""
    network = tiny(**changes)
    names = layers_for(network, targets)
    assert names
    add_lora(network, {name: LoraShape(2 + i % 3, 4.0 if i % 2 else 3.0) for i, name in enumerate(names)})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def in_diffusers(network, file, folder):
    """diffusers' network with the base's weights, and the file loaded into it through peft."""
    from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    if not network.config.temporal:
        model = UNet2DConditionModel.from_pretrained(folder)
        model.load_lora_adapter(file, prefix="unet", use_safetensors=True)  # else without the alphas
        return model
    model = UNetSpatioTemporalConditionModel.from_pretrained(folder)
    with safe_open(file, "pt") as content:
        settings = json.loads(content.metadata()[METADATA])
    settings = {key.removeprefix("unet."): value for key, value in settings.items()}
    tensors = {key.removeprefix("unet."): value for key, value in load_file(file).items()}
    inject_adapter_in_model(LoraConfig(**settings), model)
    assert not set_peft_model_state_dict(model, tensors).unexpected_keys
    return model


@pytest.mark.parametrize(("changes", "targets"), NETWORKS.values(), ids=NETWORKS.keys())
@torch.no_grad()
def test_lora_out_computes_the_same_in_diffusers_and_comes_back_exactly(changes, targets, tmp_path):
    plain, network = tiny(**changes), with_lora(changes, targets)
    export_unet(plain, tmp_path / "base")
    file = export_lora(network, tmp_path / "lora")
    model = in_diffusers(network, file, tmp_path / "base")
    x, c_noise, cond = _video_inputs() if network.config.temporal else inputs()
    public = _public_video if network.config.temporal else _public_image
    ours = network(x, c_noise, cond)
    theirs = public(model, x, c_noise, cond)
    print(
        f"difference {float((ours - theirs).abs().max()):.1e}, of the LoRA {float((ours - plain(x, c_noise, cond)).std()):.2g}"
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    assert (ours - plain(x, c_noise, cond)).std() > 0.01  # it is not for want of an effect

    found = import_lora(tmp_path / "lora", plain)
    assert found.shapes == lora_shapes(network)
    add_lora(plain, found.shapes)
    plain.load_state_dict(found.tensors, strict=False)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in network.state_dict().items())

    export_unet(network, tmp_path / "merged")  # as any network: LoRA is in the weights
    merged = import_unet(tmp_path / "merged")
    torch.testing.assert_close(merged(x, c_noise, cond), ours, rtol=0, atol=1e-5)


def test_a_fresh_lora_changes_nothing_and_a_merged_one_is_gone():
    plain = tiny(**VIDEO)
    x, c_noise, cond = _video_inputs()
    names = [name for name, _ in plain.named_parameters()]
    with torch.no_grad():
        before = plain(x, c_noise, cond)
        add_lora(plain, {name: LoraShape(3, 6.0) for name in layers_for(plain, ["attention", "temporal"])})
        assert torch.equal(plain(x, c_noise, cond), before)
        made = with_lora(VIDEO, ["attention", "temporal"])
        after, state = made(x, c_noise, cond), merged_state(made)
        merge(made)
        torch.testing.assert_close(made(x, c_noise, cond), after, rtol=0, atol=1e-6)
    assert [name for name, _ in made.named_parameters()] == names == list(state) and not lora_shapes(made)


def test_what_targets_mean():
    network = tiny(**VIDEO)
    attention = layers_for(network, ["attention"])
    assert {name.rpartition(".")[2] for name in attention} == {"q", "k", "v", "out"}
    kinds = ("attention.blocks.0.attention", "attention.blocks.0.text", "time.blocks.0.attention", "time.blocks.0.text")
    assert all(any(f"{kind}.q" in name for name in attention) for kind in kinds)
    temporal = layers_for(network, ["temporal"])
    assert "down.0.layers.0.time.conv1" in temporal and all(".time." in name for name in temporal)
    assert layers_for(network, ["down.0.*.ff.up", "conv_out"]) == [
        "down.0.layers.0.attention.blocks.0.ff.up", "down.0.layers.0.attention.time.blocks.0.ff.up", "conv_out",
    ]  # fmt: skip
    assert layers_for(network, ["norm_out", "nose"]) == []


def test_files_that_do_not_fit_name_the_tensor_and_the_reason(tmp_path):
    network = with_lora(VIDEO, ["attention"])
    file = export_lora(network, tmp_path)
    tensors = load_file(file)

    def error(tensors, metadata=None, network=None):
        save_file(tensors, file, metadata)
        with pytest.raises(WeightsError) as caught:
            import_lora(file, network or tiny(**VIDEO))
        return str(caught.value)

    first = min(key for key in tensors if key.endswith("lora_A.weight"))
    assert "unet.nose.lora_A.weight has no place" in error({**tensors, "unet.nose.lora_A.weight": torch.zeros(2, 3)})
    assert "text_encoder.q.lora_A.weight has no place" in error({"text_encoder.q.lora_A.weight": torch.zeros(2, 3)})
    assert "has no lora_A" in error({key: value for key, value in tensors.items() if key != first})
    assert "[2, 9]" in error({**tensors, first: torch.zeros(2, 9)}) and NAME in error(
        {**tensors, first: torch.zeros(2, 9)}
    )
    assert "was made with use_dora" in error(tensors, {METADATA: json.dumps({"unet.use_dora": True})})
    assert "holds no LoRA" in error({})
    assert "another model" in error(tensors, network=tiny(**VIDEO | {"channels": (64, 96), "heads": (2, 4)}))
    (tmp_path / NAME).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        import_lora(tmp_path, network)


def test_without_metadata_alpha_is_the_rank_and_older_names_are_read(tmp_path):
    network = with_lora(VIDEO, ["attention"])
    tensors = load_file(export_lora(network, tmp_path))
    older = {key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value for key, value in tensors.items()}
    for named in (tensors, older):
        save_file(named, tmp_path / NAME)
        found = import_lora(tmp_path, tiny(**VIDEO))
        assert all(shape.alpha == shape.rank for shape in found.shapes.values())
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.tensors.items())


def test_layers_that_diffusers_has_in_another_form_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"conv_in: diffusers has this layer in another form"):
        export_lora(with_lora(VIDEO, ["conv_in"]), tmp_path)
    with pytest.raises(WeightsError, match="no LoRA: leave --lora out"):
        export_lora(tiny(**VIDEO), tmp_path)
