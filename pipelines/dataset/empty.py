"""Columns without values in a dataset, because its config has no model that fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.parts import Parts

__all__ = ["NoModel", "empty_columns", "why_empty"]


@dataclass(frozen=True)
class NoModel:
    """Why a column is empty. pack: of the config. needs: the key that a config has to set to fill it."""

    pack: str
    needs: str

    def __str__(self) -> str:
        return f"no model for it ran: pack {self.pack}; annotate with a config that has {self.needs}"


def empty_columns(config: Mapping[str, Any], parts: Parts | None = None) -> dict[str, NoModel]:
    """Column -> why it is empty, of a dataset with this config. Sections that the config lacks, as in datasets of older
    versions, are ignored."""
    pack = config.get("pack", "unnamed")
    found = {}
    for column in (parts or Parts()).columns:
        for key in column.models:
            section, _, field = key.partition(".")
            if section in config and (not (chosen := config[section]) or (field and chosen.get(field) is None)):
                found[column.name] = NoModel(pack, key if field else f"an {key}")
    return found


def why_empty(config: Mapping[str, Any]) -> dict[str, str]:
    """`empty_columns` with the reasons as text, for messages about filters."""
    return {column: str(reason) for column, reason in empty_columns(config).items()}
