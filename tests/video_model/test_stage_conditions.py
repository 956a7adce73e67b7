"""Stages with conditions of their own: what one hands to the next, and what it starts from."""

import numpy as np
import pytest
import torch

from tests.video_model.clips import clips, png, write_clips
from tests.video_model.networks import inputs, tiny
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.slots import KeyFramesSlot, Models, MotionSlot
from video_model.errors import DataError, RunError
from video_model.networks.conditions import reconditioned
from video_model.public.configs import WeightsError
from video_model.training.build import check_network, first_network
from video_model.training.run import Run
from video_model.training.sampler import Sampler, default_request
from video_model.training.stages import train
from video_model.training.storage import checkpoints
from video_model.training.stores import Stores

STAGE = {"frames": [4], "sizes": [[32, 32]], "rates": [8], "batch": 4, "lr": 1e-3, "warmup": 1, "ema": 0.5, "steps": 1}


def test_a_video_network_with_other_conditions_computes_the_same():
    network = tiny(temporal=True, concat_channels=5, vectors=("fps", "motion", "augment"))
    x, c_noise, cond = inputs()
    told = {**cond, "vectors": torch.tensor([[8.0, 3.0, 0.0], [4.0, 1.0, 0.0]])}
    told["vectors_mask"] = torch.tensor([[True, True, False]] * 2)
    before = network(x, c_noise, told)
    other = reconditioned(network, ("motion", "shake", "fps"), 9)
    assert other.config.concat_channels == 9 and not other.concat_in.weight.any()
    moved = {**cond, "vectors": told["vectors"][:, [1, 2, 0]], "vectors_mask": torch.tensor([[True, True, True]] * 2)}
    moved["vectors"][:, 1] = 5.0  # new to it: without effect
    torch.testing.assert_close(other(x, c_noise, moved), before, rtol=0, atol=1e-5)
    assert reconditioned(network, network.config.vectors, 5) is network
    fresh = reconditioned(tiny(temporal=True), ("fps",), 0)
    torch.testing.assert_close(
        fresh(x, c_noise, {**cond, "vectors": torch.tensor([[8.0], [1.0]])}), tiny(temporal=True)(x, c_noise, cond)
    )


