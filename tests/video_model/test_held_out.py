"""The held-out loss: every clip that can be used is, and the loss of knowing nothing is the one that is printed."""

import pytest
import torch
from torch import nn

from tests.video_model.clips import LetterEncoder, PoolCodec, clip, clips, frame_numbers, write_clips
from video_model.config import Noise
from video_model.data.index import open_index
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.parametrisations import Edm, Epsilon, RectifiedFlow, VPrediction
from video_model.diffusion.slots import FpsSlot, TextSlot
from video_model.evaluation.evaluate import SIGMAS, losses
from video_model.latents.batches import BatchSpec
from video_model.latents.build import build_cache
from video_model.latents.live import LiveLatents
from video_model.training.held_out import held_out_batches, held_out_loss, loss_of_nothing
from video_model.training.watching import Silent

SIZES = [(48, 64), (64, 48)]


def spec(batch):
    return BatchSpec(frames=[16], sizes=SIZES, rates=[8], batch=batch)


CONDITIONER = Conditioner([TextSlot(), FpsSlot()])


class Nothing(nn.Module):
    """A network whose output is 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, c_noise, cond):
        return torch.zeros_like(x)


def opened(folder, rows):
    index = open_index(write_clips(folder / "c", rows))
    return index, build_cache(index, PoolCodec(), LetterEncoder(), folder / "cache", sizes=SIZES, rates=[8], workers=1)


def seen(batches):
    return sorted(key for batch in batches for key in batch["keys"])


@pytest.mark.parametrize(
    ("rows", "usable"),
    [
        ([*clips(9), clip(9, frames=8)], 9),  # one is too short
        ([*clips(5), *(clip(i, height=64, width=48) for i in range(5, 10))], 10),  # two proportions
        ([*clips(9), clip(9, data=b"no video")], 9),
        ([clip(0), clip(1, height=64, width=48), clip(2, frames=3)], 2),
    ],
)
def test_every_clip_that_can_be_used_is_used_once(tmp_path, rows, usable):
    index, cache = opened(tmp_path, rows)
    batches = held_out_batches(index, cache, usable, spec(10))
    assert seen(batches) == sorted(index.keys[:usable])
    assert len(batches) == len({batch["latents"].shape for batch in batches})  # in as few as their shapes allow
    twice = held_out_batches(index, cache, 2 * usable, spec(4))
    assert seen(twice) == sorted([*index.keys[:usable]] * 2) and max(len(batch["keys"]) for batch in twice) <= 4
    # At sigma 1 the target is (noise - x0) / sqrt(2), and a network whose output is 0 misses all of it
    loss = held_out_loss(Denoiser(Nothing()), CONDITIONER, Noise(mean=0.0, std=1e-6), batches)["held_out_loss"]
    power = torch.cat([batch["latents"].flatten() for batch in batches]).square().mean().item()
    assert loss == pytest.approx((1 + power) / 2, rel=0.03)


def test_rows_that_are_joined_keep_what_is_theirs(tmp_path):
    words = ["one", "a b c d e f g h i j", ""]
    rows = [clip(i, caption_merged=text, caption_video=text, caption_frame=text) for i, text in enumerate(words)]
    index, cache = opened(tmp_path, rows)
    (batch,) = held_out_batches(index, cache, 3, spec(8))
    assert batch["latents"].shape == (3, 16, 3, 6, 8) and batch["text"].shape == (3, 16, 4)
    for i, key in enumerate(batch["keys"]):
        number = index.keys.index(key)
        tokens = words[number].split()
        assert batch["motion"][i] == number and batch["captions"][i] == words[number] and batch["fps"][i] == 8
        assert batch["text_mask"][i].sum() == max(1, len(tokens))
        assert batch["text"][i, : len(tokens), 0].tolist() == [len(token) for token in tokens]
        assert (frame_numbers(batch["latents"][i]).reshape(-1)[1:] > 0).all()


def test_there_are_none_where_none_can_be_used(tmp_path):
    index, cache = opened(tmp_path, clips(4, frames=8))
    assert held_out_batches(index, cache, 8, spec(2)) == []


def test_without_a_cache_a_clip_that_cannot_be_decoded_costs_itself_alone(tmp_path):
    """The only one of its proportions: there is none in its place."""
    rows = [*clips(3), clip(3, height=64, width=48, data=b"no video")]
    index = open_index(write_clips(tmp_path / "c", rows))
    with LiveLatents(PoolCodec(), LetterEncoder(), rates=[8], workers=1) as store:
        assert seen(held_out_batches(index, store, 4, spec(4))) == sorted(index.keys[:3])


@pytest.mark.parametrize(("kind", "known"), [(Edm(), 1), (VPrediction(), 1), (Epsilon(), 1), (RectifiedFlow(), 2)])
def test_the_loss_of_knowing_nothing(kind, known):
    """Measured with a network whose output is 0, on unit noise: 16384 numbers, so within 3% of the mean square."""
    draw = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(4, 4, 4, 16, 16, generator=draw),
        "text": torch.randn(4, 8, 4, generator=draw),
        "fps": torch.full((4,), 8.0),
    }
    found = losses(Denoiser(Nothing(), kind), CONDITIONER, [batch], Silent())
    told = [sigma for sigma in SIGMAS if sigma < 14.6 or kind in (Edm(), RectifiedFlow())]  # what there are steps for
    assert list(found) == [f"loss at sigma {sigma:g} (knowing nothing: {known})" for sigma in told]
    assert [ours.value for ours, _ in found.values()] == pytest.approx([known] * len(told), rel=0.03)
    assert all(ours.low < ours.value < ours.high and ours.n == 4 for ours, _ in found.values())


def test_the_loss_of_knowing_nothing_of_data_of_another_scale():
    """sigma_data 0.5 at sigma 0.5: skip 1/2, out^2 1/8, so (1/4 + 1/16) 8."""
    assert loss_of_nothing(Edm(sigma_data=0.5), 0.5) == pytest.approx(2.5)
