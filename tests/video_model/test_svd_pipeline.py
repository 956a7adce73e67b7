"""Stable Video Diffusion's published folder in, and out: the same frames as diffusers' pipeline, number for number."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.video_model.clips import LetterEncoder, PoolCodec, clips, write_clips
from tests.video_model.svd_pipeline import FRAMES, HEIGHT, WIDTH, drawn, picture, saved_pipeline
from video_model.codecs.public_vae import DiffusersCodec
from video_model.config import TrainConfig
from video_model.diffusion.conditioning import Conditioner
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.generate import Request, generate
from video_model.diffusion.slots import FirstFrameSlot, Models
from video_model.errors import DataError, RunError
from video_model.evaluation.evaluate import draw, evaluate, held_out_losses, unseen
from video_model.latents.batches import Batches
from video_model.latents.live import LiveLatents
from video_model.public.formats import format_of
from video_model.public.lora import export_lora
from video_model.training.build import build_conditioner, check_network, first_network
from video_model.training.loop import Interrupted
from video_model.training.released import run_of_pipeline
from video_model.training.run import Run
from video_model.training.sampler import Sampler
from video_model.training.stages import starting_network, train
from video_model.training.storage import checkpoints, saving
from video_model.training.stores import Stores
from video_model.training.watching import Silent

CLOSE = dict(rtol=0, atol=1e-4)
STAGE = {"frames": [FRAMES], "sizes": [[HEIGHT, WIDTH]], "rates": [7], "batch": 2, "lr": 1e-3, "warmup": 1, "ema": 0.5}


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "curated", clips(12))


OPTIONS = dict(num_inference_steps=4, fps=7, motion_bucket_id=90, noise_aug_strength=0.05)


def config(folder, **changes):
    conditioning = {
        "text": None,
        "fps": 0.0,
        "motion": {"dropout": 0.0, "buckets": True},
        "first_frame": {"dropout": 0.1, "released": True},
        "image": {"dropout": 0.1, "folder": str(folder)},
    }
    return TrainConfig.model_validate(
        {
            "start": str(folder),
            "codec": {"kind": "diffusers", "folder": str(folder)},
            "text": {"kind": "none"},
            "network": {
                "kind": "unet",
                "channels": [32, 64],
                "layers": 1,
                "attention": [True, False],
                "head_dim": 16,
                "vector_width": 8,
            },
            "conditioning": conditioning,
            "stages": {"video": {"frames": [FRAMES], "sizes": [[HEIGHT, WIDTH]], "rates": [7], "steps": 1, "batch": 1}},
            **changes,
        }
    )


@pytest.mark.parametrize("guidance", [(1.0, 2.5), (1.0, 1.0)], ids=["guided by frame", "not guided"])
def test_published_folder_draws_what_the_pipeline_draws(guidance, tmp_path):
    pipeline, pixels = saved_pipeline(tmp_path), picture()
    theirs = drawn(pipeline, pixels, seed=5, min_guidance_scale=guidance[0], max_guidance_scale=guidance[1], **OPTIONS)
    chosen = config(tmp_path)
    models = Models(chosen.codec.load(tmp_path), chosen.text.make())
    denoiser = Denoiser(first_network(chosen, "video", models).eval(), chosen.denoiser)
    request = Request(
        prompts=[""], frames=FRAMES, size=(HEIGHT, WIDTH), fps=7.0, sampler="euler", steps=4, sigma_max=700.0,
        guidance=guidance, seed=5, conditions={"first_frame": pixels, "motion": 90.0, "augment": 0.05},
    )  # fmt: skip
    ours = generate(denoiser, build_conditioner(chosen, "video", models), request)[0]
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert ours.std() > 0.05


UNEVEN = dict(
    block_out_channels=(32, 96, 64), layers_per_block=(1, 2, 1), num_attention_heads=(2, 6, 4),
    transformer_layers_per_block=(1, 2, 1), cross_attention_dim=24,
    down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
    up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
)  # fmt: skip


def test_run_of_a_published_folder_goes_in_and_out(tmp_path):
    """Opened as a run, sampled, exported as a pipeline, drawn by diffusers: one video, of uneven widths, heads and depths."""
    size = (32, 64)
    pipeline, pixels = saved_pipeline(tmp_path / "svd", **UNEVEN), picture()
    run = run_of_pipeline(tmp_path / "svd", tmp_path / "run", size)
    sampler = Sampler(run.root)
    request = sampler.request([""], steps=4, seed=5, fps=7, motion=90, augment=0.05, first_frame=pixels, frames=FRAMES)
    assert request.guidance == (1.0, 3.0) and request.size == size
    ours = sampler(request)[0]
    theirs = drawn(pipeline, pixels, seed=5, min_guidance_scale=1.0, max_guidance_scale=3.0, **OPTIONS)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    exported = export(sampler, tmp_path / "svd", tmp_path / "out")
    again = drawn(exported, pixels, seed=5, min_guidance_scale=1.0, max_guidance_scale=3.0, **OPTIONS)
    torch.testing.assert_close(again, theirs, rtol=0, atol=1e-6)


def export(sampler, companions, folder):
    from diffusers import StableVideoDiffusionPipeline

    parts = {name: companions / name for name in ("vae", "image_encoder", "feature_extractor")}
    format_of(sampler.config.network).save_pipeline(sampler.public_network(), folder, parts, FRAMES)
    made = StableVideoDiffusionPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("released", [True, False])
def test_trained_run_draws_what_its_exported_pipeline_draws(released, curated, tmp_path):
    """Whether the run took the first frame unscaled, as the release does, or in latents of unit scale."""
    saved_pipeline(tmp_path / "svd")
    chosen = config(tmp_path / "svd", stages={"video": STAGE | {"steps": 2}}, data={"held_out": 0.3})
    slot = {"dropout": 0.1, "released": True} if released else {"dropout": 0.1, "mask": False}
    tree = chosen.model_dump()
    tree["conditioning"]["first_frame"] = slot
    run = train(TrainConfig.model_validate(tree), [str(curated)], tmp_path / "run")
    sampler, pixels = Sampler(run.root), picture()
    assert sampler.run.config.conditioning.motion.percentiles is not None
    asked = dict(steps=4, seed=5, fps=7, motion=90, first_frame=pixels, sampler="euler", guidance=(1.0, 1.0))
    request = sampler.request([""], **asked, **({"augment": 0.05} if released else {}))
    ours = sampler(replace(request, sigma_max=700.0))[0]
    options = OPTIONS | {"noise_aug_strength": 0.05 if released else 0.0}
    exported = export(sampler, tmp_path / "svd", tmp_path / "out")
    theirs = drawn(exported, pixels, seed=5, min_guidance_scale=1.0, max_guidance_scale=1.0, **options)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert len(list((run.stage("video") / "samples").glob("*.mp4"))) == 4  # begun from held-out frames


def test_released_training_is_resumed_to_the_bit(curated, tmp_path):
    saved_pipeline(tmp_path / "svd")
    chosen = config(tmp_path / "svd", stages={"video": STAGE | {"steps": 3}}, data={"held_out": 0.3})
    whole = train(chosen, [str(curated)], tmp_path / "whole")
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        train(chosen, [str(curated)], tmp_path / "cut", stop=lambda: next(asked, True))
    cut = train(chosen, [str(curated)], tmp_path / "cut", resume=True)
    last = [checkpoints.latest(run.stage("video") / "checkpoints").tensors("ema") for run in (whole, cut)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())
    before = Run.open(whole.root).network(
        "video", checkpoints.latest(whole.stage("video") / "checkpoints"), models_of(whole)
    )
    assert not torch.equal(before.concat_in.weight, first_network(chosen, "video", models_of(whole)).concat_in.weight)


def models_of(run):
    return Models(run.codec(), run.config.text.make())


def test_training_noise_is_in_pixels_and_the_latent_is_not_scaled(tmp_path):
    """What the network is given of a frame is the VAE's own mean of the noisy pixels."""
    pipeline, pixels = saved_pipeline(tmp_path), picture()[None]
    models = models_of(SimpleNamespace(codec=lambda: DiffusersCodec(tmp_path), config=config(tmp_path)))
    slot = FirstFrameSlot(dropout=1e-9, released=True, noise_mean=-1.0, noise_std=0.0)
    conditioner = Conditioner([slot], models)
    batch = {"pixels": pixels, "latents": torch.zeros(1, FRAMES, 4, HEIGHT // 8, WIDTH // 8)}
    cond = conditioner(batch, torch.Generator().manual_seed(3))
    noisy = cond["first_frame_pixels"]
    assert abs((noisy - pixels).std() - torch.tensor(-1.0).exp()) < 0.02
    concat = conditioner.encoded(cond)["concat"]
    with torch.no_grad():
        expected = pipeline.vae.encode(noisy).latent_dist.mode()
    assert concat.shape == (1, FRAMES, 4, HEIGHT // 8, WIDTH // 8)
    for frame in range(FRAMES):
        torch.testing.assert_close(concat[:, frame], expected)
    null = conditioner.null(cond)
    assert not conditioner.encoded(null)["concat"].any()
    assert (
        torch.equal(null["vectors"], cond["vectors"]) and null["vectors_mask"].all()
    )  # the noise is given all the same


def test_null_branch_is_the_pipelines(tmp_path):
    """Without frame and token, with all numbers: what guidance leads away from."""
    saved_pipeline(tmp_path)
    chosen = config(tmp_path)
    models = Models(chosen.codec.load(tmp_path), chosen.text.make())
    conditioner = build_conditioner(chosen, "video", models)
    batch = {"pixels": picture()[None], "frames": FRAMES, "augment": torch.tensor([0.05])}
    batch |= {"fps": torch.tensor([7.0]), "motion_bucket": torch.tensor([90.0])}
    cond = conditioner(batch, train=False)
    given, null = conditioner.encoded(cond), conditioner.encoded(conditioner.null(cond, keep=("fps", "motion")))
    assert given["concat"].any() and given["text"].any()
    assert not null["concat"].any() and not null["text"].any()
    assert torch.equal(null["vectors"], given["vectors"]) and null["vectors_mask"].all()
    dropped = conditioner({**batch, "latents": torch.zeros(1, FRAMES, 4, 4, 8)}, torch.Generator().manual_seed(1))
    assert torch.equal(dropped["first_frame_given"], dropped["image_given"])


def test_frame_and_token_are_left_out_together(tmp_path):
    saved_pipeline(tmp_path)
    conditioner = build_conditioner(config(tmp_path), "video", Models(None, None))
    batch = {"pixels": torch.zeros(400, 3, 1, 1), "frames": 2}
    cond = conditioner(batch, torch.Generator().manual_seed(0))
    assert torch.equal(cond["first_frame_given"], cond["image_given"])
    assert 0.05 < 1 - cond["image_given"].float().mean() < 0.15


def test_a_released_stage_wants_a_picture(tmp_path):
    saved_pipeline(tmp_path / "svd")
    sampler = Sampler(run_of_pipeline(tmp_path / "svd", tmp_path / "run", (32, 64)).root)
    with pytest.raises(RunError, match="not trained to do without first_frame: give --image"):
        sampler(sampler.request([""], steps=1, frames=2))
    with pytest.raises(RunError, match="motion buckets: give 0"):
        sampler(sampler.request([""], steps=1, frames=2, motion=300, first_frame=picture()))


def test_lora_of_a_published_folder_draws_the_same_in_the_pipeline(curated, tmp_path):
    """Trained from the folder as it is, exported, loaded by peft into diffusers' UNet; and merged into another pipeline."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import safe_open
    from safetensors.torch import load_file

    pipeline, pixels = saved_pipeline(tmp_path / "svd"), picture()
    stages = {"lora": STAGE | {"steps": 2, "lr": 0.1}}
    chosen = config(
        tmp_path / "svd", stages=stages, data={"held_out": 0.3}, lora={"rank": 2, "targets": ["attention", "temporal"]}
    )
    sampler = Sampler(train(chosen, [str(curated)], tmp_path / "run").root)
    asked = dict(
        steps=4, seed=5, fps=7, motion=90, augment=0.05, first_frame=pixels, sampler="euler", guidance=(1.0, 2.5)
    )
    ours = sampler(replace(sampler.request([""], **asked), sigma_max=700.0))[0]
    scales = dict(min_guidance_scale=1.0, max_guidance_scale=2.5)
    assert (drawn(pipeline, pixels, seed=5, **scales, **OPTIONS) - ours).abs().max() > 1e-3  # it learned something
    merged = drawn(export(sampler, tmp_path / "svd", tmp_path / "merged"), pixels, seed=5, **scales, **OPTIONS)
    torch.testing.assert_close(ours, merged, **CLOSE)
    file = export_lora(sampler.denoiser.network, tmp_path / "lora")
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    settings = {key.removeprefix("unet."): value for key, value in settings.items() if key.startswith("unet.")}
    inject_adapter_in_model(LoraConfig(**settings), pipeline.unet)
    tensors = {name.removeprefix("unet."): value for name, value in load_file(file).items()}
    missing = set_peft_model_state_dict(pipeline.unet, tensors)
    assert not missing.unexpected_keys
    torch.testing.assert_close(ours, drawn(pipeline, pixels, seed=5, **scales, **OPTIONS), **CLOSE)


def test_opening_what_cannot_be_is_one_line(tmp_path):
    saved_pipeline(tmp_path / "svd")
    with pytest.raises(RunError, match=r"--size: 30 x 64 must be multiples of 16"):
        run_of_pipeline(tmp_path / "svd", tmp_path / "run", (30, 64))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(RunError, match="full: is not empty: choose another --out"):
        run_of_pipeline(tmp_path / "svd", tmp_path / "full", (32, 64))


def test_a_published_run_is_evaluated_on_clips_of_ones_own(curated, tmp_path):
    """It has no clips: motion buckets are of those that are given, videos begin with their first frames."""
    saved_pipeline(tmp_path / "svd")
    run = run_of_pipeline(tmp_path / "svd", tmp_path / "run", (HEIGHT, WIDTH))
    with pytest.raises(DataError, match="nothing is held out: give clips with --data"):
        evaluate(run.root)
    sampler = Sampler(run.root)
    index = unseen(sampler, [str(curated)])
    sampler.stage, seen = sampler.stage.model_copy(update={"micro_batch": 1}), set()
    sampler.denoiser.network.register_forward_pre_hook(lambda _, given: seen.add(len(given[0])))
    found = held_out_losses(sampler, index, 0, Silent(), rows=4)
    assert len(index) == 12 and found and all(estimate.n == 4 for estimate, _ in found.values())
    drawn = draw(sampler, ["", ""], torch.zeros(3, FRAMES, 3, HEIGHT, WIDTH), Silent(), steps=1)
    assert drawn.shape == (2, FRAMES, 3, HEIGHT, WIDTH) and drawn.std() > 0.01
    assert max(seen) <= 2  # what training fits into holds this too; guidance may work on both branches at once


@pytest.mark.parametrize("released", [True, False])
def test_first_frames_have_one_scale_whatever_a_network_starts_from(released, tmp_path):
    """The published folder, a run of it, and a stage that gave them the other way: one and the same network."""
    saved_pipeline(tmp_path / "svd")
    here, other = {"dropout": 0.1, "released": True}, {"dropout": 0.1, "mask": False}
    if not released:
        here, other = other, here
    tree = config(tmp_path / "svd", data={"held_out": 0.3}).model_dump()
    tree["conditioning"]["first_frame"] = here
    wanted = TrainConfig.model_validate(tree)
    models = Models(wanted.codec.load(tmp_path), wanted.text.make())
    expected = first_network(wanted, "video", models).concat_in.weight

    run = run_of_pipeline(tmp_path / "svd", tmp_path / "run", (HEIGHT, WIDTH))
    of_run = first_network(wanted.model_copy(update={"start": str(run.root)}), "video", models)
    torch.testing.assert_close(of_run.concat_in.weight, expected)

    tree["stages"] = {
        "first": tree["stages"]["video"] | {"conditioning": tree["conditioning"] | {"first_frame": other}},
        "video": tree["stages"]["video"],
    }
    two = Run.begin(tmp_path / "two", TrainConfig.model_validate(tree), resume=False)
    tensors = {name: value.detach() for name, value in first_network(two.config, "first", models).named_parameters()}
    assert not torch.allclose(tensors["concat_in.weight"], expected)
    saving.save(two.stage("first") / "checkpoints", 1, {"ema": tensors}, {"done": True}, 1)
    torch.testing.assert_close(starting_network(two, "video", models).concat_in.weight, expected)


def test_first_frames_are_decoded_for_as_long_as_the_config_lets_them(curated, tmp_path):
    saved_pipeline(tmp_path / "svd")
    stores = Stores(config(tmp_path / "svd", data={"held_out": 0.3, "decode_seconds": 1e-3}), [str(curated)])
    quick, spec = PoolCodec(), stores.spec("video")
    rates, most = stores.thinning
    with LiveLatents(quick, LetterEncoder(), rates=rates, max_frames=most, workers=1) as store:
        batches = Batches(stores.parts["video"][0], store, spec)
        with contextlib.closing(batches), pytest.raises(DataError, match=r"0\.001 s"):
            batches.batch(0)


def test_lora_whose_stages_would_need_two_networks_is_refused(curated, tmp_path):
    saved_pipeline(tmp_path / "svd")
    one = config(tmp_path / "svd").conditioning.model_dump()
    other = one | {"first_frame": {"dropout": 0.1, "mask": False}}
    stages = {"a": STAGE | {"steps": 1}, "b": STAGE | {"steps": 1, "conditioning": other}}
    with pytest.raises(RunError, match="stage b: is conditioned on other things than stage a, and LoRA"):
        train(config(tmp_path / "svd", stages=stages, lora={"rank": 2}), [str(curated)], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fewer = one | {"first_frame": {"dropout": 0.5, "released": True}}
    stages["b"] = STAGE | {"steps": 1, "conditioning": fewer}
    check_network(config(tmp_path / "svd", stages=stages, lora={"rank": 2}), config(tmp_path / "svd").text.make())
