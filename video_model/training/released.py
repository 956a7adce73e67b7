"""A run made of a published pipeline: nothing is trained, and all that is done with a run can be done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from video_model.config import TrainConfig, train_config
from video_model.diffusion.slots import Models
from video_model.errors import RunError
from video_model.public.configs import WeightsError, config_from_diffusers
from video_model.training.build import first_network
from video_model.training.run import Run
from video_model.training.storage.saving import save

STAGE = "released"


def run_of_pipeline(folder: str | Path, out: str | Path, size: tuple[int, int] | None = None) -> Run:
    """The run `out` of a StableVideoDiffusionPipeline's folder, with one stage, `released`, that is done.

    size: height, width in px; None: 576 x 1024, of the release. Raises RunError, WeightsError, CodecError,
    WeightsMissing.
    """
    folder, out = Path(folder), Path(out)
    settings = _json(folder / "unet" / "config.json")
    if settings.get("_class_name") != "UNetSpatioTemporalConditionModel":
        raise RunError(
            f"{folder}: is not the folder of a StableVideoDiffusionPipeline: its unet is a {settings.get('_class_name')}"
        )
    try:
        config = config_of(folder, settings, size)
    except ValidationError as error:
        raise RunError(
            error.errors()[0]["msg"].removeprefix("Value error, ").replace("stages.released.sizes", "--size")
        ) from None
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out}: is not empty: choose another --out")
    run = Run.begin(out, config, resume=False)
    models = Models(run.codec(), config.text.make())
    network = first_network(config, STAGE, models)
    tensors = {name: value.detach() for name, value in network.named_parameters()}
    save(run.stage(STAGE) / "checkpoints", 1, {"ema": tensors}, {"stage": STAGE, "done": True, "seed": 0}, 1)
    return run


def config_of(folder: Path, settings: dict[str, Any], size: tuple[int, int] | None = None) -> TrainConfig:
    """What a training config of this pipeline is; settings: of its UNet."""
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    height, width = size or (576, 1024)
    return train_config().model_validate(
        {
            "start": str(folder.absolute()),
            "codec": {"kind": "diffusers", "folder": str(folder.absolute())},
            "text": {"kind": "none"},
            "network": network_of(settings),
            "conditioning": {
                "text": None,
                "fps": 0.0,
                "motion": {"dropout": 0.0, "buckets": True},
                "first_frame": {"dropout": 0.1, "released": True},
                "image": {"dropout": 0.1, "folder": str(folder.absolute())},
            },
            "stages": {
                STAGE: {
                    "frames": [settings.get("num_frames", 14)],
                    "sizes": [[height, width]],
                    "rates": [7],
                    "steps": 1,
                }
            },
            "samples": {
                "sampler": "euler",
                "steps": 25,
                "sigma_min": scheduler.get("sigma_min") or 0.002,
                "sigma_max": scheduler.get("sigma_max") or 700.0,
                "guidance": [1.0, 3.0],
            },
        }
    )


def network_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The section `network` for the config.json of a UNet in diffusers' layout."""
    shape = config_from_diffusers(settings, Path("unet"))
    return {
        "kind": "unet",
        "channels": shape.channels,
        "layers": shape.layers,
        "attention": shape.attention,
        "heads": shape.heads,
        "transformer_layers": shape.transformer_layers,
        "groups": shape.norm_groups,
        "epsilon": shape.epsilon,
        "linear_projection": shape.linear_projection,
        "vector_width": shape.vector_width,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({error}): give the pipeline's folder, as it is published"
        ) from None
