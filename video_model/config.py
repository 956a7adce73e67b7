"""The config of a training run: typed, with defaults that work, and unknown keys as errors.

A run is a list of stages; each starts from the one before (its EMA). What is recorded in RUN/config.json is the resolved
config, so it says what ran without the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import Field, field_validator, model_validator

from curate.base.section import Section
from video_model.diffusion.parametrisations import PARAMETRISATIONS
from video_model.diffusion.samplers import names_of

PUBLIC_FACTOR = 8  # pixels per latent side of every public VAE in use


def one_of(parts: Sequence[type[Section]]) -> Any:
    """The type of a section that one of the parts is: its `kind` chooses."""
    return Annotated[Union[tuple(parts)], Field(discriminator="kind")] if len(parts) > 1 else parts[0]  # noqa: UP007


# --- latents and texts


class OwnCodec(Section):
    """Space-to-depth, whitened PCA, and a small KL network as its residual, trained in the run."""

    kind: Literal["own"] = "own"
    factor: Literal[2, 4, 8, 16] = Field(8, description="pixels per latent side")
    channels: int = Field(16, ge=1)
    widths: tuple[int, ...] = Field(
        (48, 96), min_length=1, description="channels of the residual networks, fine to coarse"
    )
    steps: int = Field(400, ge=0, description="training steps of the residual networks; 0: PCA alone")
    batch: int = Field(32, ge=1)
    frames: int = Field(2048, ge=16, description="frames that it is trained on")
    temporal_steps: int = Field(0, ge=0, description="steps of the temporal decoder against flicker; 0: none")


class PublicCodec(Section):
    """A public VAE in diffusers' layout: AutoencoderKL, or AutoencoderKLTemporalDecoder. Needs the diffusers extra."""

    kind: Literal["diffusers"] = "diffusers"
    folder: str


class MiniLm(Section):
    """Token states of all-MiniLM-L6-v2; its weights come inside a package."""

    kind: Literal["minilm"] = "minilm"


class OpenClipText(Section):
    """Token states of an open_clip text tower: ViT-H-14 is that of Stable Diffusion 2.1."""

    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-H-14"
    file: str = Field(description="safetensors of the weights")


class T5(Section):
    kind: Literal["t5"] = "t5"
    folder: str = Field(description="a T5 encoder in transformers' layout")


Codec = Annotated[OwnCodec | PublicCodec, Field(discriminator="kind")]
Text = Annotated[MiniLm | OpenClipText | T5, Field(discriminator="kind")]

# --- the network and what it is told


class UNet(Section):
    """The space-time UNet. Levels are as many as `channels`; each but the last halves the latents."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (64, 128)
    layers: int = Field(2, ge=1, description="residual blocks a level")
    attention: tuple[bool, ...] | None = Field(None, description="levels with transformers; unset: all")
    head_dim: int = Field(32, ge=1)
    transformer_layers: int = Field(1, ge=1)
    groups: int = Field(32, ge=1, description="of group normalisation")
    pooled_text: bool = Field(
        False,
        description="tell every residual block the text as one vector too; learns sooner, maps onto no checkpoint",
    )
    frame_index: bool = Field(
        False,
        description="tell a video network the time of each frame together with the text; without it what moves where is "
        "learned late; a video network that has it maps onto no checkpoint",
    )
    epsilon: Literal["sd", "svd"] = Field(
        "svd", description="of norms in residual blocks, as the checkpoint in `start` has it"
    )
    linear_projection: bool = Field(
        True, description="around transformers; false: 1x1 convolutions, as Stable Diffusion 1.x"
    )
    conv_mixing: Literal["alpha", "residual", "dirac"] = Field(
        "alpha", description="temporal convolutions: Stable Video Diffusion's alpha blend, or others of mixing.py"
    )
    attention_mixing: Literal["alpha", "residual", "relative", "joint", "none"] = Field(
        "alpha", description="temporal attention; joint: all positions of all frames, for small latents"
    )

    @model_validator(mode="after")
    def _knows_time(self) -> UNet:
        if self.attention_mixing == "joint" and not self.frame_index:
            raise ValueError("network: attention_mixing joint knows no order of frames by itself: set frame_index")
        return self


class FirstFrame(Section):
    """Image to video: the latent of the first frame beside every frame, and a channel that says whether it is given."""

    dropout: float = Field(0.5, ge=0, le=1)
    noise_mean: float = Field(-3.0, description="ln(sigma) of the noise on it ~ N(mean, std^2), as in the paper")
    noise_std: float = Field(0.5, ge=0)
    mask: bool = Field(
        True, description="the channel; false: as in the released model, which diffusers' pipeline wants"
    )


class Conditioning(Section):
    """What the network is told, and how often each is left out, a sample at a time (for guidance, and to do without it)."""

    text: float = Field(0.15, ge=0, le=1, description="dropout of the text; the paper's is 15%")
    fps: float | None = Field(0.1, ge=0, le=1, description="dropout of the frame rate; null: not told")
    motion: float | None = Field(0.1, ge=0, le=1, description="dropout of the motion score; null: not told")
    first_frame: FirstFrame | None = FirstFrame()


# --- data


class RateRange(Section):
    min: float = Field(gt=0)
    max: float = Field(gt=0)


class Data(Section):
    captions: dict[str, float] = Field(
        {"caption_frame": 0.5, "caption_video": 0.25, "caption_merged": 0.25},
        description="columns, and the probability of each; one that is null gives its share to the others",
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


class Stage(Section):
    """One stage of training.

    train: all; temporal (only the layers that know time); time_embedding; or a list of patterns of parameter names.
    """

    sources: list[str] = Field([], description="more data of this stage: curated folders, image-text Parquet")
    only_sources: bool = Field(False, description="leave --data out: only the sources named here")
    where: str | None = Field(None, description="SQL condition on the rows, e.g. aesthetic_score > 5")
    sizes: list[tuple[int, int]] = Field([(64, 64)], min_length=1, description="height, width in px: aspect buckets")
    frames: list[int] = Field([1], min_length=1, description="duration buckets; 1: images")
    rates: list[float] | RateRange = Field([8.0], description="frames a second that windows are taken at")
    images: float = Field(0.0, ge=0, lt=1, description="share of the batches that are images, in a video stage")
    image_batch: int | None = Field(None, ge=1, description="samples of these; unset: as `batch`")
    noise: Noise = Noise()
    train: Literal["all", "temporal", "time_embedding"] | list[str] = "all"
    steps: int = Field(ge=1)
    batch: int = Field(16, ge=1, description="samples a step, over all workers")
    accumulate: int = Field(1, ge=1, description="parts that a step's batch is worked on in")
    lr: float = Field(1e-4, gt=0)
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    decay: Literal["none", "cosine"] = Field("none", description="of the learning rate, to 1% at the end")
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = Field(1.0, gt=0, description="norm that gradients are clipped to, once a step")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights; 0: none")

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

    @model_validator(mode="after")
    def _parts(self) -> Stage:
        if self.batch % self.accumulate:
            raise ValueError(f"stages: batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        return self

    @property
    def temporal(self) -> bool:
        return max(self.frames) > 1


def rates_of(stage: Stage) -> list[float]:
    """The frame rates of a stage, or the ends of their range, highest first."""
    return stage.rates if isinstance(stage.rates, list) else [stage.rates.max, stage.rates.min]


def as_rates(stage: Stage) -> Any:
    """A stage's rates as `Batches` takes them."""
    return stage.rates if isinstance(stage.rates, list) else stage.rates.model_dump()


