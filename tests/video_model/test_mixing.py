import pytest
import torch

from tests.video_model.networks import inputs, randomised, tiny
from video_model.networks.layers import Given
from video_model.networks.mixers import (
    ATTENTION_MIXERS,
    CONV_MIXERS,
    AttentionPlace,
    ConvPlace,
    attention_mixer,
    conv_mixer,
)
from video_model.networks.mixers.convolution import TimeConv
from video_model.networks.mixers.relative import distance_buckets
from video_model.networks.unet import inflate

CONV, ATTENTION = [mixer.name for mixer in CONV_MIXERS], [mixer.name for mixer in ATTENTION_MIXERS]
CHANNELS, EMB = 32, 16


def _mixer(kind, where):
    torch.manual_seed(0)
    if where == "conv":
        return conv_mixer(kind, ConvPlace(CHANNELS, EMB, 32, 1e-5))
    return attention_mixer(kind, AttentionPlace(CHANNELS, 2, None, 1, 4))


def _given(frames, rows=2, videos=None):
    emb = torch.randn(rows, EMB, generator=torch.Generator().manual_seed(1))
    if videos is None:
        return Given(frames, emb)
    return Given(frames, emb, videos=videos, video=Given(frames, emb[videos]) if len(videos) else None)


MIXERS = [(kind, "conv") for kind in CONV] + [(kind, "attention") for kind in ATTENTION]


@pytest.mark.parametrize(("kind", "where"), MIXERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_mixer_is_the_identity(kind, where, dtype):
    mixer = _mixer(kind, where).to(dtype)
    x = torch.randn(2, 5, 6, CHANNELS).to(dtype)
    given = _given(5)
    assert torch.equal(mixer(x, given._replace(emb=given.emb.to(dtype)), 0), x)


@pytest.mark.parametrize("conv", CONV)
@pytest.mark.parametrize("attention", ATTENTION)
def test_network_inflated_with_any_mixers_is_the_image_network(conv, attention):
    image = tiny()
    video = inflate(image, conv_mixing=conv, attention_mixing=attention)
    x, c_noise, cond = inputs()
    assert torch.equal(video(x, c_noise, cond), image(x, c_noise, cond))


@pytest.mark.parametrize(("kind", "where"), [pair for pair in MIXERS if pair[0] != "none"])
def test_trained_mixer_mixes_frames_of_videos_and_leaves_images_alone(kind, where):
    mixer = randomised(_mixer(kind, where))
    x = torch.randn(3, 5, 6, CHANNELS)
    out = mixer(x, _given(5, 3, torch.tensor([1])), 0)
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    other = x.clone()
    other[1, 3] += torch.randn(6, CHANNELS)
    moved = (mixer(other, _given(5, 3, torch.tensor([1])), 0) - out)[1].abs().amax((1, 2))
    assert moved[2] > 1e-3 and moved[4] > 1e-3  # the neighbours of the frame that changed
    assert torch.equal(mixer(x, _given(5, 3, torch.tensor([], dtype=torch.long)), 0), x)


def test_alpha_blends_spatial_and_temporal_path():
    """Stable Video Diffusion's blend: a * spatial + (1 - a) * temporal, a = sigmoid(mix)."""
    mixer = randomised(_mixer("alpha", "conv"))
    x, given = torch.randn(2, 5, 6, CHANNELS), _given(5)
    with torch.no_grad():
        mixer.mix_factor.fill_(-50.0)
        temporal = mixer(x, given)
        for a in (0.25, 0.9):
            mixer.mix_factor.fill_(torch.tensor(a).logit())
            torch.testing.assert_close(mixer(x, given), a * x + (1 - a) * temporal)
        mixer.mix_factor.fill_(200.0)
        assert torch.equal(mixer(x, given), x)


def test_time_convolution_is_the_sum_over_three_frames():
    """As torch's convolution over time of each position by itself."""
    conv, public = TimeConv(CHANNELS), torch.nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
    public.load_state_dict({"weight": conv.weight[..., 0], "bias": conv.bias})
    x = torch.randn(2, 4, 6, CHANNELS)
    expected = torch.stack([public(x[:, :, place].mT).mT for place in range(6)], 2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def test_relative_attention_knows_distance_and_side_not_place():
    """With keys that do not differ the weights are the bias alone, so a step response tells them."""
    mixer = _mixer("relative", "attention")
    attention = mixer.attentions[0]
    with torch.no_grad():
        attention.k.weight.zero_()
        attention.v.weight.copy_(torch.eye(CHANNELS))
        attention.out.weight.copy_(torch.eye(CHANNELS))
        mixer.norms[0].bias.zero_()
        mixer.bias[0, :, 1] = 50.0  # the frame before
    x = torch.randn(1, 6, 3, CHANNELS)
    out = mixer(x, _given(6, 1), 0) - x
    normed = mixer.norms[0](x)
    torch.testing.assert_close(out[:, 1:], normed[:, :-1], rtol=1e-4, atol=1e-4)


def test_distances_fall_into_32_buckets():
    buckets = distance_buckets(200)
    assert buckets.min() == 0 and buckets.max() == 31
    assert buckets.diagonal().eq(0).all()
    assert buckets[10, 3] == 7 and buckets[3, 10] == 23  # seven before, seven after
    assert buckets[0, 150] == buckets[0, 199] == 31


def test_mixers_are_told_apart_from_spatial_layers_by_name():
    image, video = tiny(), inflate(tiny(), frame_index=True)
    new = {name for name, _ in video.named_parameters()} - {name for name, _ in image.named_parameters()}
    assert new == set(video.temporal_names())
    assert image.temporal_names() == []


def test_joint_attention_sees_all_places_of_all_frames():
    mixer = randomised(_mixer("joint", "attention"))
    x = torch.randn(1, 4, 6, CHANNELS)
    other = x.clone()
    other[0, 1, 2] += torch.randn(CHANNELS)
    moved = (mixer(other, _given(4, 1), 0) - mixer(x, _given(4, 1), 0))[0].abs().amax(-1)
    assert moved.min() > 1e-6  # [T, N]
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    places = x.flatten(1, 2)[:, shuffled].view(x.shape)
    mixed = mixer(x, _given(4, 1), 0).flatten(1, 2)[:, shuffled].view(x.shape)
    torch.testing.assert_close(mixer(places, _given(4, 1), 0), mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [None, (4, 4), (10, 4, 4), (2, 1, 1, 4)])
def test_attention_in_parts_is_the_same(bias):
    """As a GPU needs it where positions times heads are more than its grid takes."""
    from video_model.networks.layers import attend, in_parts

    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 10, 4, 8, generator=draw) for _ in range(3))
    added = None if bias is None else torch.randn(bias, generator=draw)
    torch.testing.assert_close(in_parts(q, k, v, added, 3), attend(q, k, v, added))
