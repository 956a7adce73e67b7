"""A trained run, loaded to sample from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_model.codecs import placed
from video_model.config import TrainConfig
from video_model.diffusion.denoiser import Denoiser
from video_model.diffusion.generate import Request, generate
from video_model.diffusion.schedules import Watch
from video_model.diffusion.slots import Models
from video_model.errors import RunError
from video_model.memory import memory_for
from video_model.networks.lora import merge
from video_model.precision import frozen_dtype
from video_model.training.build import build_conditioner, frames_unscaled
from video_model.training.run import Run

FIELDS = {field.name for field in fields(Request)}


class Sampler:
    """A run, loaded to sample from: the average of its newest stage, or of `stage`. Raises RunError, CodecError.

    On a GPU it works in the precision that the run was trained in.

    schema: the config's class, where the run was trained with parts of one's own (see config.train_config).
    """

    def __init__(
        self,
        root: str | Path,
        stage: str | None = None,
        device: str | torch.device = "cpu",
        schema: type[TrainConfig] = TrainConfig,
    ) -> None:
        self.run = Run.open(root, schema)
        self.name, self.checkpoint = self.run.newest(stage)
        self.config: TrainConfig = self.run.config
        self.stage = self.config.stages[self.name]
        device, loop = torch.device(device), self.config.loop
        frozen = frozen_dtype(loop.frozen_precision, device)
        self.codec, self.encoder = placed(self.run.codec(), device, frozen), self.config.text.make(device, frozen)
        self.models = Models(self.codec, self.encoder, frozen)
        network = self.run.network(self.name, self.checkpoint, self.models).to(device)
        precision = "float32" if device.type == "cpu" else loop.precision  # a CPU gains nothing by less
        self.denoiser = Denoiser(network, self.config.denoiser, precision)
        self.conditioner = build_conditioner(self.config, self.name, self.models)

    def request(self, prompts: Sequence[str], **options: Any) -> Request:
        """A request with the run's defaults for all that is not named (or None); options: fields of Request, or slots.

        Raises RunError.
        """
        request = default_request(self.config, self.name, prompts, **options)
        trained = {slot.name for slot in self.conditioner.slots}
        for slot in self.config.parts.slots:
            if slot.strict and request.conditions.get(slot.name) is not None and slot.name not in trained:
                raise RunError(
                    f"{self.run.root}: stage {self.name} was not trained with {slot.name}: leave {slot.option} out"
                )
        if request.frames > 1 and not self.stage.temporal:
            raise RunError(f"{self.run.root}: stage {self.name} is an image stage: --frames must be 1")
        return request

    @property
    def at_once(self) -> int | None:
        """Rows of one forward pass that the run was trained with; None: as many as there are."""
        chosen = self.checkpoint.facts.get("micro_batch") or self.stage.micro_batch
        return None if chosen == "probe" else chosen

    def public_network(self) -> Any:
        """A copy of the network as public pipelines drive it: it takes the first frame's latent unscaled; LoRA is in the weights."""
        network = merge(copy.deepcopy(self.denoiser.network))
        frames_unscaled(network, self.config, self.name, self.codec, back=True)
        return network

    def __call__(self, request: Request, watch: Watch | None = None) -> Tensor:
        height, width = request.size
        what = f"drawing {len(request.prompts)} videos of {request.frames} frames of {height}x{width} px"
        with memory_for(what, "fewer at once (--prompt), fewer --frames, or a smaller --size"):
            return generate(self.denoiser, self.conditioner, request, self.config.parts.samplers, watch)


def default_request(config: TrainConfig, name: str, prompts: Sequence[str], **options: Any) -> Request:
    """The request of a config's `samples` section, for a stage; options that are not None take its place. Raises RunError."""
    stage, samples = config.stages[name], config.samples
    rates = stage.rates
    rate = samples.fps or (rates[0] if isinstance(rates, list) else (rates.min + rates.max) / 2)
    values: dict[str, Any] = {
        "frames": min(samples.frames or max(stage.frames), max(stage.frames)),
        "size": stage.sizes[0],
        "fps": rate if stage.temporal else None,
        "sampler": samples.sampler,
        "steps": samples.steps,
        "sigma_min": samples.sigma_min,
        "sigma_max": samples.sigma_max,
        "guidance": samples.guidance,
        "seed": config.seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    known = [name for slot in config.parts.slots for name in dict.fromkeys((slot.name, *slot.numbers))]
    for key in given:
        if key not in FIELDS and key not in known:
            raise RunError(f"{key}: no conditioning slot has this name: choose from {', '.join(known)}")
    conditions = {key: value for key, value in given.items() if key not in FIELDS}
    asked = {key: value for key, value in given.items() if key in FIELDS}
    return Request(prompts=list(prompts), **values | {"conditions": conditions} | asked)
