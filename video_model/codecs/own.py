"""The small codec as a part of a run: its section of the config, and its training on the run's own frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from video_model.codecs.protocol import Codec, CodecFrames, CodecSection
from video_model.codecs.small import CodecConfig, SmallCodec
from video_model.codecs.small_training import train_codec
from video_model.codecs.temporal_decoder import train_temporal_decoder


class OwnCodec(CodecSection):
    """Space-to-depth, whitened PCA, and a small KL network as its residual, trained in the run."""

    trained: ClassVar[bool] = True

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

    @property
    def shape(self) -> CodecConfig:
        """Raises pydantic's ValidationError, a ValueError."""
        return CodecConfig(factor=self.factor, channels=self.channels, widths=self.widths)

    @property
    def latent_channels(self) -> int:
        return self.shape.channels

    @property
    def wants_windows(self) -> bool:
        return self.temporal_steps > 0

    def skeleton(self) -> SmallCodec:
        codec = SmallCodec(self.shape)
        codec._require_fit = lambda: None  # type: ignore[method-assign]
        return codec

    def load(self, folder: Path) -> Codec:
        return SmallCodec.load(folder)

    def train(
        self, data: CodecFrames, seed: int, progress: Callable[[str, int, int], None]
    ) -> tuple[SmallCodec, dict[str, Any]]:
        progress("frames for the codec", 0, 1)
        made = SmallCodec(self.shape, seed).to(data.worker.device)
        found = train_codec(
            made, data.frames(self.frames), self.steps, seed, batch=self.batch,
            progress=lambda step, steps, loss: progress("codec", step, steps), worker=data.worker,
        )  # fmt: skip
        report: dict[str, Any] = {"image": {"psnr_start": found.psnr_start, "psnr": found.psnr, "steps": found.steps}}
        if self.temporal_steps:
            made, temporal = train_temporal_decoder(
                made, data.windows(max(16, self.frames // 8)), self.temporal_steps, seed,
                progress=lambda step, steps, loss: progress("temporal decoder", step, steps), worker=data.worker,
            )  # fmt: skip
            report["temporal"] = asdict(temporal)
        return made, report
