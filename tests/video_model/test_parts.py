"""What it takes to extend training: each part below is one class or function, and one entry in a list of parts.

Nothing else is edited: they go through the real config, train for a few steps, and are sampled from.
"""

import json
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.video_model.clips import LetterEncoder, PoolCodec, clips, write_clips
from video_model.codecs import CodecSection
from video_model.config import TrainConfig, train_config
from video_model.diffusion.parametrisations import Parametrisation, Scales
from video_model.diffusion.samplers import euler
from video_model.diffusion.schedules import pairs
from video_model.diffusion.slots import NumberSlot
from video_model.encoders import EncoderSection
from video_model.networks import NetworkSection
from video_model.networks.mixers import CONV_MIXERS, Mixer
from video_model.training.sampler import Sampler
from video_model.training.stages import train
from video_model.training.storage import checkpoints
from video_model.training_parts import PARTS

# --- a sampler


def churned(denoise, x, sigmas, watch=None):
    """Euler's method that looks twice and believes the second look."""
    for now, then in pairs(sigmas, watch):
        clean = denoise(denoise(x, now) + (x - denoise(x, now)), now)
        x = clean + (x - clean) * (then / now)
    return x


# --- a parametrisation


class CleanPrediction(Parametrisation):
    """The network predicts the clean data itself."""

    kind: Literal["clean"] = "clean"

    def scales(self, sigma):
        return Scales(torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt(), sigma.log())


# --- a conditioning slot


class Brightness(NumberSlot):
    """Mean level of the clip."""

    name: ClassVar[str] = "brightness"
    numbers: ClassVar[tuple[str, ...]] = ("brightness",)
    column: ClassVar[str | None] = "brightness"


# --- a codec, and a text encoder


class Pooled(CodecSection):
    """Averages of 8x8 px."""

    factor: ClassVar[int] = 8
    kind: Literal["pooled"] = "pooled"

    @property
    def latent_channels(self):
        return 3

    def load(self, folder):
        return PooledCodec()


class PooledCodec(PoolCodec):
    def decode(self, latents, images=False):
        return super().decode(latents)


class Letters(EncoderSection):
    """First letters of words."""

    kind: Literal["letters"] = "letters"

    def make(self, device=None, dtype=None):
        return LetterEncoder()


# --- a network


class Pixelwise(NetworkSection):
    """A network that sees one latent at a time."""

    kind: Literal["pixelwise"] = "pixelwise"
    width: int = 8

    @property
    def multiple(self):
        return 1

    def image(self, latent_channels, text_dim):
        return PixelNetwork(latent_channels, text_dim, self.width)

    def video(self, image, vectors, concat_channels):
        made = PixelNetwork(*image.shape, vectors=tuple(vectors), concat=concat_channels)
        made.load_state_dict(image.state_dict(), strict=False)
        return made


class PixelNetwork(nn.Module):
    stride, checkpointing, blocks = 1, False, ()

    def __init__(self, channels, text_dim, width, vectors=None, concat=0):
        super().__init__()
        self.shape, self.temporal, self.vectors = (channels, text_dim, width), vectors is not None, vectors
        self.noise = nn.Linear(1, width)
        self.inner, self.out = nn.Linear(channels, width), nn.Linear(width, channels)
        self.text = nn.Linear(text_dim, width)
        if self.temporal:
            self.numbers, self.concat = nn.Linear(len(vectors), width), nn.Linear(concat, width)

    def forward(self, x, c_noise, cond=None):
        h = self.noise(c_noise[:, None]) + self.text(cond["text"].mean(1))
        if self.temporal and "vectors" in cond:
            h = h + self.numbers(cond["vectors"])
        h = h[:, None, None, None] + self.inner(x.movedim(2, -1))
        if self.temporal and "concat" in cond:
            h = h + self.concat(cond["concat"].movedim(2, -1))
        return self.out(torch.tanh(h)).movedim(-1, 2)

    def temporal_names(self):
        return [name for name, _ in self.named_parameters() if name.startswith(("numbers.", "concat."))]

    def time_embedding_names(self):
        return ["noise.weight", "noise.bias"]


# --- a mixer


class Lagged(Mixer):
    """Adds a share of the frame before."""

    name: ClassVar[str] = "lagged"

    def __init__(self, place):
        super().__init__(place)
        self.share = nn.Parameter(torch.zeros(place.channels))

    def mix(self, x, given, depth):
        return x + self.share * torch.cat([x[:, :1], x[:, :-1]], 1)


EXTRA = [churned, CleanPrediction, Brightness, Pooled, Letters, Pixelwise]
STAGE = {"sizes": [[32, 32]], "batch": 4, "lr": 1e-2, "warmup": 1, "ema": 0.5, "steps": 3}
STAGES = {"image": STAGE | {"frames": [1], "train": "time_embedding"}, "video": STAGE | {"frames": [4], "rates": [8]}}


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    rows = [row | {"brightness": 10.0 * i} for i, row in enumerate(clips(12))]
    return write_clips(tmp_path_factory.mktemp("data") / "curated", rows, numbers=("brightness",))


def weights(run, stage):
    return checkpoints.latest(run.stage(stage) / "checkpoints").tensors("network")


