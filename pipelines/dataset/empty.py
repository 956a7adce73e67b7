"""Columns that no clip of a dataset has a value of, because its config left out the model that fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.parts import Parts

__all__ = ["NoModel", "empty_columns", "why_empty"]


@dataclass(frozen=True)
class NoModel:
    """Why a column is empty. pack: the models that the config names. needs: what a config that fills it has."""

    pack: str
    needs: str

    def __str__(self) -> str:
        return f"no model for it ran: pack {self.pack}; annotate with a config that has {self.needs}"


def empty_columns(config: Mapping[str, Any], parts: Parts | None = None) -> dict[str, NoModel]:
    """Column -> why it is empty, of a dataset that was annotated with this config. A section that the config does not
    have at all, as in a dataset of an older version, says nothing."""
    pack = config.get("pack", "unnamed")
    found = {}
    for column in (parts or Parts()).columns:
        for key in column.models:
            section, _, field = key.partition(".")
            if section in config and (not (chosen := config[section]) or (field and chosen.get(field) is None)):
                found[column.name] = NoModel(pack, key if field else f"an {key}")
    return found


def why_empty(config: Mapping[str, Any]) -> dict[str, str]:
    """The same as sentences, for messages about filters."""
    return {column: str(reason) for column, reason in empty_columns(config).items()}
