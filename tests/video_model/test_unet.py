import pytest
import torch
from pydantic import ValidationError

from tests.video_model.networks import TINY, inputs, randomised, tiny
from video_model.networks.embeddings import FrameEmbedding, PooledText, tilted
from video_model.networks.unet import SpaceTimeUNet, inflate
from video_model.networks.unet_config import UNetConfig

CLOSE = dict(rtol=1e-4, atol=1e-5)


BOTH = pytest.mark.parametrize("options", [{}, {"pooled_text": True, "frame_index": True, "attention_mixing": "joint"}])


def test_one_number_holds_for_every_level():
    config = UNetConfig(channels=(32, 64, 64), layers=3, attention=False, heads=[4])
    assert config.layers == (3, 3, 3)
    assert config.attention == (False, False, False)
    assert config.heads == (4, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"channels": (40, 64)}, "channels 40"), ({"layers": (1, 2, 3)}, "layers"), ({"chanels": (32,)}, "chanels")],
)
def test_config_names_what_is_wrong(wrong, named):
    with pytest.raises(ValidationError, match=named):
        UNetConfig(**{**TINY, **wrong})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": (32,), "attention": True, "heads": 2},
        {"channels": (32, 32, 64), "attention": (False, True, False), "heads": 2, "layers": (2, 1, 1)},
        {"attention": False, "middle_attention": False, "context_dim": None},
        {"transformer_layers": 2},
        {"ff_multiple": 2},
    ],
)
@pytest.mark.parametrize("frames", [1, 3])
def test_output_has_the_shape_of_the_input(changes, frames):
    network = tiny(temporal=True, **changes)
    x, c_noise, cond = inputs(frames=frames)
    out = network(x[..., :4], c_noise, cond if network.config.context_dim else {})  # 8 x 4
    assert out.shape == (2, frames, 4, 8, 4)
    assert out.std() > 0.1


def test_sizes_and_conditions_that_do_not_fit_are_named():
    network = tiny(concat_channels=2, vectors=("fps",))
    x, c_noise, cond = inputs()
    with pytest.raises(ValueError, match=r"multiples of 2.*got 7 x 8"):
        network(x[..., 1:, :], c_noise, cond)
    with pytest.raises(ValueError, match=r"x must be \[B, T, 4, h, w\]"):
        network(x[:, :, :3], c_noise, cond)
    for wrong in (
        {"text": torch.zeros(2, 5, 17)},
        {"text": torch.zeros(2, 4, 5, 16)},
        {"concat": torch.zeros(2, 3, 1, 8, 8)},
        {"vectors": torch.zeros(2, 2)},
        {"images": torch.zeros(3, dtype=torch.bool)},
        {"text_mask": torch.ones(2, 4, dtype=torch.bool)},
    ):
        with pytest.raises(ValueError, match=f"cond.'{next(iter(wrong))}'"):
            network(x, c_noise, {**cond, **wrong})


def test_image_network_sees_each_frame_by_itself():
    network = tiny()
    x, c_noise, cond = inputs(rows=2, frames=3)
    together = network(x, c_noise, cond)
    for row in range(2):
        for frame in range(3):
            alone = network(x[row, frame][None, None], c_noise[row : row + 1], {"text": cond["text"][row : row + 1]})
            torch.testing.assert_close(together[row, frame], alone[0, 0], **CLOSE)


def test_text_by_frame_equals_the_frames_as_images():
    image, video = tiny(), tiny(temporal=True)
    x, c_noise, _ = inputs(rows=2, frames=3)
    text = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[1, 1] = False  # a frame without any text
    apart = image(
        x.flatten(0, 1)[:, None],
        c_noise.repeat_interleave(3),
        {"text": text.flatten(0, 1), "text_mask": mask.flatten(0, 1)},
    )
    by_frame = {"text": text, "text_mask": mask}
    torch.testing.assert_close(image(x, c_noise, by_frame), apart.view_as(x), **CLOSE)
    # and so do rows of images in a video network
    video.load_state_dict(image.state_dict(), strict=False)
    images = {**by_frame, "images": torch.tensor([True, True])}
    torch.testing.assert_close(video(x, c_noise, images), apart.view_as(x), **CLOSE)


