import pytest
import torch

from tests.video_model.networks import inputs, tiny
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.slots import FirstFrameSlot, FpsSlot, MotionSlot, TextSlot

SLOTS = (
    TextSlot(dropout=0.15),
    FpsSlot(dropout=0.1),
    MotionSlot(dropout=0.3),
    FirstFrameSlot(dropout=0.5),
)


def _batch(rows, frames=2):
    generator = torch.Generator().manual_seed(4)
    return {
        "latents": torch.randn(rows, frames, 4, 8, 8, generator=generator),
        "text": torch.randn(rows, 5, 16, generator=generator),
        "text_mask": torch.ones(rows, 5, dtype=torch.bool),
        "fps": torch.arange(1.0, rows + 1),
        "motion": torch.arange(rows) / 10.0,
    }


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _left_out(cond):
    """Which samples are without each slot."""
    out = {"text": cond["text"].abs().amax((1, 2)) == 0}
    if "concat" in cond:
        out["first_frame"] = cond["concat"][:, :, -1].amax((1, 2, 3)) == 0
    for name, mask in zip(("fps", "motion", "augment"), cond["vectors_mask"].T, strict=False):
        out[name] = ~mask
    return out


def test_rates_of_dropout_are_the_slots_own():
    rows = 20_000
    batch = _batch(8)
    small = {name: value[:1].expand(rows, *value.shape[1:]) for name, value in batch.items()}
    small["latents"] = small["latents"][:, :, :, :1, :1]
    left_out = _left_out(Conditioner(SLOTS)(small, _seeded()))
    for name, rate in (("text", 0.15), ("fps", 0.1), ("motion", 0.3), ("first_frame", 0.5)):
        assert abs(left_out[name].float().mean().item() - rate) < 4 * (rate * (1 - rate) / rows) ** 0.5, name
    # Slots are left out independently of each other
    both = (left_out["text"] & left_out["motion"]).float().mean().item()
    assert abs(both - 0.045) < 0.008
    assert torch.equal(left_out["augment"], left_out["first_frame"])  # no frame, no word of its noise