class Samples(Section):
    """What is drawn on the way, always from the same prompts and seeds, and what `winnow sample` draws by default."""

    prompts: list[str] = Field([], description="empty: captions of held-out clips")
    count: int = Field(4, ge=1, description="how many, where prompts is empty")
    every: int = Field(500, ge=0, description="steps between them; 0: only at the end of a stage")
    sampler: Literal[tuple(names_of())] = "heun"  # type: ignore[valid-type]
    steps: int = Field(20, ge=1)
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0, description="the paper's is 700, for the noisiest stages")
    guidance: tuple[float, float] = Field((2.0, 2.0), description="at the first and the last frame")
    frames: int | None = Field(None, ge=1, description="unset: the stage's longest")
    fps: float | None = Field(None, gt=0, description="unset: the stage's first rate")


class Loop(Section):
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = Field(False, description="compute activations twice, for memory")
    compile: bool = Field(False, description="torch.compile the network")
    strategy: Literal["ddp", "fsdp"] = Field("ddp", description="fsdp: weights and optimizer spread over the workers")
    threads: int | None = Field(None, ge=1, description="CPU threads of one worker; unset: the cores over the workers")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept in a stage, beside its last")
    log_every: int = Field(10, ge=1)
    evaluate_every: int = Field(500, ge=0, description="steps between losses on held-out clips; 0: only at the end")
    wandb: str | None = Field(None, description="project to log to beside TensorBoard, if wandb is installed")


class TrainConfig(Section):
    seed: int = 0
    codec: Codec = OwnCodec()
    text: Text = MiniLm()
    network: UNet = UNet()
    start: str | None = Field(None, description="UNet in diffusers' layout that the first stage starts from")
    denoiser: one_of(PARAMETRISATIONS) = PARAMETRISATIONS[0]()  # type: ignore[valid-type]
    conditioning: Conditioning = Conditioning()
    data: Data = Data()
    stages: dict[str, Stage] = Field(min_length=1, description="by name, in the order they run in")
    samples: Samples = Samples()
    loop: Loop = Loop()

    @model_validator(mode="after")
    def _order(self) -> TrainConfig:
        seen = False
        for name, stage in self.stages.items():
            if seen and not stage.temporal:
                raise ValueError(f"stages.{name}: an image stage cannot come after a video stage")
            seen = stage.temporal
            for height, width in stage.sizes:
                factor = self.codec.factor if self.codec.kind == "own" else PUBLIC_FACTOR
                step = factor * 2 ** (len(self.network.channels) - 1)
                if height % step or width % step:
                    raise ValueError(f"stages.{name}.sizes: {height} x {width} must be multiples of {step}")
        return self
