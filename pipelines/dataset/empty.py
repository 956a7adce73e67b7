"""Columns that no clip of a dataset has a value of, because its config left out the model that fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["NoModel", "empty_columns", "why_empty"]

FILLED_BY = {  # section of a config -> key of a model in it -> the columns that need it
    "appearance": {
        "aesthetic": ("aesthetic_score",),
        "quality": ("technical_quality",),
        "nsfw": ("nsfw_score",),
    },
    "captions": {
        "frame": ("caption_frame", "similarity_frame"),
        "video": ("caption_video", "similarity_video"),
        "merge": ("caption_merged", "similarity_merged"),
    },
}
EMBEDDED = ("image_embedding", "similarity_frame", "similarity_video", "similarity_merged")


@dataclass(frozen=True)
class NoModel:
    """Why a column is empty. pack: the models that the config names. needs: what a config that fills it has."""

    pack: str
    needs: str

    def __str__(self) -> str:
        return f"no model for it ran: pack {self.pack}; annotate with a config that has {self.needs}"


def empty_columns(config: Mapping[str, Any]) -> dict[str, NoModel]:
    """Column -> why it is empty, of a dataset that was annotated with this config. A section that the config does not
    have at all, as in a dataset of an older version, says nothing."""
    pack = config.get("pack", "unnamed")
    found = {
        column: NoModel(pack, f"{section}.{key}")
        for section, keys in FILLED_BY.items()
        if section in config
        for key, columns in keys.items()
        if (config[section] or {}).get(key) is None
        for column in columns
    }
    if "embedder" in config and config["embedder"] is None:
        found |= dict.fromkeys(EMBEDDED, NoModel(pack, "an embedder"))
    return found


def why_empty(config: Mapping[str, Any]) -> dict[str, str]:
    """The same as sentences, for messages about filters."""
    return {column: str(reason) for column, reason in empty_columns(config).items()}
