"""The config of a training run: typed, with defaults that work, and unknown keys as errors.

A run is a list of stages; each starts from the one before (its EMA). What is recorded in RUN/config.json is the resolved
config, which is complete without the file. The sections that choose a part (codec, text, network, denoiser, conditioning;
weighting and optimizer of a stage) are the parts themselves, from the lists that `TrainingParts` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator, model_validator

from curate.base.section import Section
from video_model.diffusion.samplers import names_of
from video_model.diffusion.slots import Slot
from video_model.networks.lora import LoraSection
from video_model.training_parts import PARTS, TrainingParts, one_of

if TYPE_CHECKING:
    import numpy as np


class Conditioning(Section):
    """What the network is conditioned on: a key for each slot, see diffusion/slots. A number is the slot's dropout, the share
    of the samples that are trained without it (for guidance, and to do without it); null turns a slot off."""

    def slots(self, temporal: bool) -> list[Slot]:
        """Those of an image stage, or of a video stage."""
        found = [getattr(self, name) for name in type(self).model_fields]
        return [slot for slot in found if slot is not None and (temporal or not slot.videos_only)]

    @property
    def context_dim(self) -> int | None:
        """Channels of what slots other than the text add to attend to; None: nothing."""
        return next((slot.context_dim for slot in self.slots(temporal=True) if slot.context_dim), None)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the numbers that a video network embeds, in order."""
        return tuple(name for slot in self.slots(temporal=True) for name in slot.numbers)

    @property
    def columns(self) -> dict[str, str]:
        """Name of a slot -> the column of the clips that it is read from."""
        return {slot.name: slot.column for slot in self.slots(temporal=True) if slot.column}


def keys_of(slots: Sequence[type[Slot]]) -> type[Conditioning]:
    """The section with a key for each of the slots."""
    fields: dict[str, Any] = {
        slot.name: (slot | None if slot.optional else slot, slot() if slot.default else None) for slot in slots
    }
    return create_model("Conditioning", __base__=Conditioning, __doc__=Conditioning.__doc__, **fields)


# --- data


class RateRange(Section):
    min: float = Field(gt=0)
    max: float = Field(gt=0)


class Data(Section):
    captions: dict[str, float] = Field(
        {"caption_frame": 0.5, "caption_video": 0.25, "caption_merged": 0.25},
        description="columns, and the probability of each; one that is null gives its share to the others; a source with "
        "none of them may have caption, text, TEXT or txt",
    )
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the videos kept for evaluation")
    cache: bool = Field(True, description="latents and text states are computed once; false: as they are needed")
    cache_dtype: Literal["float16", "float32"] = "float16"
    frames_per_clip: int = Field(256, ge=1, description="at most so many frames of a clip are cached")
    workers: int = Field(1, ge=1, description="processes that decode")
    decode_seconds: float = Field(120.0, gt=0, description="a clip that decodes longer is skipped")
    small_buckets: Literal["error", "merge"] = Field(
        "error", description="a bucket with fewer clips than a batch: an error, or join the nearest one"
    )


class Noise(Section):
    """ln(sigma) ~ N(mean, std^2) in training; for flow matching this is a logit-normal time."""

    mean: float = -1.2
    std: float = Field(1.0, gt=0)


