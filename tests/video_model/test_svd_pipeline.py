"""Stable Video Diffusion's published folder in, and out: the same frames as diffusers' pipeline, number for number."""

import pytest
import torch

from tests.video_model.svd_pipeline import FRAMES, HEIGHT, WIDTH, drawn, picture, saved_pipeline
from video_model.config import TrainConfig
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.generate import Request, generate
from video_model.diffusion.slots import Models
from video_model.training.build import build_conditioner, first_network

CLOSE = dict(rtol=0, atol=1e-4)
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
