"""The config of a job: typed, with defaults that work, and unknown keys as errors.

A config is a YAML file (`configs/*.yaml`), or the name of one that ships with Winnow; `--set a.b=value` overrides a key.
What is recorded in `dataset.json` is the resolved config, so it says what ran without the file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curate.selection.filters import Filter, SelectionError, parse_filters
from pipelines.formats.options import Export
from pipelines.typed_yaml import ConfigError, find, known, override, read, validate

FULL_HD = 1920 * 1080


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- the pass: what happens while a source is decoded, once


class Decode(Section):
    unit_seconds: float = Field(300.0, gt=0, description="long videos are worked on in stretches of about this length")
    open_seconds: float = Field(
        30.0,
        gt=0,
        description="a file that is not opened in this time, and a second for each 10 MB, is left for a second try",
    )
    timeout_seconds: float = Field(60.0, gt=0, description="time limit of a decode, beside that for its footage ...")
    timeout_per_second: float = Field(
        10.0,
        ge=0,
        description="... for each second of 1080p footage; more for larger pictures. Twice: recorded as failed",
    )
    memory_gb: float = Field(4.0, gt=0, description="a decode that needs more memory, twice, is recorded as failed")
    max_pixels: int = Field(8192 * 4320, gt=0, description="largest width x height that is opened")
    threads: int = Field(1, ge=1, description="FFmpeg threads of one decode")
    isolate: bool = Field(True, description="decode in a child process, so that a crash costs one unit")

    def time_limit(self, seconds: float, pixels: int = FULL_HD) -> float:
        """Seconds that a decode of so much footage may take. pixels: width x height."""
        return self.timeout_seconds + self.timeout_per_second * seconds * max(1.0, pixels / FULL_HD)

    @property
    def cut_limits(self) -> dict[str, Any]:
        """Limits of cutting one clip, which may decode its source from a keyframe far before it."""
        seconds = max(self.timeout_seconds, self.time_limit(self.unit_seconds) / 2)
        return {"max_pixels": self.max_pixels, "timeout_seconds": seconds, "memory_gb": self.memory_gb}


class Shots(Section):
    detector: Literal["cascade", "transnetv2", "whole"] = Field(
        "cascade", description="whole: a file is one shot, for footage that is cut already"
    )
    min_seconds: float = Field(0.2, gt=0, description="shorter shots are no clips; what is too short, a selection says")
    max_seconds: float = Field(10.0, gt=0, description="longer shots are divided evenly")
    jumps: bool = Field(
        True, description="cuts within a scene end a shot too: a clip that holds one shows a leap in time"
    )

    @model_validator(mode="after")
    def _tells_jumps(self) -> Shots:
        if not self.jumps and self.detector == "transnetv2":
            raise ValueError("jumps: false needs detector: cascade; transnetv2 cannot tell jumps from other cuts")
        return self


class Motion(Section):
    fps: float = Field(2.0, gt=0, description="flow is computed between frames sampled at this rate")
    size: int = Field(96, ge=32, description="shorter side in px that flow is computed at")


class Stills(Section):
    size: int = Field(360, ge=64, description="shorter side in px, at most")
    quality: int = Field(90, ge=1, le=100, description="JPEG quality")


# --- models, by role; `kind` names the adapter


class HubModel(Section):
    """A model whose weights are a local folder, or in the hub's cache."""

    folder: str | None = Field(None, description="local copy of the weights, looked in first")
    allow_download: bool = Field(False, description="fetch missing weights from the hub")
    device: str = Field("auto", description="auto: the GPU if there is one")


class EasyOcr(Section):
    kind: Literal["easyocr"] = "easyocr"
    size: int = Field(640, ge=64, description="longer side in px that text is looked for at")


class RapidOcr(Section):
    kind: Literal["rapidocr"] = "rapidocr"
    size: int = Field(640, ge=64)


class Conse(Section):
    kind: Literal["conse"] = "conse"


class OpenClip(HubModel):
    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-L-14"
    pretrained: str = "openai"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(32, ge=1)


class Laion(Section):
    kind: Literal["laion"] = "laion"
    head: Literal["linear", "mlp"] = "linear"
    allow_download: bool = False
    file: str | None = None


class Brisque(Section):
    kind: Literal["brisque"] = "brisque"


class OpenNsfw(Section):
    kind: Literal["open_nsfw"] = "open_nsfw"


class Tags(Section):
    kind: Literal["tags"] = "tags"


class Coca(HubModel):
    kind: Literal["coca"] = "coca"
    model: str = "coca_ViT-L-14"
    pretrained: str = "mscoco_finetuned_laion2b_s13b_b90k"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(16, ge=1)


class Facts(Section):
    kind: Literal["facts"] = "facts"