@pytest.mark.parametrize(
    ("by_frame", "options"), [(False, {}), (True, {}), (False, {"pooled_text": True, "frame_index": True})]
)
def test_padding_never_changes_the_output(by_frame, options):
    network = tiny(temporal=True, **options)
    x, c_noise, cond = inputs()
    text = cond["text"]
    padded = torch.cat([text, torch.full((2, 3, 16), 1e4)], 1)
    mask = torch.arange(8).expand(2, 8) < 5
    if by_frame:
        text, padded, mask = (t[:, None].repeat_interleave(3, 1) for t in (text, padded, mask))
    plain = network(x, c_noise, {"text": text})
    torch.testing.assert_close(network(x, c_noise, {"text": padded, "text_mask": mask}), plain, **CLOSE)
    other = torch.where(mask[..., None], padded, torch.nan)
    torch.testing.assert_close(network(x, c_noise, {"text": other, "text_mask": mask}), plain, **CLOSE)
    assert (network(x, c_noise, {"text": padded}) - plain).abs().max() > 1e-2  # without the mask it would


@BOTH
def test_no_text_is_one_zero_state(options):
    network = tiny(temporal=True, **options)
    x, c_noise, cond = inputs()
    missing = network(x, c_noise, {})
    zeros = network(x, c_noise, {"text": torch.zeros_like(cond["text"])})
    masked = network(x, c_noise, {**cond, "text_mask": torch.zeros(2, 5, dtype=torch.bool)})
    torch.testing.assert_close(zeros, missing, **CLOSE)
    torch.testing.assert_close(masked, missing, **CLOSE)
    assert (network(x, c_noise, cond) - missing).abs().max() > 1e-3


def test_vectors_that_are_not_given_have_no_value():
    network = tiny(vectors=("fps", "motion"))
    x, c_noise, cond = inputs()
    values = torch.tensor([[8.0, 2.0], [24.0, 5.0]])

    def out(vectors, mask=None):
        given = {"vectors": vectors} if mask is None else {"vectors": vectors, "vectors_mask": mask}
        return network(x, c_noise, {**cond, **given})

    mask = torch.tensor([[True, False], [True, True]])
    dropped = out(values, mask)
    assert torch.equal(dropped, out(torch.tensor([[8.0, 77.0], [24.0, 5.0]]), mask))
    assert torch.equal(dropped, out(torch.tensor([[8.0, torch.nan], [24.0, 5.0]])))
    assert not torch.equal(dropped[0], out(values)[0])
    assert torch.equal(dropped[1], out(values)[1])
    assert torch.equal(out(values, torch.zeros(2, 2, dtype=torch.bool)), network(x, c_noise, cond))


def test_concat_that_is_missing_is_zeros():
    network = tiny(concat_channels=3)
    x, c_noise, cond = inputs()
    concat = torch.randn(2, 3, 3, 8, 8)
    assert torch.equal(network(x, c_noise, cond), network(x, c_noise, {**cond, "concat": torch.zeros_like(concat)}))
    assert not torch.equal(network(x, c_noise, cond), network(x, c_noise, {**cond, "concat": concat}))


def test_frames_of_a_video_see_each_other_and_samples_do_not():
    network = tiny(temporal=True)
    x, c_noise, cond = inputs(rows=2, frames=3)
    out = network(x, c_noise, cond)
    changed = x.clone()
    changed[0, 2] += 1
    other = network(changed, c_noise, cond)
    assert (other[0, 0] - out[0, 0]).abs().max() > 1e-4
    assert torch.equal(other[1], out[1])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frames", [1, 4])
@BOTH
def test_inflated_network_is_the_image_network_to_the_bit(frames, autocast, options):
    image = tiny(**options)
    video = inflate(image, concat_channels=5, vectors=("fps", "motion"))
    x, c_noise, cond = inputs(frames=frames)
    more = {"concat": torch.randn(2, frames, 5, 8, 8), "vectors": torch.tensor([[8.0, 3.0], [24.0, 9.0]])}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(video(x, c_noise, {**cond, **more}), image(x, c_noise, cond))


def test_inflating_cannot_change_what_the_image_network_has():
    with pytest.raises(ValueError, match=r"inflating cannot change .*channels"):
        inflate(tiny(), channels=(32, 32))


