"""Layouts of public checkpoints that networks come from and go to. To add one: its class, in a file here, in the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

from video_model.networks import NetworkSection, UNet
from video_model.public.configs import WeightsError
from video_model.public.lora import PublicLora, export_lora, import_lora
from video_model.public.weights import export_pipeline, export_unet, import_unet


class PublicFormat(Protocol):
    """section: of the networks that have this layout. What it loads has `config`, a pydantic model of its shape."""

    section: ClassVar[type[NetworkSection]]

    def load(self, source: str | Path) -> Any:
        """The network of a checkpoint. Raises WeightsError."""

    def save(self, network: Any, folder: str | Path) -> Path:
        """Writes it; where it is. Raises WeightsError."""

    def save_pipeline(self, network: Any, folder: str | Path, companions: dict[str, Path], frames: int) -> Path:
        """Writes a pipeline that others can run. Raises WeightsError."""

    def load_lora(self, source: str | Path, network: Any) -> PublicLora:
        """The LoRA of a file, for a network that it fits. Raises WeightsError."""

    def save_lora(self, network: Any, folder: str | Path) -> Path:
        """Writes a network's LoRA alone; where it is. Raises WeightsError."""


class DiffusersUNet:
    """UNets in diffusers' layout, and the original files of Stable Diffusion."""

    section: ClassVar[type[NetworkSection]] = UNet

    def load(self, source: str | Path) -> Any:
        return import_unet(source)

    def save(self, network: Any, folder: str | Path) -> Path:
        return export_unet(network, Path(folder) / "unet")

    def save_pipeline(self, network: Any, folder: str | Path, companions: dict[str, Path], frames: int) -> Path:
        return export_pipeline(network, folder, **companions, frames=frames)

    def load_lora(self, source: str | Path, network: Any) -> PublicLora:
        return import_lora(source, network)

    def save_lora(self, network: Any, folder: str | Path) -> Path:
        return export_lora(network, folder)


FORMATS: list[PublicFormat] = [DiffusersUNet()]


def format_of(section: NetworkSection) -> PublicFormat:
    """The layout for networks of a section. Raises WeightsError where there is none."""
    for known in FORMATS:
        if isinstance(section, known.section):
            return known
    kinds = ", ".join(known.section.model_fields["kind"].default for known in FORMATS)
    raise WeightsError(
        f"network.kind {section.kind}: has no public layout (there is one for {kinds}): leave `start` and `winnow weights` "
        "to those"
    )