def test_parts_of_ones_own_train_and_are_sampled_from(curated, tmp_path):
    schema = train_config(EXTRA)
    tree = {
        "codec": {"kind": "pooled"},
        "text": {"kind": "letters"},
        "network": {"kind": "pixelwise", "width": 6},
        "denoiser": {"kind": "clean"},
        "conditioning": {"text": 0.1, "brightness": 0.2},
        "data": {"held_out": 0.3},
        "stages": STAGES,
        "samples": {"count": 1, "steps": 2, "sampler": "churned"},
    }
    run = train(schema.model_validate(tree), [str(curated)], tmp_path / "run")
    recorded = json.loads((run.root / "config.json").read_text())
    assert [recorded[key]["kind"] for key in ("codec", "text", "network", "denoiser")] == [
        "pooled", "letters", "pixelwise", "clean",
    ]  # fmt: skip
    assert recorded["conditioning"]["brightness"] == 0.2 and recorded["samples"]["sampler"] == "churned"
    after = weights(run, "image")
    assert set(after) == {f"{name}.{part}" for name in ("noise", "inner", "out", "text") for part in ("weight", "bias")}
    video = weights(run, "video")
    assert video["numbers.weight"].shape == (6, 4)  # fps, motion, augment, brightness
    assert video["concat.weight"].shape == (6, 4)  # three latents and the mask

    sampler = Sampler(run.root, schema=schema)
    drawn = [sampler(sampler.request(["a"], brightness=level)) for level in (None, 20.0, 90.0)]
    assert drawn[0].shape == (1, 4, 3, 32, 32) and all(video.isfinite().all() for video in drawn)
    assert not torch.equal(drawn[1], drawn[2])  # the slot reaches the network
    plain = sampler(sampler.request(["a"], brightness=20.0, sampler="euler"))
    assert not torch.equal(plain, drawn[1])


def test_a_stage_trains_what_the_network_says_embeds_the_noise_level(curated, tmp_path):
    schema = train_config(EXTRA)
    tree = {"codec": {"kind": "pooled"}, "text": {"kind": "letters"}, "network": {"kind": "pixelwise"}}
    run = train(schema.model_validate(tree | {"stages": {"image": STAGES["image"]}}), [str(curated)], tmp_path / "run")
    facts = checkpoints.latest(run.stage("image") / "checkpoints").facts
    assert facts["trained"] == 2


def test_a_mixer_is_a_name_in_configs_once_it_is_in_its_list(curated, tmp_path, monkeypatch):
    tree = {
        "codec": {"kind": "own", "channels": 2, "steps": 0, "frames": 16},
        "network": {"channels": [16], "layers": 1, "head_dim": 8, "groups": 4, "conv_mixing": "lagged"},
        "stages": {"video": STAGES["video"]},
        "samples": {"count": 1, "steps": 1},
    }
    with pytest.raises(
        ValidationError, match=r"conv_mixing must be one of alpha, residual, dirac, none \(got 'lagged'\)"
    ):
        TrainConfig.model_validate(tree)
    CONV_MIXERS.append(Lagged)
    try:
        run = train(TrainConfig.model_validate(tree), [str(curated)], tmp_path / "run")
        shares = [value for name, value in weights(run, "video").items() if name.endswith(".time.share")]
        assert shares and all(value.any() for value in shares)
        sampler = Sampler(run.root)
        assert sampler(sampler.request(["a"])).shape == (1, 4, 3, 32, 32)
    finally:
        CONV_MIXERS.remove(Lagged)


def test_parts_are_sorted_by_what_they_are():
    parts = PARTS.plus(EXTRA)
    assert [kind.__name__ for kind in parts.networks] == ["UNet", "Pixelwise"]
    assert parts.samplers[-1] is churned and parts.slots[-1] is Brightness and parts.codecs[-1] is Pooled
    assert PARTS.plus([]) == PARTS and train_config() is TrainConfig
    with pytest.raises(TypeError, match="is no part of a training config"):
        train_config([Mixer])


def test_a_slot_that_an_old_config_does_not_name_is_off():
    config = train_config([Brightness]).model_validate({"stages": {"image": STAGES["image"]}})
    assert config.conditioning.vectors == TrainConfig(stages=config.stages).conditioning.vectors
    assert [slot.name for slot in config.conditioning.slots(temporal=True)] == ["text", "fps", "motion", "first_frame"]


def test_unknown_parts_are_errors_that_name_those_there_are():
    for tree, named in (
        ({"codec": {"kind": "pooled"}}, "'own', 'diffusers'"),
        ({"text": {"kind": "letters"}}, "'minilm', 'open_clip', 't5'"),
        ({"denoiser": {"kind": "clean"}}, "'edm', 'v', 'epsilon', 'flow'"),
        ({"samples": {"sampler": "churned"}}, "'euler', 'heun', 'dpmpp_2m' or 'ddim'"),
        ({"conditioning": {"brightness": 0.1}}, "brightness\n  Extra inputs are not permitted"),
    ):
        with pytest.raises(ValidationError, match=named):
            TrainConfig.model_validate(tree | {"stages": {"image": STAGES["image"]}})


def test_names_of_samplers_are_those_of_the_functions():
    assert euler.__name__ == "euler" and TrainConfig.model_fields["samples"].default.sampler == "heun"
