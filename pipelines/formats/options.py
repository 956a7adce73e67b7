"""The config's section `export`: how the bytes of a kept clip are made, and in which format they are written.

The choices of `export.format`, and a section for each format that has options, are those of the list of formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from curate.base.section import Section
from pipelines.formats.format import Format
from pipelines.formats.formats import FORMATS
from pipelines.typed_yaml import ConfigError

__all__ = ["Export", "export_section", "size_of"]


def size_of(text: str) -> int:
    """Bytes of `256MB`, `1 GiB` or `4096`; at least 1."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B)?", text.strip())
    if not found:
        raise ConfigError(f"size {text!r}: write a number and a unit, e.g. 256MB")
    unit = found[2] or "B"
    base = 1024 if "i" in unit else 1000
    size = int(float(found[1]) * base ** ("BKMGT".index(unit[0].upper())))
    if size < 1:
        raise ConfigError(f"size {text!r}: must be greater than 0, e.g. 256MB")
    return size


class ExportOptions(Section):
    """How the bytes of a kept clip are made. With size, fps or codec unset, and a keyframe that fits, they are copied."""

    formats: ClassVar[Sequence[type[Format]]] = ()

    snap: bool = True
    trim: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="largest share of a clip's frames that a copy at keyframes may lose; else it is encoded",
    )
    size: int | None = Field(None, ge=16, description="shorter side in px")
    fps: float | None = Field(None, gt=0)
    codec: Literal["h264"] | None = None
    crf: int = Field(18, ge=0, le=51)
    seed: int = Field(0, description="order of the clips in the shards")
    shard_size: str = Field("256MB", description="about what a shard takes")
    format: str = ""

    @field_validator("shard_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> str:
        value = str(value)  # YAML makes a number of 4096
        try:
            size_of(value)
        except ConfigError as error:
            raise ValueError(f"export.shard_size: {error}") from None
        return value

    @property
    def shard_bytes(self) -> int:
        return size_of(self.shard_size)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `curate.export.span.ClipForm`."""
        return self.model_dump(include={"snap", "trim", "size", "fps", "codec", "crf"})

    @property
    def chosen(self) -> Format:
        """The format, with its options."""
        kind = next(kind for kind in self.formats if kind.name == self.format)
        return kind(getattr(self, kind.name, None))


def export_section(formats: Sequence[type[Format]]) -> type[ExportOptions]:
    """The section with `format`, one of these, and `export.<name>` for each of them that has options. Raises ConfigError."""
    names = tuple(kind.name for kind in formats)
    if taken := [name for name in names if names.count(name) > 1 or name in ExportOptions.model_fields]:
        raise ConfigError(f"export.format {taken[0]}: the name of a plugin's format is taken: choose another one")
    fields: dict[str, Any] = {
        "format": (
            Literal[names],
            Field(names[0], description="; ".join(f"{f.name}: {f.description}" for f in formats)),
        )
    }
    fields |= {kind.name: (kind.Options, kind.Options()) for kind in formats if kind.Options.model_fields}
    section = create_model("Export", __base__=ExportOptions, __doc__=ExportOptions.__doc__, **fields)
    section.formats = tuple(formats)
    return section


Export = export_section(FORMATS)