def test_draws_are_those_of_the_generator_and_of_the_slot():
    batch = _batch(64)
    whole, alone = Conditioner(SLOTS), Conditioner([MotionSlot(dropout=0.3), TextSlot(dropout=0.15)])
    first, again, other = whole(batch, _seeded(7)), whole(batch, _seeded(7)), whole(batch, _seeded(8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["text"], other["text"])
    few = alone(batch, _seeded(7))
    assert torch.equal(few["text"], first["text"])
    assert torch.equal(few["vectors_mask"][:, 0], first["vectors_mask"][:, 1])
    assert alone.vectors == ("motion",)
    # The generator moves on, by one draw whatever the slots are
    one, two = _seeded(7), _seeded(7)
    whole(batch, one), alone(batch, two)
    assert torch.equal(one.get_state(), two.get_state()) and not torch.equal(one.get_state(), _seeded(7).get_state())


def test_condition_of_a_sample_is_its_own():
    """Not the first sample's for the whole batch: whatever is kept is the sample's own, and no other's change reaches it."""
    batch = _batch(32)
    conditioner = Conditioner(SLOTS)
    cond = conditioner(batch, _seeded())
    left_out = _left_out(cond)
    for row in range(32):
        if not left_out["text"][row]:
            assert torch.equal(cond["text"][row], batch["text"][row])
        if not left_out["fps"][row]:
            assert cond["vectors"][row, 0] == batch["fps"][row]
    changed = {name: value.clone() for name, value in batch.items()}
    for name in ("latents", "text", "fps", "motion"):
        changed[name][0] += 1
    other = conditioner(changed, _seeded())
    assert all(torch.equal(other[name][1:], cond[name][1:]) for name in cond)
    assert any(not torch.equal(other[name][0], cond[name][0]) for name in cond)


def test_condition_reaches_its_sample_alone_through_the_network():
    network = tiny(temporal=True, concat_channels=5, vectors=("fps", "motion", "augment"))
    conditioner = Conditioner(
        [TextSlot(dropout=0), FpsSlot(dropout=0), MotionSlot(dropout=0), FirstFrameSlot(dropout=0)]
    )
    x, c_noise, _ = inputs(rows=3, frames=2)
    batch = _batch(3)
    out = network(x, c_noise, conditioner(batch, _seeded()))
    for name in ("text", "fps", "motion", "latents"):
        changed = {key: value.clone() for key, value in batch.items()}
        changed[name][0] += 1
        other = network(x, c_noise, conditioner(changed, _seeded()))
        assert torch.equal(other[1:], out[1:]), name
        assert not torch.equal(other[0], out[0]), name


def test_outside_training_nothing_is_left_out_or_drawn():
    cond = Conditioner(SLOTS)(_batch(64), train=False)
    assert not any(left_out.any() for left_out in _left_out(cond).values())
    assert cond["vectors"][:, 2].eq(0).all()  # augment
    with pytest.raises(ValueError, match=r"pass a torch\.Generator"):
        Conditioner(SLOTS)(_batch(2))


def test_numbers_that_are_not_known_are_not_given():
    batch = _batch(3)
    batch["motion"] = torch.tensor([1.0, torch.nan, torch.inf])
    del batch["fps"]
    cond = Conditioner([FpsSlot(dropout=0), MotionSlot(dropout=0)])(batch, _seeded())
    assert cond["vectors_mask"].tolist() == [[False, True], [False, False], [False, False]]
    assert cond["vectors"].isfinite().all()


def test_first_frame_is_copied_over_time_with_a_mask():
    batch = _batch(4, frames=3)
    concat = Conditioner([FirstFrameSlot(dropout=0, noise_mean=None)])(batch, _seeded())["concat"]
    assert concat.shape == (4, 3, 5, 8, 8)
    for frame in range(3):
        assert torch.equal(concat[:, frame, :4], batch["latents"][:, 0])
    assert concat[:, :, 4].eq(1).all()
    released = Conditioner([FirstFrameSlot(dropout=0, noise_mean=None, mask=False)])(batch, _seeded())["concat"]
    assert torch.equal(released, concat[:, :, :4])
    single = {"first_frame": batch["latents"][:, 0], "frames": 3}
    assert torch.equal(Conditioner([FirstFrameSlot()])(single, train=False)["concat"], concat)
    assert "concat" not in Conditioner([FirstFrameSlot()])({"text": batch["text"]}, train=False)


def test_first_frame_tells_how_noisy_it_is():
    rows = 4000
    batch = {"latents": torch.zeros(rows, 1, 4, 4, 4)}
    slots = [FirstFrameSlot(dropout=0, noise_mean=-1.0, noise_std=0.5)]
    cond = Conditioner(slots)(batch, _seeded())
    given, seen = cond["vectors"][:, 0], cond["concat"][:, 0, :4].flatten(1).std(1)
    assert abs(given.log().mean().item() + 1) < 0.04 and abs(given.log().std().item() - 0.5) < 0.03
    assert abs((seen / given).mean().item() - 1) < 0.02
    one = {"latents": torch.zeros(1, 1, 4, 64, 64), "augment": torch.tensor([0.3])}
    fixed = Conditioner(slots)(one, train=False)
    assert fixed["vectors"].allclose(torch.tensor(0.3))
    assert abs(fixed["concat"][:, 0, :4].std().item() - 0.3) < 0.01


def test_noise_on_a_frame_that_is_sampled_from_is_the_same_whatever_is_drawn_with_it():
    conditioner = Conditioner([FirstFrameSlot(released=True)])
    both = {"pixels": torch.zeros(2, 3, 4, 4), "frames": 2, "augment": torch.tensor([0.5, 0.25])}
    noisy = conditioner(both, train=False)["first_frame_pixels"]
    alone = conditioner({**both, "pixels": both["pixels"][1:], "augment": both["augment"][1:]}, train=False)
    assert noisy.std() > 0.1 and torch.equal(noisy[1:], alone["first_frame_pixels"])


def test_rows_of_images_have_no_first_frame():
    batch = {**_batch(2), "images": torch.tensor([True, False])}
    cond = Conditioner(SLOTS)(batch, train=False)
    assert _left_out(cond)["first_frame"].tolist() == [True, False]
    assert torch.equal(cond["images"], batch["images"])


def test_null_leaves_out_what_training_left_out():
    conditioner = Conditioner(SLOTS)
    cond = conditioner(_batch(3), train=False)
    null = conditioner.null(cond)
    left_out = _left_out(null)
    assert all(left_out[name].all() for name in ("text", "fps", "motion", "first_frame", "augment"))
    assert null["text"].shape == cond["text"].shape and null["concat"].shape == cond["concat"].shape
    assert cond["text"].any()  # the condition itself is as it was
    kept = _left_out(conditioner.null(cond, keep=("fps", "first_frame")))
    assert not kept["fps"].any() and not kept["first_frame"].any() and not kept["augment"].any()
    assert kept["text"].all() and kept["motion"].all()


def test_guidance_without_anything_to_leave_out_is_an_error():
    conditioner = Conditioner([TextSlot(dropout=0), FpsSlot()])
    cond = conditioner(_batch(2), train=False)
    assert torch.equal(conditioner.null(cond)["text"], cond["text"])  # never left out in training: never learned
    with pytest.raises(ValueError, match="give one a dropout"):
        conditioner.null(cond, keep=("fps",))
    with pytest.raises(ValueError, match="no conditioning slot is named 'txt'"):
        conditioner.null(cond, keep=("txt",))


def test_slots_are_checked():
    with pytest.raises(ValueError, match="two conditioning slots are named 'fps'"):
        Conditioner([FpsSlot(), FpsSlot()])
    with pytest.raises(ValueError, match=r"dropout\n.*less than or equal to 1 .*input_value=15"):
        TextSlot(dropout=15)
    with pytest.raises(ValueError, match="a row for each sample"):
        Conditioner([TextSlot()])({}, train=False)