@BOTH
def test_rows_of_images_equal_the_image_network_beside_videos(options):
    image = tiny(**options)
    video = randomised(inflate(image), seed=5)
    video.load_state_dict(image.state_dict(), strict=False)
    x, c_noise, cond = inputs(rows=3)
    flags = torch.tensor([True, False, True])
    out, reference = video(x, c_noise, {**cond, "images": flags}), image(x, c_noise, cond)
    assert torch.equal(out[0], reference[0]) and torch.equal(out[2], reference[2])
    assert (out[1] - reference[1]).abs().max() > 1e-2
    torch.testing.assert_close(out[1:2], video(x[1:2], c_noise[1:2], {"text": cond["text"][1:2]}), **CLOSE)


@BOTH
def test_images_beside_a_video_leave_it_as_it_is(options):
    video = tiny(temporal=True, **options)
    x, c_noise, cond = inputs(rows=3)
    flags = torch.tensor([True, False, True])
    out = video(x, c_noise, {**cond, "images": flags})
    other = x.clone()
    other[0] += 1
    assert torch.equal(video(other, c_noise, {**cond, "images": flags})[1], out[1])


def _gradients(network, checkpointing):
    network.checkpointing = checkpointing
    network.zero_grad()
    x, c_noise, cond = inputs(rows=2)
    x.requires_grad_()
    loss = network(x, c_noise, {**cond, "images": torch.tensor([False, True])}).square().mean()
    loss.backward()
    return {"x": x.grad, **{name: p.grad for name, p in network.named_parameters()}}


@pytest.mark.parametrize("kinds", [("alpha", "alpha"), ("dirac", "relative"), ("residual", "joint")])
def test_checkpointing_gives_the_same_gradients(kinds):
    options = {"pooled_text": True, "frame_index": True} if kinds[1] == "joint" else {}
    network = tiny(temporal=True, conv_mixing=kinds[0], attention_mixing=kinds[1], **options)
    plain, checkpointed = _gradients(network, False), _gradients(network, True)
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_checkpointing_keeps_fewer_tensors():
    """Counted, not timed: bytes that autograd keeps from the forward pass."""
    network = tiny(temporal=True)
    kept = {}
    for checkpointing in (False, True):
        network.checkpointing, seen = checkpointing, {}
        x, c_noise, cond = inputs(rows=2, frames=4)
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def keep(tensor, seen=seen, own=own):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, c_noise, cond)
        kept[checkpointing] = sum(size for size, _ in seen.values())
    assert kept[True] < 0.3 * kept[False]


@BOTH
def test_gradient_reaches_every_parameter(options):
    network = tiny(temporal=True, concat_channels=2, vectors=("fps",), transformer_layers=2, **options)
    x, c_noise, cond = inputs()
    more = {"concat": torch.randn(2, 3, 2, 8, 8), "vectors": torch.tensor([[8.0], [3.0]])}
    network(x, c_noise, {**cond, **more}).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@BOTH
