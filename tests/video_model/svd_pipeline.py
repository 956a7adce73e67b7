"""A StableVideoDiffusionPipeline of tiny random weights, saved as the released one is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.video_model.networks import randomised

HEIGHT, WIDTH, FRAMES = 32, 64, 3


def saved_pipeline(folder: Path, seed: int = 0, **unet: Any) -> Any:
    """The pipeline; its folder has unet/, vae/, image_encoder/, feature_extractor/ and scheduler/."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from video_model.public.weights import SCHEDULER

    torch.manual_seed(seed)
    settings = dict(
        in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, num_attention_heads=(2, 4),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16, addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, num_frames=FRAMES,
    )  # fmt: skip
    network = UNetSpatioTemporalConditionModel(**{**settings, **unet})
    down = ("DownEncoderBlock2D",) * 4
    vae = AutoencoderKLTemporalDecoder(down_block_types=down, block_out_channels=(32,) * 4, layers_per_block=1)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=32,
        image_size=224, projection_dim=network.config.cross_attention_dim,
    )  # fmt: skip
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        unet=randomised(network, seed).eval(),
        scheduler=EulerDiscreteScheduler.from_config(SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(seed: int = 1, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """[3, H, W] in [-1, 1] of 8-bit values, smooth, so that its edges are not all that there is."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 5, 7, generator=draw)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=True)[0]
    return (large.clamp(0, 1) * 255).round() / 127.5 - 1


def drawn(pipeline: Any, pixels: torch.Tensor, seed: int, **options: Any) -> torch.Tensor:
    """[T, 3, H, W] in [-1, 1] by the pipeline, with the noise that `generate` draws from the same seed."""
    from PIL import Image

    height, width = pixels.shape[1:]
    shown = Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    noise = torch.randn((FRAMES, 4, height // 8, width // 8), generator=torch.Generator().manual_seed(seed))
    made = pipeline(
        shown, height=height, width=width, num_frames=FRAMES, output_type="pt", latents=noise[None],
        generator=torch.Generator().manual_seed(0), **options,
    ).frames[0]  # fmt: skip
    return made * 2 - 1