class VideoBlip(HubModel):
    kind: Literal["videoblip"] = "videoblip"
    model: str = "kpyu/video-blip-opt-2.7b-ego4d"
    frames: int = Field(8, ge=1)
    prompt: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(4, ge=1)


class VideoChat(HubModel):
    kind: Literal["video_chat"] = "video_chat"
    model: str = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    frames: int = Field(8, ge=1)
    prompt: str | None = None
    show: Literal["images", "video"] = "images"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    batch: int = Field(2, ge=1)
    max_tokens: int = Field(80, ge=1)


class SmolLm(Section):
    kind: Literal["smollm2"] = "smollm2"
    agreement: float = Field(0.15, ge=-1, le=1, description="captions are merged only above this MiniLM cosine")


class TransformersLm(HubModel):
    kind: Literal["transformers"] = "transformers"
    model: str = "mistralai/Mistral-7B-Instruct-v0.2"
    max_tokens: int = Field(96, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = Field(8, ge=1)


class Endpoint(Section):
    kind: Literal["endpoint"] = "endpoint"
    url: str
    model: str
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    max_tokens: int = Field(96, ge=1)
    timeout: float = Field(60.0, gt=0)
    retries: int = Field(4, ge=0)
    concurrency: int = Field(8, ge=1)

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password)
        except ValueError:  # e.g. a bracket that is not closed
            good = False
        if not good:
            raise ValueError(
                "captions.merge.url must start with http:// or https:// and name a host, without a user or key in it"
            )
        return value


Text = Annotated[EasyOcr | RapidOcr, Field(discriminator="kind")]
Embedder = Annotated[Conse | OpenClip, Field(discriminator="kind")]
Merge = Annotated[SmolLm | TransformersLm | Endpoint, Field(discriminator="kind")]


class Appearance(Section):
    aesthetic: Laion | None = None
    quality: Brisque | None = Brisque()
    nsfw: OpenNsfw | None = OpenNsfw()


class Captions(Section):
    frame: Annotated[Tags | Coca, Field(discriminator="kind")] | None = Tags()
    video: Annotated[Facts | VideoBlip | VideoChat, Field(discriminator="kind")] | None = Facts()
    merge: Merge | None = SmolLm()


class Prefilter(Section):
    """Clips outside these bounds are not captioned. They stay, with the reason. Empty: every clip is captioned."""

    min: dict[str, float] = {}
    max: dict[str, float] = {}


# --- what is done with the scores


class Execution(Section):
    executor: Literal["ray", "inline"] = "ray"
    workers: int | None = Field(None, ge=1, description="processes; unset: one a core, as memory allows")
    threads: int = Field(1, ge=1, description="threads of the models in one worker")
    gpus: float = Field(
        0.0, ge=0, description="GPUs of one model worker; above 0 each model stage has a pool of its own"
    )
    address: str | None = Field(None, description="Ray cluster, e.g. auto or ray://head:10001")
    shard_clips: int = Field(1000, ge=1, description="a shard is committed at this many clips")
    shard_seconds: float = Field(
        30.0, gt=0, description="... or after this time, whichever is first: what a kill can cost"
    )


class Config(Section):
    pack: str = Field("embedded", description="name of the set of models, recorded with the scores")
    decode: Decode = Decode()
    shots: Shots = Shots()
    motion: Motion = Motion()
    stills: Stills = Stills()
    text: Text = EasyOcr()
    embedder: Embedder | None = Field(Conse(), description="null: no embedding, and no similarity of captions")
    appearance: Appearance = Appearance()
    captions: Captions = Captions()
    prefilter: Prefilter = Prefilter()
    selection: str | dict | list = Field({}, description="filters: a preset's name, a mapping, or a list of steps")
    export: Export = Export()
    execution: Execution = Execution()

    @field_validator("selection")
    @classmethod
    def _filters(cls, value: Any) -> Any:
        try:
            parse_filters(value)
        except SelectionError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _head(self) -> Config:
        if self.appearance.aesthetic and not self.embedder:
            raise ValueError(
                "appearance.aesthetic: needs the embedder that it was trained on: give one, or set it to null"
            )
        return self

    @property
    def filters(self) -> list[Filter]:
        return parse_filters(self.selection)


# --- loading


def load(name: str = "quickstart", overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """A config by file name, or by the name of a shipped one. ConfigError names the key and the fix."""
    return read(Config, find(name), overrides)


def resolve(tree: dict, origin: str) -> Config:
    return validate(Config, tree, origin)


def recorded(tree: dict, origin: str) -> Config:
    """A config that a dataset was made with, maybe by an older Winnow: keys that this one has not are passed over."""
    return validate(Config, known(Config, tree), origin)


__all__ = ["Config", "ConfigError", "load", "override", "recorded", "resolve"]
