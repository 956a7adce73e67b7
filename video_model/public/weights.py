"""Public checkpoints in and out, with safetensors and JSON alone.

In: diffusers' UNet2DConditionModel and UNetSpatioTemporalConditionModel, and the original single files of Stable
Diffusion 1.x, 2.x and Stable Video Diffusion. Out: what diffusers loads.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_model.networks.lora import merged_state
from video_model.networks.unet import SpaceTimeUNet, inflate
from video_model.networks.unet_config import UNetConfig
from video_model.public.configs import (
    PUBLIC_VECTORS,
    WeightsError,
    config_from_diffusers,
    config_from_tensors,
    config_to_diffusers,
)
from video_model.public.names import diffusers_name, original_name
from video_model.published import NotPublished, part_folder, squeezed, tensors_of, weight_files

__all__ = ["WeightsError", "export_pipeline", "export_unet", "import_unet"]

PREFIX = "model.diffusion_model."
STEM = "diffusion_pytorch_model"
NAME = f"{STEM}.safetensors"

SCHEDULER = {  # of the released image-to-video model
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}


def import_unet(
    source: str | Path, temporal: bool = False, heads: int | tuple[int, ...] | None = None
) -> SpaceTimeUNet:
    """The network of a public checkpoint, in float32.

    `source` is a folder with config.json and safetensors (one file or sharded, or the fp16 variant), a pipeline folder with
    such a `unet`,
    or an original single file, whose `heads` per level are guessed by the usual convention if not given. `temporal`
    makes a video network of an image network, by inflation. Raises WeightsError, which names the tensor or the setting
    that does not fit.
    """
    source = Path(source)
    try:
        tensors = tensors_of([source], PREFIX) if source.is_file() else {}
        if tensors or (source.is_file() and not (source.parent / "config.json").exists()):
            config, name_of = config_from_tensors(_checked(tensors, source), heads, source), original_name
        else:
            folder = part_folder(source.parent if source.is_file() else source, "unet")
            config, name_of = config_from_diffusers(_json(folder / "config.json"), folder), diffusers_name
            tensors = tensors_of(weight_files(folder, STEM))
    except NotPublished as error:
        raise WeightsError(str(error)) from error
    network = _filled(config, tensors, name_of, source)
    return inflate(network) if temporal and not config.temporal else network


def export_unet(network: SpaceTimeUNet, folder: str | Path, dtype: torch.dtype | None = None, frames: int = 25) -> Path:
    """Writes config.json and safetensors that diffusers loads: a space-time or an image UNet, as the network is one.

    `frames` is what a pipeline makes by default. Raises WeightsError if diffusers has no such network.
    """
    folder = Path(folder)
    settings = config_to_diffusers(network.config, frames)
    tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in _public_tensors(network).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / NAME, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def export_pipeline(
    network: SpaceTimeUNet,
    folder: str | Path,
    vae: Any,
    image_encoder: Any,
    feature_extractor: Any,
    scheduler: Any = None,
    frames: int = 25,
) -> Path:
    """Writes a StableVideoDiffusionPipeline: image to video, from the network and its companions.

    `vae` (AutoencoderKLTemporalDecoder), `image_encoder` (CLIPVisionModelWithProjection), `feature_extractor`
    (CLIPImageProcessor) and `scheduler` (None: the released model's Euler scheduler) are folders, which are copied, or
    objects with `save_pretrained`. Raises WeightsError if the pipeline would not drive this network.
    """
    config = network.config
    if not config.temporal:
        raise WeightsError("a video pipeline needs a temporal network: inflate the image network first")
    if config.concat_channels != config.in_channels:
        raise WeightsError(
            f"StableVideoDiffusionPipeline appends the first frame's latent, {config.in_channels} channels, and this "
            f"network takes {config.concat_channels}: train it with conditioning.first_frame.mask: false"
        )
    folder = Path(folder)
    export_unet(network, folder / "unet", frames=frames)
    parts = {
        "vae": ("diffusers", "AutoencoderKLTemporalDecoder", vae),
        "image_encoder": ("transformers", "CLIPVisionModelWithProjection", image_encoder),
        "feature_extractor": ("transformers", "CLIPImageProcessor", feature_extractor),
        "scheduler": ("diffusers", "EulerDiscreteScheduler", scheduler),
    }
    index = {"_class_name": "StableVideoDiffusionPipeline", "unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}
    for name, (library, kind, part) in parts.items():
        index[name] = [library, kind]
        if part is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
        elif hasattr(part, "save_pretrained"):
            part.save_pretrained(folder / name)
        elif Path(part).is_dir():
            shutil.copytree(part, folder / name, dirs_exist_ok=True)
        else:
            raise WeightsError(f"{name} must be a folder or an object with save_pretrained (got {part!r})")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def _filled(
    config: UNetConfig, tensors: dict[str, Tensor], name_of: Callable[[str, UNetConfig], str], source: Path
) -> SpaceTimeUNet:
    """A network of this config, with the tensors in it; every tensor has a place and every place a tensor."""
    with torch.device("meta"):  # shapes alone: the tensors are in memory once, those of the checkpoint
        network = SpaceTimeUNet(config)
    unused, ours = set(tensors), {}
    if config.concat_channels:
        whole = name_of("conv_in.weight", config)
        _expect(tensors, whole, (config.channels[0], config.in_channels + config.concat_channels, 3, 3), source)
        own, appended = tensors[whole].float().split([config.in_channels, config.concat_channels], 1)
        ours = {"conv_in.weight": own.clone(), "concat_in.weight": appended.clone()}
        unused.discard(whole)
    for name, place in network.state_dict().items():
        if name in ours:
            continue
        public = name_of(name, config)
        _expect(tensors, public, squeezed(place.shape), source)
        # A copy, for the original may be the mapped file, which somebody may write anew
        ours[name] = tensors[public].to(torch.float32, copy=True).reshape(place.shape)
        unused.discard(public)
    if unused:
        raise WeightsError(
            f"{source}: {len(unused)} tensors have no place in the network that the config describes, the first is "
            f"{min(unused)} {list(tensors[min(unused)].shape)}: is config.json that of another checkpoint?"
        )
    network.load_state_dict(ours, assign=True)
    return network.to(memory_format=torch.channels_last)


def _expect(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], source: Path) -> None:
    if name not in tensors:
        raise WeightsError(
            f"{source}: {name} {list(shape)} is missing, which the network of its config needs: is config.json that of "
            "another checkpoint, or a shard missing?"
        )
    if squeezed(tensors[name].shape) != squeezed(shape):
        raise WeightsError(
            f"{source}: {name} is {list(tensors[name].shape)}, and the network of its config needs {list(shape)}: "
            "is config.json that of another checkpoint?"
        )


def _public_tensors(network: SpaceTimeUNet) -> dict[str, Tensor]:
    """The network's tensors as diffusers names and shapes them; LoRA is in the weights."""
    config, public = network.config, {}
    tensors = merged_state(network)
    if config.concat_channels:
        tensors["conv_in.weight"] = torch.cat([tensors["conv_in.weight"], tensors.pop("concat_in.weight")], 1)
    if config.temporal:
        tensors.update(_vector_tensors(network))
        for name in list(tensors):
            if name.endswith((".time.conv1.weight", ".time.conv2.weight")):
                tensors[name] = tensors[name].unsqueeze(-1)  # [O, I, 3, 1, 1]
            # A plain residual is the blend in which the temporal path has all the weight
            if name.endswith((".time.conv1.bias", ".time.position.0.bias")):
                factor = name.rsplit(".time.", 1)[0] + ".time.mix_factor"
                tensors.setdefault(factor, torch.tensor([-50.0]))
    elif not config.linear_projection:
        for name in tensors:
            if name.endswith((".attention.proj_in.weight", ".attention.proj_out.weight")):
                tensors[name] = tensors[name][:, :, None, None]
    for name, tensor in tensors.items():
        public[diffusers_name(name, config)] = tensor
    return public


def _vector_tensors(network: SpaceTimeUNet) -> dict[str, Tensor]:
    """The embedding of the three numbers that the public model knows; one that this network does not know has no effect."""
    config, emb, width = network.config, network.emb_width, network.config.vector_width
    weight = network.conv_in.weight
    if not config.vectors:
        shapes = {"0.weight": (emb, 3 * width), "0.bias": (emb,), "2.weight": (emb, emb), "2.bias": (emb,)}
        return {f"vector_embedding.{name}": weight.new_zeros(shape) for name, shape in shapes.items()}
    first = weight.new_zeros(emb, 3, width)
    known = network.vector_embedding[0].weight.detach().view(emb, len(config.vectors), width)
    for place, name in enumerate(PUBLIC_VECTORS):
        if name in config.vectors:
            first[:, place] = known[:, config.vectors.index(name)]
    return {"vector_embedding.0.weight": first.flatten(1)}


def _checked(unet: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The UNet's share of an original single file."""
    if not unet:
        raise WeightsError(
            f"{source} has no tensor named {PREFIX}*, and no config.json beside it: give a folder in diffusers' layout "
            "or an original checkpoint of Stable Diffusion 1.x, 2.x or Stable Video Diffusion"
        )
    return unet


def _json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read as JSON ({error})") from error