def test_key_frames_stand_at_both_ends():
    latents = torch.randn(3, 5, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    images = torch.tensor([False, False, True])
    concat = Conditioner([KeyFramesSlot(dropout=0)])({"latents": latents, "images": images}, train=False)["concat"]
    assert concat.shape == (3, 5, 5, 2, 2)
    for row in range(2):
        assert torch.equal(concat[row, 0, :4], latents[row, 0]) and torch.equal(concat[row, -1, :4], latents[row, -1])
        assert concat[row, [0, -1], 4].eq(1).all() and not concat[row, 1:-1].any()
    assert not concat[2].any()


def test_motion_buckets_are_the_share_of_clips_that_move_less():
    slot = MotionSlot(dropout=0.0, buckets=True)
    scores = torch.arange(1001.0).sqrt().tolist()
    fitted = slot.fitted(np.array([*scores, np.nan]))
    assert len(fitted.percentiles) == 101 and fitted.fitted(np.array([5.0])) is fitted
    asked = torch.tensor([0.0, 250.0, 500.0, 1000.0]).sqrt()
    assert (fitted.bucket(asked) - torch.tensor([0.0, 63.75, 127.5, 255.0])).abs().max() <= 0.75
    assert fitted.bucket(torch.tensor([-5.0, 99.0, torch.nan])).tolist()[:2] == [0.0, 255.0]
    cond = Conditioner([fitted])({"motion": asked}, torch.Generator().manual_seed(0))
    assert torch.equal(cond["vectors"][:, 0], fitted.bucket(asked))
    named = Conditioner([fitted])({"motion_bucket": torch.tensor([33.0])}, train=False)
    assert named["vectors"].tolist() == [[33.0]]
    with pytest.raises(ValueError, match="buckets without percentiles"):
        Conditioner([slot])({"motion": asked}, torch.Generator().manual_seed(0))
    assert slot.bucket(torch.full((2,), torch.nan)).isnan().all()  # clips without scores train without


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    curated = write_clips(folder / "curated", clips(16))
    buckets = {"dropout": 0.0, "buckets": True}
    tree = {
        "codec": {"kind": "own", "channels": 2, "steps": 0, "frames": 32},
        "network": {"channels": [16], "layers": 1, "head_dim": 8, "groups": 4, "vector_width": 8},
        "data": {"held_out": 0.3},
        "conditioning": {"first_frame": None},
        "stages": {
            "video": STAGE,
            "image_to_video": STAGE | {"conditioning": {"motion": buckets, "first_frame": {"dropout": 0.2}}},
            "interpolation": STAGE
            | {"after": "video", "conditioning": {"first_frame": None, "key_frames": {"dropout": 0.1}}},
        },
        "samples": {"count": 1, "steps": 2},
    }
    return train(TrainConfig.model_validate(tree), [str(curated)], folder / "run")


def test_stages_have_networks_of_their_own_conditions(run):
    sampler = {name: Sampler(run.root, name) for name in run.config.stages}
    shapes = {name: found.denoiser.network.config for name, found in sampler.items()}
    assert [shape.concat_channels for shape in shapes.values()] == [0, 3, 3]
    assert shapes["image_to_video"].vectors == ("fps", "motion", "augment")
    with pytest.raises(RunError, match="was not trained with first_frame"):
        sampler["video"].request([""], first_frame=torch.zeros(3, 32, 32))
    ends = torch.stack([torch.full((3, 32, 32), -0.5), torch.full((3, 32, 32), 0.5)])
    drawn = sampler["interpolation"](sampler["interpolation"].request([""], key_frames=ends))
    assert drawn.shape == (1, 4, 3, 32, 32)


def test_a_stage_starts_from_the_one_that_it_names(run, tmp_path):
    """Its first step starts from `video`, not from the stage before it: with a rate of almost nothing, it ends there."""
    tree = run.config.model_dump()
    for name in ("image_to_video", "interpolation"):
        tree["stages"][name]["lr"] = 1e-12 if name == "interpolation" else 1e-1
    sources = [str(run.root.parent / "curated")]
    again = train(TrainConfig.model_validate(tree), sources, tmp_path / "run")
    weights = {name: checkpoints.latest(again.stage(name) / "checkpoints").tensors("ema") for name in tree["stages"]}
    same = [key for key in weights["video"] if key.startswith(("down", "middle", "up"))]
    far = {
        name: max((weights[name][key] - weights["video"][key]).abs().max().item() for key in same)
        for name in ("image_to_video", "interpolation")
    }
    assert far["interpolation"] < 1e-9 < 1e-3 < far["image_to_video"]
    assert Run.open(again.root).config.stages["image_to_video"].conditioning.motion.percentiles is not None


def test_stages_that_cannot_be_are_named(run):
    tree = run.config.model_dump()
    for changes, message in (
        ({"after": "later"}, "after: later is no stage before it"),
        ({"frames": [1], "after": "video"}, r"an image stage cannot come after a video stage \(video\)"),
        (
            {"conditioning": {"first_frame": {"released": True, "mask": True}}},
            "released networks have no channel of ones",
        ),
    ):
        changed = {**tree, "stages": {**tree["stages"], "image_to_video": tree["stages"]["image_to_video"] | changes}}
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate(changed)
    away = {**tree["stages"]["interpolation"], "conditioning": {"text": None, "first_frame": None}}
    changed = TrainConfig.model_validate({**tree, "stages": {**tree["stages"], "interpolation": away}})
    with pytest.raises(
        RunError, match=r"interpolation: attends to tokens of None channels, and stage video, .* to 384"
    ):
        check_network(changed, changed.text.make())
    with pytest.raises(ValueError, match=r"text\.kind none needs conditioning\.text: null"):
        TrainConfig.model_validate({**tree, "text": {"kind": "none"}})


def test_a_run_starts_from_the_stage_of_another_that_it_names(run, tmp_path):
    """Without a name it is the last one that is done, here `interpolation`."""
    tree = run.config.model_dump() | {"start": str(run.root / "stages" / "image_to_video")}
    tree["stages"] = {"more": tree["stages"]["image_to_video"]}
    more = TrainConfig.model_validate(tree)
    models = Models(run.codec(), more.text.make())
    ema = checkpoints.latest(run.stage("image_to_video") / "checkpoints").tensors("ema")
    network = first_network(more, "more", models)
    assert torch.equal(network.concat_in.weight, ema["concat_in.weight"]) and network.concat_in.weight.any()
    with pytest.raises(WeightsError, match="nothing: there is no such folder"):
        first_network(more.model_copy(update={"start": str(run.root / "stages" / "nothing")}), "more", models)


def test_samples_on_the_way_begin_with_the_pictures_that_are_named(run, tmp_path):
    (tmp_path / "grey.png").write_bytes(png(100))
    (tmp_path / "text.png").write_text("no picture")
    sources = [str(run.root.parent / "curated")]

    def windows(*images):
        samples = {**run.config.samples.model_dump(), "images": [str(image) for image in images]}
        chosen = TrainConfig.model_validate({**run.config.model_dump(), "samples": samples})
        request = default_request(chosen, "image_to_video", [""])
        return Stores(chosen, sources).windows("image_to_video", request)

    found, captions = windows(tmp_path / "grey.png", tmp_path / "grey.png")
    assert found.shape == (2, 1, 3, 32, 32) and captions == []
    assert torch.allclose(found, torch.tensor(100 / 127.5 - 1))
    with pytest.raises(DataError, match=r"text\.png: is neither a picture nor a video"):
        windows(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"samples\.images: .*none\.png cannot be read"):
        windows(tmp_path / "none.png")
