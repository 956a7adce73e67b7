"""Public UNets of shapes that no release has: the same numbers as diffusers', in and out."""

import pytest
import torch

from tests.video_model.networks import inputs, tiny
from tests.video_model.test_weights import _image, _public_image, _public_video, _same_tensors, _saved, _video, _written
from video_model.public.weights import WeightsError, export_unet, import_unet


def _within(ours, public, relative=2e-5):
    """Within 2e-5 of the largest number of the output."""
    assert (ours - public).abs().max() <= relative * public.abs().max()


CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def _levels(*kinds, suffix="2D"):
    """down_block_types and up_block_types of levels that have attention or not."""
    names = [CROSS if kind else PLAIN for kind in kinds]
    down = [name.replace("2D", suffix) for name, _ in names]
    return {"down_block_types": tuple(down), "up_block_types": tuple(n.replace("2D", suffix) for _, n in names[::-1])}


UNEVEN_IMAGES = {
    "widths and heads that follow no rule": {"block_out_channels": (32, 96, 64), "attention_head_dim": (2, 3, 4)},
    "a depth for each level": {"transformer_layers_per_block": [1, 3, 2]},
    "other depths on the way up": {
        "transformer_layers_per_block": [1, 2, 2],
        "reverse_transformer_layers_per_block": [2, 1, 3],
    },
    "layers by level": {"layers_per_block": [1, 3, 2]},
    "one level": {"block_out_channels": (32,), **_levels(True)},
    "four levels, the last without attention": {
        "block_out_channels": (32, 64, 96, 96),
        "attention_head_dim": (2, 4, 3, 3),
        **_levels(True, True, True, False),
    },
    "attention in the last level alone": _levels(False, False, True),
    "the text's width by level, all alike": {"cross_attention_dim": (16, 16, 16)},
    "groups of eight": {"norm_num_groups": 8, "block_out_channels": (24, 40, 64), "attention_head_dim": (2, 4, 4)},
}


@pytest.mark.parametrize("changes", UNEVEN_IMAGES.values(), ids=UNEVEN_IMAGES.keys())
@torch.no_grad()
def test_uneven_image_unets_in_and_out(changes, tmp_path):
    from diffusers import UNet2DConditionModel

    model = _image(**changes)
    model.save_pretrained(tmp_path / "in")
    network = import_unet(tmp_path / "in")
    x, c_noise, cond = inputs(frames=1)
    public = _public_image(model, x, c_noise, cond)
    _within(network(x, c_noise, cond), public)
    export_unet(network, tmp_path / "out")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "out")
    _same_tensors(model, again)
    assert torch.equal(_public_image(again, x, c_noise, cond), public)


VIDEO_LEVELS = {name: _levels(*kinds, suffix="SpatioTemporal") for name, kinds in {
    "two": (True, False), "three": (True, True, False), "four": (True, True, True, False), "last": (False, True)
}.items()}  # fmt: skip
UNEVEN_VIDEOS = {
    "widths and heads that follow no rule": {
        "block_out_channels": (32, 96, 64),
        "num_attention_heads": (2, 3, 4),
        **VIDEO_LEVELS["three"],
    },
    "layers and heads by level": {"layers_per_block": (1, 3), "num_attention_heads": (4, 2)},
    "a depth for each level": {
        "block_out_channels": (32, 64, 64),
        "num_attention_heads": (2, 4, 4),
        "transformer_layers_per_block": (1, 2, 3),
        **VIDEO_LEVELS["three"],
    },
    "one level": {
        "block_out_channels": (32,),
        "num_attention_heads": (2,),
        **_levels(True, suffix="SpatioTemporal"),
    },
    "four levels, the last without attention": {
        "block_out_channels": (32, 64, 96, 96),
        "num_attention_heads": (2, 4, 3, 3),
        **VIDEO_LEVELS["four"],
    },
    "attention in the last level alone": VIDEO_LEVELS["last"],
    "the text's width by level, all alike": {"cross_attention_dim": (16, 16)},
}


@pytest.mark.parametrize("changes", UNEVEN_VIDEOS.values(), ids=UNEVEN_VIDEOS.keys())
@torch.no_grad()
def test_uneven_video_unets_in_and_out(changes, tmp_path):
    """With one frame, an odd number and the released model's 14."""
    from diffusers import UNetSpatioTemporalConditionModel

    model = _video(**changes)
    model.save_pretrained(tmp_path / "in")
    network = import_unet(tmp_path / "in")
    for frames in (1, 3, 14):
        x, c_noise, cond = inputs(frames=frames)
        cond |= {"concat": x.flip(1), "vectors": torch.tensor([[7.0, 127.0, 0.02], [24.0, 30.0, 0.1]])}
        _within(network(x, c_noise, cond), _public_video(model, x, c_noise, cond))
    export_unet(network, tmp_path / "out")
    _same_tensors(model, UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "out"))


def test_shapes_that_are_not_known_here_are_refused_with_the_reason(tmp_path):
    tensors, settings = _saved(tmp_path, _image())
    for name, value, reason in (
        ("cross_attention_dim", [16, 24, 16], "differs by level"),
        ("transformer_layers_per_block", [[1, 2], 1, 1], "differs within a level"),
        ("reverse_transformer_layers_per_block", [1, [1, 2, 1], 1], "differs within a level"),
        ("attention_head_dim", [3, 4, 4], "divisible by .* heads 3"),
    ):
        _written(tmp_path, tensors, {**settings, name: value})
        with pytest.raises(WeightsError, match=f"{reason}"):
            import_unet(tmp_path)
    with pytest.raises(WeightsError, match="no up_transformer_layers"):
        export_unet(tiny(temporal=True, up_transformer_layers=(2, 1)), tmp_path / "out")