def test_a_fresh_network_learns_in_all_its_parts(options):
    """Layers that start at zero hide others from the gradient for a step or two, not for longer."""
    torch.manual_seed(0)
    network = SpaceTimeUNet(UNetConfig(**TINY, temporal=True, **options))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    x, c_noise, cond = inputs(frames=4)
    losses = []
    for _ in range(6):
        loss = (network(x, c_noise, cond) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_frame_knows_its_index_and_what_the_text_says_of_it():
    """Frames that are all alike, and no mixer: what differs between them is their frame-time embedding, which the text changes."""
    network = tiny(temporal=True, frame_index=True, conv_mixing="none", attention_mixing="none")
    image = tiny()
    image.load_state_dict({name: network.state_dict()[name] for name in image.state_dict()})
    x, c_noise, cond = inputs(frames=1)
    out = network(x.expand(-1, 4, -1, -1, -1), c_noise, cond)
    other = network(x.expand(-1, 4, -1, -1, -1), c_noise, {"text": cond["text"].flip(0)})
    step, turned = (video[:, 1:] - video[:, :1] for video in (out, other))
    alone = image(x, c_noise, cond)
    assert torch.equal(network(x, c_noise, cond), alone) and not torch.equal(
        out[:, :1], alone
    )  # one frame has no index
    assert step.abs().amax((2, 3, 4)).min() > 1e-4 and (step - turned).abs().amax((2, 3, 4)).min() > 1e-4


def test_the_text_as_one_vector_hears_every_token():
    """In any order, however many zeros stand beside them; and one token more is another text."""
    pooled = randomised(PooledText(16, 8))
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    more = torch.cat([states, torch.zeros(2, 2, 16)], 1)
    for same in (states[:, [3, 1, 4, 0, 2]], more):
        torch.testing.assert_close(pooled(same, None), pooled(states, None), **CLOSE)
    assert (pooled(states[:, :4], None) - pooled(states, None)).abs().amax(1).min() > 1e-3


def test_times_are_counted_in_seconds_where_the_frame_rate_is_given():
    """Every other frame at half the rate has the embedding of the same moments at the whole rate, but for their mean."""
    embedding = randomised(FrameEmbedding(8, 16, None))
    emb = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))

    def embedded(frames, fps):
        return embedding(emb, frames, torch.full((2,), fps), None, None).emb.unflatten(0, (2, frames))

    whole, half = embedded(7, 12.0), embedded(4, 6.0)
    torch.testing.assert_close(whole[:, ::2] - whole[:, :1], half - half[:, :1], **CLOSE)
    torch.testing.assert_close(embedded(4, float("nan")), embedded(4, 8.0))
    torch.testing.assert_close(whole.mean(1), torch.zeros(2, 16), **CLOSE)


def test_tilted_rises_along_x_and_y():
    tilt = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # channel 0 along x, channel 1 down
    planes = tilted(torch.zeros(1, 2, 3, 5), tilt)[0]
    torch.testing.assert_close(planes[0], torch.linspace(-1, 1, 5).expand(3, 5))
    torch.testing.assert_close(planes[1], 2 * torch.linspace(-1, 1, 3)[:, None].expand(3, 5))


def test_rates_are_known_where_they_are_given_and_above_zero():
    network = tiny(temporal=True, frame_index=True, vectors=("motion", "fps"))
    vectors = torch.tensor([[5.0, 12.0], [5.0, 24.0], [5.0, 0.0], [5.0, torch.nan]])
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    rates = network._rates({"vectors": vectors, "vectors_mask": mask})
    assert rates[0] == 12 and rates[1:].isnan().all()
    assert network._rates({"vectors": vectors})[:2].tolist() == [12, 24] and network._rates({}) is None


@pytest.mark.parametrize("images", [[True, True], [True, False]])
def test_single_frames_without_a_rate_give_finite_gradients(images):
    """In a step of images every row has 0 frames a second; it is the times of frames that could divide by it."""
    network = tiny(temporal=True, frame_index=True, pooled_text=True, vectors=("fps",))
    x, c_noise, cond = inputs(frames=1 if all(images) else 3)
    options = {"vectors": torch.zeros(2, 1), "images": torch.tensor(images)}
    network(x, c_noise, {**cond, **options}).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    touched = [name for name in network.temporal_names() if network.get_parameter(name).grad is not None]
    assert bool(touched) == (not all(images))  # a step of images alone leaves their moments as they are


def test_the_tilt_reaches_the_first_features():
    network = tiny(temporal=True, frame_index=True)
    x, c_noise, cond = inputs()
    out = network(x, c_noise, cond)
    with torch.no_grad():
        network.frame_embedding.tilt.weight.zero_()
    assert (network(x, c_noise, cond) - out).abs().max() > 1e-4


@BOTH
def test_weights_in_bfloat16_run(options):
    network = tiny(temporal=True, **options).bfloat16()
    x, c_noise, cond = inputs()
    assert network(x.bfloat16(), c_noise, {"text": cond["text"].bfloat16()}).isfinite().all()


def test_text_by_frame_is_refused_where_one_text_is_embedded():
    network = tiny(temporal=True, frame_index=True)
    x, c_noise, cond = inputs()
    with pytest.raises(ValueError, match="text by frame"):
        network(x, c_noise, {"text": cond["text"][:, None].expand(-1, 3, -1, -1)})