class TrainingStage(Section):
    """One stage of training.

    after: the stage whose result it starts from; unset: the one before it. conditioning: of this stage, in place of the
    run's; what the stage before was not conditioned on starts without effect. train: all; temporal (only the layers that know time); time_embedding; or a list of patterns of parameter names.
    """

    after: str | None = Field(None, description="the earlier stage that it starts from; unset: the one before it")
    conditioning: keys_of(PARTS.slots) | None = Field(  # type: ignore[valid-type]
        None, description="of this stage, in place of the run's"
    )
    sources: list[str] = Field(
        [], description="more data of this stage: curated folders, image-text Parquet, WebDataset shards"
    )
    only_sources: bool = Field(False, description="leave --data out: only the sources named here")
    where: str | None = Field(None, description="SQL condition on the rows, e.g. aesthetic_score > 5")
    sizes: list[tuple[int, int]] = Field([(64, 64)], min_length=1, description="height, width in px: aspect buckets")
    frames: list[int] = Field([1], min_length=1, description="duration buckets; 1: images")
    rates: list[float] | RateRange = Field(
        [8.0], description="frames a second that windows are taken at: the nearest frames to those times"
    )
    images: float = Field(0.0, ge=0, lt=1, description="share of the batches that are images, in a video stage")
    image_batch: int | None = Field(None, ge=1, description="samples of these; unset: as `batch`")
    noise: Noise = Noise()
    weighting: one_of(PARTS.weightings) = PARTS.weightings[0]()  # type: ignore[valid-type]
    train: Literal["all", "temporal", "time_embedding"] | list[str] = "all"
    steps: int = Field(ge=1)
    batch: int = Field(16, ge=1, description="samples a step, over all workers")
    accumulate: int = Field(1, ge=1, description="parts that a step's batch is worked on in, at least")
    micro_batch: int | Literal["probe"] | None = Field(
        None,
        description="samples of one forward pass on one worker, at most; probe: what fits into its memory, found at the "
        "start of the stage; unset: as `accumulate` says",
    )
    lr: float = Field(1e-4, gt=0)
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    decay: Literal["none", "cosine", "linear", "wsd"] = Field(
        "none", description="of the learning rate after the warm-up; wsd: even, then linear in the last `decay_share`"
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="of the steps: the last ones, in which wsd decays")
    decay_to: float = Field(0.01, ge=0, le=1, description="share of `lr` that is left at the end of a decay")
    optimizer: one_of(PARTS.optimizers) = PARTS.optimizers[0]()  # type: ignore[valid-type]
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(1.0, gt=0, description="norm that gradients are clipped to, once a step")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights, for one step; 0: none")
    ema_every: int = Field(1, ge=1, description="steps between updates of the average, each with the decay of them all")
    ema_device: Literal["same", "cpu"] = Field(
        "same",
        description="where the average is kept; cpu: none of a GPU's memory, and a copy of the weights an update",
    )

    @field_validator("frames")
    @classmethod
    def _frames(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("stages.frames: must be 1 (images) or more")
        if 1 in value and len(value) > 1:
            raise ValueError(
                "stages.frames: 1 beside other lengths: use `images` for a share of images in a video stage"
            )
        return value

    @field_validator("micro_batch")
    @classmethod
    def _micro_batch(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("stages.micro_batch: must be 1 or more, probe, or null")
        return value

    @model_validator(mode="after")
    def _parts(self) -> TrainingStage:
        if self.batch % self.accumulate:
            raise ValueError(f"stages: batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        return self

    @property
    def temporal(self) -> bool:
        return max(self.frames) > 1


def rates_of(stage: TrainingStage) -> list[float]:
    """The frame rates of a stage, or the ends of their range, highest first."""
    return stage.rates if isinstance(stage.rates, list) else [stage.rates.max, stage.rates.min]


def as_rates(stage: TrainingStage) -> Any:
    """A stage's rates as `Batches` takes them."""
    return stage.rates if isinstance(stage.rates, list) else stage.rates.model_dump()


class Samples(Section):
    """What is drawn on the way, always from the same prompts and seeds, and what `winnow sample` draws by default."""

    prompts: list[str] = Field([], description="empty: captions of held-out clips")
    count: int = Field(4, ge=1, description="how many, where prompts is empty")
    images: list[str] = Field(
        [],
        description="pictures that image-to-video stages start from, one a prompt; empty: first frames of held-out clips, "
        "where a stage cannot do without",
    )
    every: int = Field(500, ge=0, description="steps between them; 0: only at the end of a stage")
    sampler: Literal[tuple(names_of(PARTS.samplers))] = "heun"  # type: ignore[valid-type]
    steps: int = Field(20, ge=1)
    sigma_min: float | None = Field(None, gt=0, description="unset: the denoiser's own, e.g. 0.002 for edm")
    sigma_max: float | None = Field(
        None,
        gt=0,
        description="unset: the denoiser's own: edm 80 (the paper's noisiest stages want 700), v and epsilon 14.61, flow 999",
    )
    guidance: tuple[float, float] = Field((2.0, 2.0), description="at the first and the last frame")
    frames: int | None = Field(None, ge=1, description="unset: the stage's longest")
    fps: float | None = Field(None, gt=0, description="unset: the stage's first rate")


class Loop(Section):
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="that the network is trained, evaluated and sampled in; weights stay float32"
    )
    frozen_precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the text encoder and a public codec; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    memory_gb: float | None = Field(
        None, gt=0, description="of one worker, that `micro_batch: probe` may fill, in 10^9 bytes; unset: what is free"
    )
    checkpointing: bool = Field(False, description="compute activations twice, for memory")
    compile: bool | Literal["blocks"] = Field(
        False, description="torch.compile the network; blocks: each of its layers, alike ones once: a faster start"
    )
    strategy: Literal["ddp", "fsdp"] = Field("ddp", description="fsdp: weights and optimizer spread over the workers")
    threads: int | None = Field(None, ge=1, description="CPU threads of one worker; unset: the cores over the workers")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    background_saves: bool = Field(
        True,
        description="write checkpoints while the training goes on, from a copy in memory; false: the training waits",
    )
    keep: int = Field(2, ge=1, description="checkpoints kept in a stage, beside its last")
    log_every: int = Field(10, ge=1)
    evaluate_every: int = Field(500, ge=0, description="steps between losses on held-out clips; 0: only at the end")
    wandb: str | None = Field(None, description="project to log to beside TensorBoard, if wandb is installed")


class TrainConfig(Section):
    """parts: what the sections were chosen from; see `train_config`."""

    parts: ClassVar[TrainingParts] = PARTS

    seed: int = 0
    codec: one_of(PARTS.codecs) = PARTS.codecs[0]()  # type: ignore[valid-type]
    text: one_of(PARTS.encoders) = PARTS.encoders[0]()  # type: ignore[valid-type]
    network: one_of(PARTS.networks) = PARTS.networks[0]()  # type: ignore[valid-type]
    start: str | None = Field(
        None,
        description="what the first stage starts from: a UNet or pipeline as published, a finished run, or a stage of one "
        "(RUN/stages/NAME)",
    )
    lora: LoraSection | None = None
    denoiser: one_of(PARTS.parametrisations) = PARTS.parametrisations[0]()  # type: ignore[valid-type]
    conditioning: keys_of(PARTS.slots) = keys_of(PARTS.slots)()  # type: ignore[valid-type]
    data: Data = Data()
    stages: dict[str, TrainingStage] = Field(min_length=1, description="by name, in the order they run in")
    samples: Samples = Samples()
    loop: Loop = Loop()

    @model_validator(mode="after")
    def _order(self) -> TrainConfig:
        names = list(self.stages)
        for name, stage in self.stages.items():
            if not self.text.reads and any(slot.name == "text" for slot in self.slots_of(name)):
                raise ValueError(f"stages.{name}: text.kind {self.text.kind} needs conditioning.text: null")
            if stage.after is not None and stage.after not in names[: names.index(name)]:
                raise ValueError(f"stages.{name}.after: {stage.after} is no stage before it")
            before = self.before(name)
            if before is not None and self.stages[before].temporal and not stage.temporal:
                raise ValueError(f"stages.{name}: an image stage cannot come after a video stage ({before})")
            for height, width in stage.sizes:
                step = self.codec.factor * self.network.multiple
                if height % step or width % step:
                    raise ValueError(f"stages.{name}.sizes: {height} x {width} must be multiples of {step}")
        return self

    @model_validator(mode="after")
    def _small(self) -> TrainConfig:
        if self.lora and not self.start:
            raise ValueError("lora: needs weights to add to: name them in start")
        if self.lora and len({stage.temporal for stage in self.stages.values()}) > 1:
            raise ValueError("lora: its stages must be all of images or all of videos, as the network of start is one")
        for name, stage in self.stages.items():
            if self.loop.strategy == "fsdp" and stage.ema_device == "cpu":
                raise ValueError(
                    f"stages.{name}.ema_device: cpu goes with loop.strategy ddp; with fsdp the average is spread already"
                )
            if self.loop.strategy == "fsdp" and not stage.optimizer.spreads:
                raise ValueError(
                    f"stages.{name}.optimizer: {stage.optimizer.kind} does not work on weights that are spread: choose "
                    "adamw, or loop.strategy ddp"
                )
        return self

    def before(self, name: str) -> str | None:
        """The stage that a stage starts from; None: it is the first."""
        names = list(self.stages)
        place = names.index(name)
        return self.stages[name].after or (names[place - 1] if place else None)

    def conditioning_of(self, name: str) -> Conditioning:
        return self.stages[name].conditioning or self.conditioning

    def slots_of(self, name: str) -> list[Slot]:
        """What a stage is conditioned on."""
        return self.conditioning_of(name).slots(self.stages[name].temporal)

    @property
    def columns(self) -> list[str]:
        """Columns of the clips that some stage is conditioned on."""
        return list(
            dict.fromkeys(column for name in self.stages for column in self.conditioning_of(name).columns.values())
        )

    def fitted(self, numbers: Callable[[str], np.ndarray]) -> TrainConfig:
        """With what slots learn from the run's clips; numbers: of a column."""
        changes: dict[str, Any] = {"conditioning": _fitted(self.conditioning, numbers)}
        changes["stages"] = {
            name: stage.model_copy(update={"conditioning": _fitted(stage.conditioning, numbers)})
            if stage.conditioning is not None
            else stage
            for name, stage in self.stages.items()
        }
        return self.model_copy(update=changes)


def _fitted(conditioning: Conditioning, numbers: Callable[[str], np.ndarray]) -> Conditioning:
    slots = [slot for slot in conditioning.slots(temporal=True) if slot.column]
    return conditioning.model_copy(update={slot.name: slot.fitted(numbers(slot.column)) for slot in slots})


def train_config(extra_parts: Iterable[Any] = ()) -> type[TrainConfig]:
    """The class of configs that can also choose parts of one's own: what a plugin of `winnow train` adds.

    extra_parts: subclasses of CodecSection, EncoderSection, NetworkSection, Parametrisation, Slot, Weighting or
    OptimizerSection, and functions, which are samplers. Whoever reads a config or opens a run that names them needs this class: `typed_yaml.read(schema, path)`,
    `Run.open(root, schema)`, `Sampler(root, schema=schema)`. A slot is off where a config does not name it.
    """
    extra = list(extra_parts)
    if not extra:
        return TrainConfig
    parts = PARTS.plus(extra)
    samples = create_model("Samples", __base__=Samples, sampler=(Literal[tuple(names_of(parts.samplers))], "heun"))
    slots = keys_of(parts.slots)
    stage = create_model(
        "TrainingStage",
        __base__=TrainingStage,
        __doc__=TrainingStage.__doc__,
        conditioning=(slots | None, None),
        weighting=(one_of(parts.weightings), PARTS.weightings[0]()),
        optimizer=(one_of(parts.optimizers), PARTS.optimizers[0]()),
    )
    grown = create_model(
        "TrainConfig",
        __base__=TrainConfig,
        codec=(one_of(parts.codecs), PARTS.codecs[0]()),
        text=(one_of(parts.encoders), PARTS.encoders[0]()),
        network=(one_of(parts.networks), PARTS.networks[0]()),
        denoiser=(one_of(parts.parametrisations), PARTS.parametrisations[0]()),
        conditioning=(slots, slots()),
        samples=(samples, samples()),
        stages=(dict[str, stage], TrainConfig.model_fields["stages"]),
    )
    grown.parts = parts
    return grown
